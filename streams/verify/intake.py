"""From Kafka into the ledger: input records up to where they were processed, and what came out."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fastavro
import numpy as np
import polars as pl
import pyarrow as pa
import xxhash
from confluent_kafka import Consumer, TopicPartition

from schemas.client import consumer_config, offset_ranges, read_all
from schemas.codec import Codec
from schemas.contract import wire
from schemas.errors import Reason
from schemas.headers import ERRORS, REASON, schema_key
from schemas.registry import SchemaRegistry
from streams.verify.ledger import Advance, Ledger
from streams.verify.report import Lag

_READABLE = (Reason.CONTRACT, Reason.FUTURE_TIME)
_TIMEOUT_S = 30.0
_SHORT_REST = 1_000


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of a partition is there, ``[first, end)``, and how much of it was processed."""

    topic: str
    partition: int
    first: int
    processed: int
    end: int


@dataclass(frozen=True, slots=True)
class Raw:
    """One record of an input partition as the broker holds it; ``append_ms`` is its timestamp."""

    partition: int
    position: int
    append_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] | None


def read_records(client: Mapping[str, Any], topic: str, **options: Any) -> Iterator[list[Raw]]:
    """Yield the committed records of a topic in batches; options are those of ``read_all``."""
    for messages in read_all(client, topic, **options):
        yield [_raw(each) for each in messages]


def _raw(message: Any) -> Raw:
    return Raw(
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        message.headers(),
    )


def extents(client: Mapping[str, Any], group: str, topics: Sequence[str]) -> list[Extent]:
    """Return the extent of every partition of the topics, by the group's committed positions.

    Raises:
        TopicMissing: a topic is not there.
        KafkaException: the broker does not answer.

    """
    found = []
    consumer = Consumer(consumer_config(client, group_id=group))
    try:
        for topic in topics:
            ranges = offset_ranges(client, topic)
            wanted = [TopicPartition(topic, partition) for partition in ranges]
            for each in consumer.committed(wanted, timeout=_TIMEOUT_S):
                first, end = ranges[each.partition]
                processed = max(first, each.offset)
                found.append(Extent(topic, each.partition, first, processed, end))
    finally:
        consumer.close()
    return found


def lags(client: Mapping[str, Any], extent: Sequence[Extent]) -> list[Lag]:
    """Return the partitions that hold records which were not processed, and how many.

    The last offsets of a partition may belong to markers of transactions: a short rest is
    counted by reading it.
    """
    rests = {(each.topic, each.partition): each.end - each.processed for each in extent}
    for topic in dict.fromkeys(each.topic for each in extent):
        short = {
            each.partition: each.processed
            for each in extent
            if each.topic == topic and 0 < each.end - each.processed <= _SHORT_REST
        }
        if short:
            rests |= {(topic, partition): 0 for partition in short}
            for records in read_records(client, topic, partitions=sorted(short), begin=short):
                for each in records:
                    rests[topic, each.partition] += 1
    return [Lag(topic, partition, rest) for (topic, partition), rest in rests.items() if rest > 0]


def load_input(
    client: Mapping[str, Any],
    ledger: Ledger,
    codec: Codec,
    registry: SchemaRegistry,
    extent: Sequence[Extent],
) -> None:
    """Put the processed records of the codec's topic into the ledger."""
    ends = {each.partition: each.processed for each in extent if each.processed > each.first}
    if not ends:
        return
    for batch in read_records(client, codec.topic, partitions=sorted(ends)):
        records = [each for each in batch if each.position < ends[each.partition]]
        if records:
            add_records(ledger, codec, registry, records)


def add_records(
    ledger: Ledger, codec: Codec, registry: SchemaRegistry, records: Sequence[Raw]
) -> None:
    """Decode records of one topic and put them into the ledger, the unreadable ones with a fault.

    What the codec refuses for its content is read once more, by fastavro alone, so that the
    ledger's own checks decide about it.
    """
    decoded = codec.columns(
        [each.value for each in records],
        [each.append_ms for each in records],
        [each.headers for each in records],
    )
    where = _where([records[i] for i in decoded.index.tolist()])
    ledger.add(codec.contract.name, _table(where, decoded.frame.to_arrow()))
    if not decoded.rejected:
        return
    refused = [records[each.index] for each in decoded.rejected]
    reread = [
        _reread(codec, registry, record, rejected.reason)
        for record, rejected in zip(refused, decoded.rejected, strict=True)
    ]
    where = _where(refused)
    where["fault"] = pa.array([fault for fault, _ in reread], pa.string())
    rows = pl.DataFrame([row for _, row in reread], schema=codec.contract.columns, orient="row")
    ledger.add(codec.contract.name, _table(where, rows.to_arrow()))


def digest(key: bytes | None, value: bytes | None) -> int:
    """Return a fingerprint of a record's key and value, 64 bits; none and empty differ."""
    seed = 0 if key is None else xxhash.xxh3_64_intdigest(key)
    return seed if value is None else xxhash.xxh3_64_intdigest(value, seed=seed)


def load_set_aside(client: Mapping[str, Any], ledger: Ledger, topic: str) -> None:
    """Put the records of the late or the dead-letter topic into the ledger."""
    for records in read_records(client, topic):
        add_set_aside(ledger, topic, records)


def add_set_aside(ledger: Ledger, topic: str, records: Sequence[Raw]) -> None:
    """Put records that were set aside into the ledger, by where they came from and why."""
    rows = []
    for record in records:
        said = dict(record.headers or ())
        rows.append(
            (
                topic,
                _text(said, ERRORS + "topic"),
                int(_text(said, ERRORS + "partition") or -1),
                int(_text(said, ERRORS + "offset") or -1),
                _text(said, REASON),
                digest(record.key, record.value),
            )
        )
    names = ("set_aside", "topic", "partition", "position", "reason", "digest")
    types = (pa.string(), pa.string(), pa.int32(), pa.int64(), pa.string(), pa.uint64())
    columns = zip(names, types, zip(*rows, strict=True), strict=True)
    ledger.add("set_aside", pa.table({name: pa.array(v, t) for name, t, v in columns}))


def load_advances(
    client: Mapping[str, Any],
    ledger: Ledger,
    codec: Codec,
    processed: Mapping[tuple[str, int], int],
) -> None:
    """Put the logged idle advances into the ledger, up to the positions that were processed.

    EMPTY says that a partition has nothing that could hold others back, and moves no watermark.
    """
    for records in read_records(client, codec.topic):
        found = (codec.decode(each.value, each.headers) for each in records if each.value)
        ledger.advance(
            Advance(each["topic"], each["partition"], each["position"], each["watermark"])
            for each in found
            if each["reason"] != "EMPTY"
            and each["position"] <= processed.get((each["topic"], each["partition"]), -1)
        )


def _text(headers: Mapping[str, bytes | None], name: str) -> str:
    return (headers.get(name) or b"").decode(errors="replace")


def _where(records: Sequence[Raw]) -> dict[str, Any]:
    return {
        "partition": np.array([each.partition for each in records], np.int32),
        "position": np.array([each.position for each in records], np.int64),
        "append_time": np.array([each.append_ms for each in records], np.int64),
        "digest": np.array([digest(each.key, each.value) for each in records], np.uint64),
    }


def _table(where: Mapping[str, Any], columns: pa.Table) -> pa.Table:
    return pa.table({**where, **dict(zip(columns.column_names, columns.columns, strict=True))})


def _reread(
    codec: Codec, registry: SchemaRegistry, record: Raw, reason: Reason
) -> tuple[str | None, dict[str, Any]]:
    """Return the fault (None: it can be read) and the fields, all null where it cannot."""
    nothing = dict.fromkeys(codec.contract.columns)
    if reason not in _READABLE or record.value is None:
        return str(reason), nothing
    key: Any = schema_key(record.headers)
    body = record.value
    if key is None or body[0] == 0:
        key, body = int.from_bytes(body[1:5], "big"), body[5:]
    try:
        written, ours = wire(json.loads(registry.schema(key))), wire(codec.contract.schema)
        row = fastavro.schemaless_reader(io.BytesIO(body), written, ours)
    except Exception:  # noqa: BLE001 - the reader raises whatever the bytes lead it to
        return str(Reason.UNDECODABLE), nothing
    assert isinstance(row, dict)
    return None, row
