"""How far each partition is in Redis, kept beside the data it speaks of.

Offsets committed to Kafka say what was read; they cannot know that Redis came back empty, or as it
was an hour ago. Positions in Redis go wherever the data goes, so a difference between the two shows
at the next write, and the reader goes back to what Redis has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import redis

from sinks.keys import DEFAULT_KEYS, FORM, Keys

_LUA_ADVANCE = """
local moved = {}
for i = 2, #ARGV, 3 do
  local held = redis.call('HGET', ARGV[1], ARGV[i]) or ''
  if held == ARGV[i + 1] then
    if ARGV[i + 2] ~= held then redis.call('HSET', ARGV[1], ARGV[i], ARGV[i + 2]) end
  else
    table.insert(moved, ARGV[i])
    table.insert(moved, held)
  end
end
return moved
"""


class Partition(NamedTuple):
    """A partition of a Kafka topic."""

    topic: str
    number: int

    @property
    def name(self) -> str:
        """`topic/number`."""
        return f"{self.topic}/{self.number}"


@dataclass(frozen=True, slots=True)
class Step:
    """A partition's way from one position to the next; `before` is None where Redis has none."""

    partition: Partition
    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True)
class RedisPositions:
    """Reads and advances positions; `client` must be made with `decode_responses=False`."""

    client: redis.Redis
    keys: Keys = DEFAULT_KEYS

    def read(self, partitions: Sequence[Partition]) -> dict[Partition, int | None]:
        """Return the position of each partition, None where Redis has none."""
        if not partitions:
            return {}
        held = self.client.hmget(self.keys.positions, [p.name for p in partitions])
        return {p: _position(v) for p, v in zip(partitions, held, strict=True)}

    def advance(self, steps: Sequence[Step]) -> dict[Partition, int | None]:
        """Advance every partition that stands where the step begins.

        Return those that do not, with where they are: Redis has lost data, or another reader has
        been here. A step of no length only looks.
        """
        if not steps:
            return {}
        arguments = [
            text
            for step in steps
            for text in (step.partition.name, _text(step.before), _text(step.after))
        ]
        script = self.client.register_script(_LUA_ADVANCE)
        answer: list[bytes] = script(args=[self.keys.positions, *arguments])
        by_name: Mapping[bytes, Partition] = {s.partition.name.encode(): s.partition for s in steps}
        pairs = zip(answer[::2], answer[1::2], strict=True)
        return {by_name[name]: _position(held) for name, held in pairs}

    def claim(self, source: str) -> str | None:
        """Make Redis hold what the Kafka cluster `source` says, in our form.

        What another cluster wrote is removed, for its versions cannot be compared with ours, and
        so is what was written in another form, which nobody reads. Return whose that was.
        """
        ours, held = f"{FORM} {source}", self.client.get(self.keys.source)
        if held == ours.encode():
            return None
        if held is not None:
            self._clear()
        self.client.set(self.keys.source, ours)
        return held.decode() if isinstance(held, bytes) else held

    def _clear(self) -> None:
        for key in self.client.scan_iter(match=f"{self.keys.prefix}:*", count=1_000):
            self.client.unlink(key)


def _position(held: bytes | str | None) -> int | None:
    return int(held) if held else None


def _text(position: int | None) -> str:
    return "" if position is None else str(position)
