"""The open actions in Redis: newest first, found by id, gone when withdrawn."""

from dataclasses import dataclass

import polars as pl
import redis

from sinks.keys import DEFAULT_KEYS, Keys
from sinks.redis_kpis import Written

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class RedisActions:
    """Keeps the open actions; the id of an action makes a second delivery harmless.

    `client` must be made with `decode_responses=False`. At most `limit` of the newest, by event
    time, are listed, and each lives for `ttl_ms` after it was written.
    """

    client: redis.Redis
    keys: Keys = DEFAULT_KEYS
    limit: int = 10_000
    ttl_ms: int = 30 * _DAY_MS

    def write(self, records: pl.DataFrame) -> Written:
        """Write actions, one a row in the columns of contract `action`, in the topic's order.

        Raises redis.RedisError; nothing is written then.
        """
        if records.is_empty():
            return Written()
        newest = records.unique("action_id", keep="last", maintain_order=True)
        rows = newest.select(
            "action_id", "status", "event_time", json=pl.struct(pl.all()).struct.json_encode()
        )
        pipe = self.client.pipeline(transaction=True)
        for action_id, status, event_time_ms, json in rows.iter_rows():
            pipe.set(self.keys.action(action_id), json, px=self.ttl_ms)
            if status == "OPEN":
                pipe.zadd(self.keys.open_actions, {action_id: event_time_ms})
            else:
                pipe.zrem(self.keys.open_actions, action_id)
        pipe.zremrangebyrank(self.keys.open_actions, 0, -self.limit - 1)
        pipe.publish(self.keys.actions_changed, "\n".join(rows["action_id"]))
        pipe.execute()
        return Written(rows.height, records.height - rows.height)
