"""A transport without a broker: a worker's hooks in plain fields, and a client that has records."""

import struct
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from faust.types import TP

from streams.columnar import Answer, Hooks, Membership, RecordBatch
from streams.records import Fetched

T0, T1, T2 = (TopicPartition("events", partition) for partition in range(3))
P0, P1, P2 = (TP("events", partition) for partition in range(3))


class Hooked:
    """What a worker tells and hears, in plain fields."""

    def __init__(self) -> None:
        self.positions: dict[TP, int] = {}
        self.room = True
        self.revoked: list[str] = []
        self.memberships: list[Membership] = []

    @property
    def hooks(self) -> Hooks:
        async def before_revocation() -> None:
            self.revoked.append("flush ended")

        return Hooks(
            lambda: self.positions, before_revocation, self.memberships.append, lambda: self.room
        )


class FakeClient:
    """Stands for a started consumer: a real subscription, and a fetcher that has records."""

    def __init__(self, *assigned: TopicPartition) -> None:
        self._subscription = SubscriptionState()
        self._subscription.subscribe({"events"})
        self._subscription.assign_from_subscribed(set(assigned))
        self._closed = False
        self._fetcher = self
        self._subscriptions = self._subscription
        self._coordinator = SimpleNamespace(generation=7, member_id="me")
        self.ready: list[tuple[TopicPartition, list[Any], int]] = []
        self.problem: Exception | None = None
        self.during_fetch: Any = lambda: None

    def assignment(self) -> set[TopicPartition]:
        return set(self._subscription.assigned_partitions())

    def state(self, tp: TopicPartition) -> Any:
        return self._subscription.subscription.assignment.state_value(tp)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._subscription.seek(tp, offset)

    async def fetched_records(self, *_: Any, **__: Any) -> dict[TopicPartition, list[Any]]:
        if self.problem is not None:
            raise self.problem
        self.during_fetch()
        ready, self.ready = self.ready, []
        for tp, _records, after in ready:
            self.state(tp).consumed_to(after)
        return {tp: records for tp, records, _ in ready}


def batch_of(
    *records: Fetched, codec: int = 0, append_time_ms: int | None = None, producer_id: int = -1
) -> bytes:
    """Return records as a record batch, of a transaction if there is a producer's id."""
    base = records[0].offset
    transactional = int(producer_id >= 0)
    builder = DefaultRecordBatchBuilder(2, codec, transactional, producer_id, 0, 0, 1 << 30)
    for record in records:
        delta = record.offset - base
        headers = [*record.headers]
        builder.append(delta, record.timestamp, record.key, record.value, headers)
    return _placed(bytes(builder.build()), base, append_time_ms)


def marker_of(producer_id: int, offset: int, *, abort: bool) -> bytes:
    """Return the marker that ends a transaction, as a broker writes it."""
    key = struct.pack(">hh", 0, 0 if abort else 1)
    record = Fetched(offset, 0, key, struct.pack(">hi", 0, 0), ())
    return _placed(batch_of(record, producer_id=producer_id), offset, None, 0x20)


def _placed(batch: bytes, base: int, append_time_ms: int | None, bits: int = 0) -> bytes:
    """Do what a broker does with a producer's batch: set offsets, and times if they are its own."""
    changed = bytearray(batch)
    changed[:8] = struct.pack(">q", base)
    changed[22] |= bits
    if append_time_ms is not None:
        changed[22] |= 0x08
        changed[35:43] = struct.pack(">q", append_time_ms)
    changed[17:21] = struct.pack(">I", calc_crc32c(bytes(changed[21:])))
    return bytes(changed)


def record_at(offset: int) -> RecordBatch:
    return Answer(batch_of(Fetched(offset, 1_000, None, b"value", ()))).next_batch()
