"""The batch transport: Faust's consumer, handing over whole fetched batches with their positions.

Faust keeps membership, assignment, agents and lifecycle; what stands here replaces the places where
it would handle single records, commit by itself, or move a position that is not ours to move:

- what one fetch finds in a partition is one message, and its records are read by columns, later;
- each batch carries the position before and after it, because offsets have holes (control records,
  aborted records, compaction) and Faust drops fetched records in several places;
- reads are committed reads, and a position out of range is an error, never a silent reset;
- nothing is ever committed from here: offsets travel in the flush's transaction;
- positions come from recovered progress alone, never from the group's committed offsets.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from operator import attrgetter
from typing import Any, NamedTuple

import faust
import numpy as np
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import NoOffsetForPartitionError
from aiokafka.record.memory_records import MemoryRecords
from faust.events import Event
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage
from numpy.typing import NDArray

from streams.records import Records

#: A fetch is answered with so many bytes, or after so long with what there is.
FETCH_BYTES = 65_536
FETCH_WAIT_MS = 50

_LOOK_EVERY_S = 0.005
_LOG_APPEND_TIME = 1

_headers_of, _value_of = attrgetter("headers"), attrgetter("value")


@dataclass(frozen=True, slots=True)
class Membership:
    """Who we are in the consumer group, as the rebalance that assigned our partitions said."""

    generation: int
    member_id: str


class RecordBatch:
    """Records that a producer has sent together, not read yet.

    aiokafka asks one what it has of its record batches, and takes it for a record of its own: then
    it makes no objects of records, which cost more than all that follows.
    """

    def __init__(self, batch: Any, nbytes: int) -> None:
        self._batch = batch
        self.nbytes = nbytes
        self.offset = int(batch.next_offset) - 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __len__(self) -> int:
        """The number of its records, those that were compacted away included."""
        return int(self.next_offset - self.base_offset)

    def __iter__(self) -> Iterator[RecordBatch]:
        return iter((self,))

    def __next__(self) -> Any:
        return next(self._batch)

    @cached_property
    def records(self) -> list[Any]:
        """The records, of aiokafka's own kind, with the fields of :class:`Fetched`."""
        return [*self._batch]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """The offset of each record."""
        if len(self) == len(self.records):
            return np.arange(self.base_offset, self.next_offset, dtype=np.int64)
        return np.array([record.offset for record in self.records], np.int64)

    @property
    def timestamps(self) -> NDArray[np.int64]:
        """The timestamp of each record, in ms."""
        if self.timestamp_type == _LOG_APPEND_TIME:
            return np.full(len(self.records), self.max_timestamp, np.int64)
        return np.array([record.timestamp for record in self.records], np.int64)


@dataclass(frozen=True, slots=True)
class Unread:
    """Record batches as the broker has sent them, with about ``count`` records."""

    batches: Sequence[RecordBatch]
    count: int

    @classmethod
    def of(cls, batches: Sequence[RecordBatch]) -> Unread:
        """Return the records of these batches, not read yet."""
        return cls(batches, sum(map(len, batches)))

    def __len__(self) -> int:
        return self.count

    def split(self, count: int) -> tuple[Unread, int, Unread]:
        """Return the batches with the first ``count``, the offset they end at, and the others."""
        reached = [*accumulate(map(len, self.batches))]
        cut = bisect_left(reached, count) + 1
        before, after = self.batches[:cut], self.batches[cut:]
        return Unread.of(before), before[-1].offset + 1, Unread.of(after)


@dataclass(frozen=True, slots=True)
class Batch:
    """Fetched records of one partition that lie in ``[before, after)``, holes included."""

    tp: TP
    before: int
    after: int
    records: Records | Unread
    generation: int
    nbytes: int

    def split(self, share: float) -> tuple[list[Batch], list[Batch]]:
        """Cut at a share of the records, into what comes before and what comes after.

        At most 0 leaves everything after, at least 1 everything before. What a producer has sent
        together stays together, before the cut.
        """
        count = len(self.records)
        cut = int(count * share + 1e-9)
        if cut >= count or share >= 1:
            return [self], []
        if share <= 0 or cut == 0:
            return [], [self]
        before, border, after = self.records.split(cut)
        if not len(after):
            return [self], []
        nbytes = int(self.nbytes * len(before) / count)
        return (
            [Batch(self.tp, self.before, border, before, self.generation, nbytes)],
            [Batch(self.tp, border, self.after, after, self.generation, self.nbytes - nbytes)],
        )


def read_together(batches: Sequence[Batch]) -> list[Batch]:
    """Return the batches with their records as columns: read at once, whichever they are of."""
    parts = [b.records.batches if isinstance(b.records, Unread) else () for b in batches]
    records = _records_of([part for found in parts for part in found])
    start, done = 0, []
    for batch, found in zip(batches, parts, strict=True):
        if isinstance(batch.records, Unread):
            stop = start + sum(len(part.records) for part in found)
            done.append(replace(batch, records=records.rows(start, stop)))
            start = stop
        else:
            done.append(batch)
    return done


def _records_of(parts: Sequence[RecordBatch]) -> Records:
    whole = [record for part in parts for record in part.records]
    none = np.empty(0, np.int64)
    return Records(
        np.concatenate([none, *(part.offsets for part in parts)]),
        np.concatenate([none, *(part.timestamps for part in parts)]),
        np.fromiter(map(bool, map(_headers_of, whole)), np.bool_, len(whole)),
        [*map(_value_of, whole)],
        whole.__getitem__,
    )


@dataclass(slots=True)
class Hooks:
    """What the transport asks of the worker that uses it."""

    #: Position of every partition that is recovered; these are the positions to seek to.
    positions: Callable[[], Mapping[TP, int]]
    #: Ends or abandons the running flush; the old generation is still valid while this runs.
    before_revocation: Callable[[], Awaitable[None]]
    #: Told of each new membership as soon as the group has it.
    on_membership: Callable[[Membership], None]
    #: Tells whether there is room for more records in memory.
    has_room: Callable[[], bool]
    #: Tells which of the partitions to fetch from now.
    wanted: Callable[[set[TP]], set[TP]] = field(default=lambda partitions: partitions)


class FetchState(NamedTuple):
    """How far a partition is fetched.

    ``position`` is where its next fetch begins, ``stable`` its last stable offset as the broker has
    told us last, ``handed_on`` where the last batch for the worker ended. ``position`` lies behind
    that after markers of transactions, and while a batch is being handed on.
    """

    position: int
    stable: int
    handed_on: int


@dataclass(slots=True)
class _Positions:
    """Where the next batch of each partition has to begin; written in the consumer thread only."""

    expected: dict[TP, int] = field(default_factory=dict)


class RebalanceListener(driver.ConsumerRebalanceListener):
    """Takes generation and member id at the moment of assignment.

    Read later, from the coordinator, they could be those of an evicted member (-1 and ''), and a
    broker accepts offsets sent with these.
    """

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """Note who we are now, then go on as Faust does."""
        thread = self._thread
        coordinator = thread._ensure_consumer()._coordinator
        membership = Membership(int(coordinator.generation), str(coordinator.member_id))
        thread.consumer.hooks.on_membership(membership)  # type: ignore[attr-defined]
        await super().on_partitions_assigned(assigned)


class Answer:
    """What a broker has sent of a partition, taken apart into what producers have sent together."""

    def __init__(self, data: bytes) -> None:
        self._batches = MemoryRecords(data)
        self._data = data
        self._at = 0

    def has_next(self) -> bool:
        """Tell whether there is another whole record batch; the last one may be cut off."""
        return bool(self._batches.has_next())

    def size_in_bytes(self) -> int:
        """Return the size of all, with what was cut off."""
        return len(self._data)

    def next_batch(self) -> RecordBatch:
        """Return the next record batch."""
        nbytes = 12 + int.from_bytes(self._data[self._at + 8 : self._at + 12], "big")
        self._at += nbytes
        return RecordBatch(self._batches.next_batch(), nbytes)


class WholeBatches(fetcher.PartitionRecords):  # type: ignore[misc]
    """Hands on the committed record batches of an answer, each as if it were one record."""

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        return record


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that talks to the broker: fetches batches and moves positions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positions = _Positions()
        # The fetcher looks its classes up by these names; only this transport consumes here.
        fetcher.MemoryRecords, fetcher.PartitionRecords = Answer, WholeBatches

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        consumer._auto_offset_reset = "none"
        # Or the broker answers for every record, hundreds of times a second.
        consumer._fetch_min_bytes, consumer._fetch_max_wait_ms = FETCH_BYTES, FETCH_WAIT_MS
        return consumer

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: Any,
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> Any:
        try:
            fetched = await super()._fetch_records(
                consumer, active_partitions, timeout=timeout, max_records=max_records
            )
        except NoOffsetForPartitionError:
            # Faust's client asks for committed offsets at assignment; ours are set by seek only.
            return {}
        # Nothing awaits between the fetcher's return and here: its positions belong to the records.
        if not self.consumer.flow_active:
            self._take_back(consumer, fetched)
            return {}
        return {
            tp: [batch]
            for tp, records in fetched.items()
            if (batch := self._batch(consumer, tp, records)) is not None
        }

    def _take_back(self, consumer: Any, fetched: Mapping[Any, Any]) -> None:
        """Seek back to before records that came when nobody wants them."""
        assigned = consumer.assignment()
        for tp in fetched:
            position = self.positions.expected.get(TP(tp.topic, tp.partition))
            if tp in assigned and position is not None:
                consumer.seek(tp, position)

    def _batch(self, consumer: Any, tp: Any, found: list[RecordBatch]) -> Batch | None:
        key = TP(tp.topic, tp.partition)
        assignment = consumer._subscription.subscription.assignment
        if assignment is None or tp not in assignment.tps or key not in self.positions.expected:
            return None
        before = self.positions.expected[key]
        after = int(assignment.state_value(tp).position)
        self.positions.expected[key] = after
        nbytes = sum(batch.nbytes for batch in found)
        generation = int(self.consumer.app.consumer_generation_id)
        return Batch(key, before, after, Unread.of(found), generation, nbytes)

    async def move_to(self, positions: Mapping[TP, int]) -> None:
        """Seek to the given positions; fetched records that lie elsewhere are dropped."""
        await self.call_thread(self._move_to, positions)

    async def _move_to(self, positions: Mapping[TP, int]) -> None:
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        for tp, position in positions.items():
            kafka_tp = TopicPartition(tp.topic, tp.partition)
            if kafka_tp in assigned:
                consumer.seek(kafka_tp, position)
                self.positions.expected[tp] = position

    def fetch_state(self, tp: TP) -> FetchState | None:
        """Return how far a partition is fetched, None while that is not known."""
        subscription = self._ensure_consumer()._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        kafka_tp = TopicPartition(tp.topic, tp.partition)
        if assignment is None or kafka_tp not in assignment.tps:
            return None
        state = assignment.state_value(kafka_tp)
        handed_on = self.positions.expected.get(tp)
        if not state.has_valid_position or state.lso is None or handed_on is None:
            return None
        return FetchState(int(state.position), int(state.lso), handed_on)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: Faust would complain that it never commits."""


class Consumer(driver.Consumer):
    """Faust's consumer with batches as messages and no commits of its own."""

    RebalanceListener = RebalanceListener
    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.hooks: Hooks = self.app.hooks  # type: ignore[attr-defined]

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _wait_next_records(self, timeout: float) -> Any:
        if self.flow_active and not self._get_active_partitions():
            # Faust would look again after a second: so long after recovery nothing was fetched.
            self.not_waiting_next_records.set()
            await asyncio.sleep(_LOOK_EVERY_S)
            return {}, set()
        return await super()._wait_next_records(timeout)

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        wanted = self.hooks.wanted(active_partitions or set())
        if not self.hooks.has_room() or (active_partitions and not wanted):
            # Not fetching is the one safe brake: a paused partition is fetched or dropped.
            await asyncio.sleep(_LOOK_EVERY_S)
            return {}
        return await super()._getmany(wanted, timeout)

    def _to_message(self, tp: TP, batch: Any) -> ConsumerMessage:
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            batch.after - 1,
            batch.records.batches[-1].max_timestamp / 1000.0,
            0,
            None,
            None,
            batch,
            None,
            0,
            0,
            tp,
            generation_id=batch.generation,
        )

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every recovered partition to its progress, and return these positions."""
        positions = dict(self.hooks.positions())
        await self._thread.move_to(positions)
        return positions

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """End the running flush first: until we leave this call our generation is valid."""
        await self.hooks.before_revocation()
        await super().on_partitions_revoked(revoked)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        return False

    def _new_offset(self, tp: TP) -> int | None:
        return None

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Do nothing: offsets inside a batch are no gap, and no acknowledgement is counted."""

    def fetch_state(self, tp: TP) -> FetchState | None:
        """Return how far a partition is fetched, None while that is not known."""
        return self._thread.fetch_state(tp)


class Transport(driver.Transport):
    """The transport that ``andon://`` broker addresses select."""

    Consumer = Consumer


class BatchSchema(faust.Schema[Any, Any]):
    """Hands batches to agents as they are: decoding is the fold's and the merge's."""

    def compile(
        self,
        app: Any,
        *,
        on_key_decode_error: Any = None,
        on_value_decode_error: Any = None,
        default_propagate: bool = False,
    ) -> Any:
        """Return a decoder that wraps the batch in an event."""

        async def decode(message: Any, **_: Any) -> Event:
            return Event(app, None, message.value, None, message)

        return decode
