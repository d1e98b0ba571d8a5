"""The batch transport: Faust's consumer, handing over whole fetched batches with their positions.

Faust keeps membership, assignment, agents and lifecycle; what stands here replaces the places where
it would handle single records, commit by itself, or move a position that is not ours to move:

- a batch of one partition is one message, so the cost per message is paid once per fetch;
- each batch carries the position before and after it, because offsets have holes (control records,
  aborted records, compaction) and Faust drops fetched records in several places;
- reads are committed reads, and a position out of range is an error, never a silent reset;
- nothing is ever committed from here: offsets travel in the flush's transaction;
- positions come from recovered progress alone, never from the group's committed offsets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import faust
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import NoOffsetForPartitionError
from faust.events import Event
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

#: A fetch is answered with so many bytes, or after so long with what there is.
FETCH_BYTES = 65_536
FETCH_WAIT_MS = 50


@dataclass(frozen=True, slots=True)
class Membership:
    """Who we are in the consumer group, as the rebalance that assigned our partitions said."""

    generation: int
    member_id: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Fetched records of one partition that lie in ``[before, after)``, holes included."""

    tp: TP
    before: int
    after: int
    records: list[Any]
    generation: int
    nbytes: int

    def split(self, share: float) -> tuple[list[Batch], list[Batch]]:
        """Cut at a share of the records, into what comes before and what comes after.

        At most 0 leaves everything after, at least 1 everything before.
        """
        cut = int(len(self.records) * share + 1e-9)
        if cut >= len(self.records) or share >= 1:
            return [self], []
        if share <= 0 or cut == 0:
            return [], [self]
        border = self.records[cut].offset
        before, after = self.records[:cut], self.records[cut:]
        nbytes = int(self.nbytes * cut / len(self.records))
        return (
            [Batch(self.tp, self.before, border, before, self.generation, nbytes)],
            [Batch(self.tp, border, self.after, after, self.generation, self.nbytes - nbytes)],
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


@dataclass(slots=True)
class _Positions:
    """Where the next batch of each partition has to begin; touched in the consumer thread only."""

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


class RawRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """Hands on aiokafka's own records: making another object of each took a third of all time."""

    def __iter__(self) -> Any:
        """Return what unpacks them itself: one call a record less."""
        return self._records_iterator

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        return record


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that talks to the broker: fetches batches and moves positions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positions = _Positions()
        # The fetcher looks its class up by this name; only this transport consumes in our process.
        fetcher.PartitionRecords = RawRecords

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

    def _batch(self, consumer: Any, tp: Any, records: list[Any]) -> Batch | None:
        key = TP(tp.topic, tp.partition)
        assignment = consumer._subscription.subscription.assignment
        if assignment is None or tp not in assignment.tps or key not in self.positions.expected:
            return None
        before = self.positions.expected[key]
        after = int(assignment.state_value(tp).position)
        self.positions.expected[key] = after
        nbytes = sum(len(record.value or b"") for record in records)
        generation = int(self.consumer.app.consumer_generation_id)
        return Batch(key, before, after, records, generation, nbytes)

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

    def fetch_state(self, tp: TP) -> tuple[int, int] | None:
        """Return position and last stable offset as the fetcher knows them, None if not yet."""
        subscription = self._ensure_consumer()._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        kafka_tp = TopicPartition(tp.topic, tp.partition)
        if assignment is None or kafka_tp not in assignment.tps:
            return None
        state = assignment.state_value(kafka_tp)
        if not state.has_valid_position or state.lso is None:
            return None
        return int(state.position), int(state.lso)

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

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        wanted = self.hooks.wanted(active_partitions or set())
        if not self.hooks.has_room() or (active_partitions and not wanted):
            # Not fetching is the one safe brake: a paused partition is fetched or dropped.
            await asyncio.sleep(0.005)
            return {}
        return await super()._getmany(wanted, timeout)

    def _to_message(self, tp: TP, batch: Any) -> ConsumerMessage:
        last = batch.records[-1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            (last.timestamp or 0) / 1000.0,
            last.timestamp_type,
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

    def fetch_state(self, tp: TP) -> tuple[int, int] | None:
        """Return position and last stable offset of a partition as the fetcher knows them."""
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
