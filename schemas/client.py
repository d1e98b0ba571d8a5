"""Kafka clients of readers that take a topic from its beginning to what is its end now."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from schemas.errors import TopicMissing

_BATCH = 10_000
_ANSWER_MS = 20
_TIMEOUT_S = 30.0
_RETRY_S = 0.1
_PASSING = frozenset(
    (
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        # Of no partition a leader is known: the brokers are on their way back.
        KafkaError._NOENT,  # noqa: SLF001
    )
)
_ISOLATIONS = {
    "read_committed": IsolationLevel.READ_COMMITTED,
    "read_uncommitted": IsolationLevel.READ_UNCOMMITTED,
}


def consumer_config(client_config: Mapping[str, Any], **overrides: Any) -> dict[str, Any]:
    """Return a consumer's configuration: committed records only, from the beginning, no commits.

    Names in `overrides` are written with `_` for librdkafka's `.`.
    """
    return {
        "group.id": "andon-reader",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        # With a full queue it would ask for nothing for a second, and be waited for meanwhile.
        "fetch.queue.backoff.ms": 10,
        **client_config,
        **{name.replace("_", "."): value for name, value in overrides.items()},
    }


def producer_config(client_config: Mapping[str, Any], **overrides: Any) -> dict[str, Any]:
    """Return a producer's configuration: idempotent, and able to send our largest records."""
    return {
        "enable.idempotence": True,
        "compression.type": "lz4",
        "linger.ms": 20,
        # As other clients do: records that share a key share a partition, whoever sends them.
        "partitioner": "murmur2_random",
        "message.max.bytes": 8 << 20,
        **client_config,
        **{name.replace("_", "."): value for name, value in overrides.items()},
    }


def offset_ranges(
    client_config: Mapping[str, Any], topic: str, partitions: Sequence[int] | None = None
) -> dict[int, tuple[int, int]]:
    """Return the first offset and the last stable offset (exclusive) of each partition.

    With isolation.level read_uncommitted it is the last offset instead, open transactions
    included. Raise TopicMissing, or KafkaException where the broker does not answer.
    """
    isolation = _ISOLATIONS[client_config.get("isolation.level", "read_committed")]
    admin = AdminClient({k: v for k, v in client_config.items() if k != "isolation.level"})
    wanted = partition_numbers(admin, topic) if partitions is None else partitions
    earliest, latest = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]
    first = _offsets(admin, topic, wanted, earliest, isolation)
    stable = _offsets(admin, topic, wanted, latest, isolation)
    return {p: (first[p], stable[p]) for p in wanted}


def partition_numbers(admin: AdminClient, topic: str) -> list[int]:
    """Return the partitions of a topic; raise TopicMissing."""
    found = admin.list_topics(topic, timeout=_TIMEOUT_S).topics.get(topic)
    if found is None or found.error is not None:
        raise TopicMissing(f"{topic}: no such topic, expected one made by `andon topics create`")
    return sorted(found.partitions)


def _offsets(
    admin: AdminClient,
    topic: str,
    partitions: Sequence[int],
    spec: OffsetSpec,
    isolation: IsolationLevel,
) -> dict[int, int]:
    asked = {TopicPartition(topic, p): spec for p in partitions}
    found = list_offsets(admin, asked, isolation)
    return {partition: offset for (_, partition), offset in found.items()}


def list_offsets(
    admin: AdminClient,
    asked: Mapping[TopicPartition, OffsetSpec],
    isolation: IsolationLevel,
    timeout_s: float = _TIMEOUT_S,
) -> dict[tuple[str, int], int]:
    """Return the offsets asked for, by topic and partition.

    Waits for leaders that are on their way. Raise KafkaException where the broker does not answer.
    """
    if not asked:
        return {}
    deadline = time.monotonic() + timeout_s
    # A client that is not connected yet may sleep for three seconds over the offsets; asked for
    # metadata, it connects at once.
    admin.list_topics(next(iter(asked)).topic, timeout=timeout_s)
    while True:
        futures = admin.list_offsets(
            dict(asked), isolation_level=isolation, request_timeout=timeout_s
        )
        try:
            return {
                (tp.topic, tp.partition): future.result(timeout_s).offset
                for tp, future in futures.items()
            }
        except KafkaException as problem:
            # A leader that moves, or that a new topic does not have yet, is there a moment later.
            if problem.args[0].code() not in _PASSING or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_S)


def read_all(
    client_config: Mapping[str, Any],
    topic: str,
    *,
    partitions: Sequence[int] | None = None,
    begin: Mapping[int, int] | None = None,
    end: Mapping[int, int] | None = None,
    batch: int = _BATCH,
) -> Iterator[list[Message]]:
    """Yield the committed records of a topic in batches, up to the offsets that are stable now.

    `begin` and `end` (exclusive) bound the offsets by partition, where they are within the log's.
    Partitions may be mixed in a batch; within each the order is the log's. With isolation.level
    read_uncommitted every record up to the last counts. Raise TopicMissing, or KafkaException where
    the broker refuses or has been silent for 30 seconds.
    """
    ends = {}
    starts = []
    for p, (first, stable) in offset_ranges(client_config, topic, partitions).items():
        offset = max(first, (begin or {}).get(p, first))
        last = min(stable, (end or {}).get(p, stable))
        if offset < last:
            ends[p] = last
            starts.append(TopicPartition(topic, p, offset))
    if not starts:
        return
    # The end of a partition is told by an empty answer, which the broker must not put off.
    consumer = Consumer(
        consumer_config(client_config, enable_partition_eof=True, fetch_wait_max_ms=_ANSWER_MS)
    )
    try:
        consumer.assign(starts)
        yield from _until(consumer, topic, ends, batch)
    finally:
        consumer.close()


def _until(consumer: Any, topic: str, ends: dict[int, int], batch: int) -> Iterator[list[Message]]:
    """Yield records before `ends`, a partition of which is done at its end of file at the latest.

    The last offsets may belong to markers of transactions, which are never delivered.
    """
    silent_s, wait_s = 0.0, 0.03
    while ends:
        fetched: list[Any] = consumer.consume(batch, wait_s)
        silent_s = 0.0 if fetched else silent_s + wait_s
        if silent_s >= _TIMEOUT_S:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{topic}: nothing arrived"))  # noqa: SLF001
        records = [m for m in fetched if not m.error() and m.offset() < ends.get(m.partition(), 0)]
        if records:
            yield records
        done = {m.partition() for m in fetched if _is_end(m, ends.get(m.partition(), 0))}
        for partition in done & ends.keys():
            del ends[partition]
            consumer.incremental_unassign([TopicPartition(topic, partition)])


def _is_end(message: Any, end: int) -> bool:
    error = message.error()
    if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
        raise KafkaException(error)
    return error is not None or bool(message.offset() >= end - 1)
