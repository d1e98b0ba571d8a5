"""From Kafka to Redis: read, write, advance, commit; in this order, so that nothing is skipped.

What happens if it ends between the steps: before the write nothing has changed; after the write the
same records come again and change nothing, for they carry no higher version; after the advance the
offsets committed to Kafka lag behind, which only monitoring sees. An advance follows several writes
if these are quick.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

import redis
import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from schemas.codec import Codec, Decoded
from schemas.headers import Headers, schema_key
from sinks.keys import DEFAULT_KEYS, Keys
from sinks.positions import Partition, RedisPositions, Step
from sinks.redis_actions import RedisActions
from sinks.redis_kpis import COLUMNS, Piece, RedisKpis, Written

#: Whoever is far behind takes many versions of one record at once, and writes the newest alone:
#: the more there are, the fewer of them. Tens of megabytes, as many as the client fetches ahead.
BATCH_RECORDS = 32_000
#: So many are decoded while Redis writes those before them.
PIECE_RECORDS = 2_000
_POLL_S = 0.25
_ADVANCE_S = 0.2
_BEAT_S = 1.0
_RETRY_S = (0.2, 0.5, 1.0, 2.0)
_LOG_EVERY_S = 30.0

log = structlog.get_logger()


class Record(NamedTuple):
    """A record of a topic as it was read."""

    partition: Partition
    offset: int
    key: bytes | None
    value: bytes | None
    append_time_ms: int
    headers: Headers


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the records of one batch of one topic."""

    written: Written
    rejected: int = 0


class Target(Protocol):
    """Writes the records of one topic; asked twice, it changes nothing the second time."""

    def write(self, records: Sequence[Record]) -> Outcome:
        """Write the records or raise redis.RedisError."""


@dataclass(frozen=True, slots=True)
class KpiTarget:
    """KPI records to Redis."""

    codec: Codec
    sink: RedisKpis

    def write(self, records: Sequence[Record]) -> Outcome:
        """Write the newest record of each key, tombstones and what cannot be decoded left aside.

        Versions rise with the offsets of a key: what is older is superseded, and nobody looks at it
        unless what came after it is refused.
        """
        left = [r for r in records if r.key is not None and r.value is not None]
        count, applied, rejected = len(left), 0, 0
        while left:
            refused: list[Record] = []
            newest = {(r.partition, r.key): r for r in left}
            written = self.sink.write_pieces(self._decoded(_few_first(newest.values()), refused))
            applied += written.applied
            rejected += len(refused)
            older = {(r.partition, r.key): r.offset for r in refused}
            left = [r for r in left if older and r.offset < older.get((r.partition, r.key), 0)]
        return Outcome(Written(applied, count - applied - rejected), rejected)

    def _decoded(self, records: Sequence[Record], refused: list[Record]) -> Iterator[Piece]:
        """Yield what can be decoded, some at a time; collect the others."""
        for start in range(0, len(records), PIECE_RECORDS):
            piece = records[start : start + PIECE_RECORDS]
            decoded = _decode(self.codec, piece, COLUMNS)
            refused += [piece[each.index] for each in decoded.rejected]
            sound = [piece[i] for i in decoded.index.tolist()]
            names = [cast(bytes, record.key).decode() for record in sound]
            yield names, [self._framed(record) for record in sound], decoded.frame

    def _framed(self, record: Record) -> bytes:
        """Return the value with its schema's id: no header goes along with it."""
        value = cast(bytes, record.value)
        if not record.headers or schema_key(record.headers) is None:
            return value
        return self.codec.encode(self.codec.decode(value, record.headers))


@dataclass(frozen=True, slots=True)
class ActionTarget:
    """Actions to Redis."""

    codec: Codec
    sink: RedisActions

    def write(self, records: Sequence[Record]) -> Outcome:
        """Write the actions that can be decoded."""
        decoded = _decode(self.codec, [r for r in records if r.value is not None])
        return Outcome(self.sink.write(decoded.frame), len(decoded.rejected))


@dataclass(slots=True)
class Progress:
    """Running account of a delivery, for metrics; counts since the start of the process."""

    consumed: dict[str, int] = field(default_factory=dict)
    applied: dict[str, int] = field(default_factory=dict)
    superseded: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    rewound: int = 0
    lag_records: int = 0
    write_seconds: float = 0.0
    redis_since: float | None = None
    assigned: int = 0

    def add(self, topic: str, records: int, outcome: Outcome) -> None:
        """Add what became of a batch of one topic."""
        for counts, more in (
            (self.consumed, records),
            (self.applied, outcome.written.applied),
            (self.superseded, outcome.written.superseded),
            (self.rejected, outcome.rejected),
        ):
            counts[topic] = counts.get(topic, 0) + more


class Delivery:
    """Keeps Redis as the topics say, for as long as it runs.

    `consumer_config` is librdkafka's and names the group; `targets` say who writes which topic;
    `cluster` tells clusters apart. Clocks are arguments for the tests' sake.
    """

    def __init__(
        self,
        consumer_config: Mapping[str, Any],
        targets: Mapping[str, Target],
        client: redis.Redis,
        keys: Keys = DEFAULT_KEYS,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.progress = Progress()
        self._config = consumer_config
        self._targets = targets
        self._client = client
        self._keys = keys
        self._positions = RedisPositions(client, self._keys)
        self._now_ms = now_ms
        self._stop = threading.Event()
        self._at: dict[Partition, int | None] = {}
        self._reached: dict[Partition, int] = {}
        self._advanced_at = -_BEAT_S

    def stop(self) -> None:
        """Ask `run` to end after the batch in hand; may be called from any thread."""
        self._stop.set()

    def ready(self) -> tuple[bool, str]:
        """Return whether it delivers, and in a few words why not."""
        if self.progress.redis_since is not None:
            return False, "redis does not answer"
        if not self.progress.assigned:
            return False, "no partitions assigned yet"
        return True, f"{self.progress.lag_records} records behind"

    def run(self) -> None:
        """Deliver until `stop`; outages of Redis and of the broker are waited for.

        Raises KafkaException where waiting cannot help (wrong credentials for the group, say), and
        redis.ResponseError where Redis refuses what it is asked.
        """
        consumer = Consumer(
            {**self._config, "error_cb": _broker_trouble}, logger=logging.getLogger(__name__)
        )
        try:
            self._claim(consumer)
            consumer.subscribe(
                list(self._targets), on_assign=self._on_assign, on_revoke=self._on_revoke
            )
            while not self._stop.is_set():
                self._step(consumer)
        finally:
            consumer.close()

    def _step(self, consumer: Consumer) -> None:
        # The first as soon as it is there: asked for more, the client would wait for more.
        messages = consumer.consume(1, timeout=_POLL_S)
        if messages:
            messages += consumer.consume(BATCH_RECORDS - 1, timeout=0)
        records = _records(messages)
        if records:
            started = time.perf_counter()
            if not self._persist(lambda: self._write(records)):
                return
            self.progress.write_seconds += time.perf_counter() - started
            self._reached |= {r.partition: r.offset + 1 for r in records}
        # A position that lags behind costs a repetition, and every one a question of Redis.
        pause_s = _ADVANCE_S if self._reached else _BEAT_S
        if time.monotonic() - self._advanced_at >= pause_s:
            self._advance(consumer)

    def _claim(self, consumer: Consumer) -> None:
        cluster: str | None = None
        while cluster is None and not self._stop.is_set():
            try:
                cluster = consumer.list_topics(timeout=5.0).cluster_id
            except KafkaException as problem:
                log.warning("broker_does_not_answer", problem=problem.args[0].str())
                self._stop.wait(_RETRY_S[-1])
        source = cluster or ""

        def claim() -> None:
            held = self._positions.claim(source)
            if held is not None:
                log.warning("redis_held_other_records", held=held, removed=True, cluster=source)

        self._persist(claim)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        held: dict[Partition, int | None] = {}

        def read() -> None:
            held.update(self._positions.read([Partition(p.topic, p.partition) for p in partitions]))

        self._persist(read)
        self._at.update(held)
        for p in partitions:
            p.offset = _offset(held.get(Partition(p.topic, p.partition)))
        consumer.assign(partitions)
        self.progress.assigned = len(self._at)
        log.info("partitions_assigned", positions={p.name: at for p, at in sorted(held.items())})

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for p in partitions:
            self._at.pop(Partition(p.topic, p.partition), None)
            self._reached.pop(Partition(p.topic, p.partition), None)
        self.progress.assigned = len(self._at)

    def _write(self, records: Sequence[Record]) -> None:
        by_topic: dict[str, list[Record]] = {}
        for record in records:
            by_topic.setdefault(record.partition.topic, []).append(record)
        for topic, batch in by_topic.items():
            self.progress.add(topic, len(batch), self._targets[topic].write(batch))

    def _advance(self, consumer: Consumer) -> None:
        after = self._reached
        steps = [Step(p, at, after.get(p, at)) for p, at in self._at.items()]
        moved: dict[Partition, int | None] = {}
        if not self._persist(lambda: moved.update(self._positions.advance(steps))):
            return
        for step in steps:
            if step.partition not in moved:
                self._at[step.partition] = step.after
        self._reached = {}
        self._rewind(consumer, moved)
        self._commit(consumer, [p for p in after if p in self._at and p not in moved])
        self._sign_of_life(consumer)

    def _rewind(self, consumer: Consumer, moved: Mapping[Partition, int | None]) -> None:
        if not moved:
            return
        self.progress.rewound += len(moved)
        log.warning("redis_moved", to={p.name: held for p, held in sorted(moved.items())})
        # Redis came back empty: whose records it holds must be written down again, too.
        self._claim(consumer)
        for partition, held in moved.items():
            self._at[partition] = held
            consumer.seek(TopicPartition(partition.topic, partition.number, _offset(held)))

    def _commit(self, consumer: Consumer, partitions: Sequence[Partition]) -> None:
        offsets = [TopicPartition(p.topic, p.number, _offset(self._at[p])) for p in partitions]
        if offsets:
            consumer.commit(offsets=offsets, asynchronous=True)

    def _sign_of_life(self, consumer: Consumer) -> None:
        self.progress.lag_records = sum(_lag(consumer, p, at) for p, at in self._at.items())
        beat = {"beat_time": self._now_ms(), "lag_records": self.progress.lag_records}
        self._persist(lambda: self._client.set(self._keys.beat, json.dumps(beat)))
        self._advanced_at = time.monotonic()

    def _persist(self, work: Callable[[], object]) -> bool:
        """Do the work as often as it takes; return False if it was stopped before it was done."""
        attempts, logged = 0, -_LOG_EVERY_S
        while not self._stop.is_set():
            try:
                work()
            except redis.ResponseError as problem:
                if not isinstance(problem, redis.exceptions.ReadOnlyError):
                    raise
            except redis.RedisError as problem:
                self.progress.redis_since = self.progress.redis_since or time.time()
                if time.monotonic() - logged >= _LOG_EVERY_S:
                    log.warning("redis_does_not_answer", problem=str(problem), attempts=attempts)
                    logged = time.monotonic()
            else:
                if attempts:
                    log.info("redis_answers_again", attempts=attempts)
                self.progress.redis_since = None
                return True
            self._stop.wait(_RETRY_S[min(attempts, len(_RETRY_S) - 1)])
            attempts += 1
        return False


def _few_first(records: Collection[Record]) -> list[Record]:
    """Return the records by how many there are of their scope: a few hold nobody up for long."""
    scopes: dict[bytes, list[Record]] = {}
    for record in records:
        scopes.setdefault(cast(bytes, record.key).partition(b"|")[0], []).append(record)
    return [record for scope in sorted(scopes.values(), key=len) for record in scope]


def _decode(
    codec: Codec, records: Sequence[Record], wanted: Sequence[str] | None = None
) -> Decoded:
    decoded = codec.columns(
        [r.value for r in records],
        [r.append_time_ms for r in records],
        [r.headers for r in records],
        wanted,
    )
    for rejected in decoded.rejected:
        at = records[rejected.index]
        log.error(
            "record_refused",
            topic=at.partition.topic,
            partition=at.partition.number,
            offset=at.offset,
            reason=rejected.reason,
            problem=rejected.message,
        )
    return decoded


def _records(messages: Sequence[Message]) -> list[Record]:
    """Return the records among what was consumed; raise KafkaException where waiting is no help."""
    records = []
    for message in messages:
        error = message.error()
        if error is None:
            records.append(_record(message))
        elif error.fatal() or error.code() in _HOPELESS:
            raise KafkaException(error)
        else:
            _broker_trouble(error)
    return records


def _record(message: Message) -> Record:
    return Record(
        Partition(cast(str, message.topic()), cast(int, message.partition())),
        cast(int, message.offset()),
        message.key(),
        message.value(),
        message.timestamp()[1],
        cast(Headers, message.headers()),
    )


_HOPELESS = frozenset(
    {KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED}
)


def _broker_trouble(error: KafkaError) -> None:
    log.warning("broker_trouble", error=error.name(), problem=error.str())


def _offset(held: int | None) -> int:
    return OFFSET_BEGINNING if held is None else held


def _lag(consumer: Consumer, partition: Partition, at: int | None) -> int:
    low, high = consumer.get_watermark_offsets(
        TopicPartition(partition.topic, partition.number), cached=True
    )
    return max(0, high - max(low, at or 0)) if high >= 0 else 0
