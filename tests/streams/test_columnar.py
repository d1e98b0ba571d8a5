"""The batch transport, over the real classes of Faust and aiokafka, without a broker.

Each test stands over a place where Faust alone would lose, repeat or misplace records; should a
later Faust move these places, the tests of what Faust does by itself fail first.
"""

import asyncio
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import NoOffsetForPartitionError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.columnar import (
    Batch,
    BatchSchema,
    Consumer,
    ConsumerThread,
    Hooks,
    Membership,
    RawRecords,
    RebalanceListener,
    Transport,
)

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


def _record(offset: int) -> Any:
    return SimpleNamespace(offset=offset, value=b"value", timestamp=1_000, timestamp_type=1)


@pytest.fixture
def worker() -> Hooked:
    return Hooked()


@pytest.fixture
def consumer(worker: Hooked, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Consumer:
    """Our consumer in an app that never starts, with its flow open."""
    monkeypatch.setattr(fetcher, "PartitionRecords", fetcher.PartitionRecords)
    app = faust.App(
        "andon-test",
        broker="andon://127.0.0.1:9",
        datadir=str(tmp_path),
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
    )
    app.hooks = worker.hooks  # type: ignore[attr-defined]
    app.consumer_generation_id = 7
    assert isinstance(app.transport, Transport)
    made = app._new_consumer()
    assert isinstance(made, Consumer)
    made.flow_active = True
    return made


@pytest.fixture
def thread(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> ConsumerThread:
    """The consumer's thread, whose calls are made at once."""

    async def at_once(fun: Any, *args: Any, **kwargs: Any) -> Any:
        return await fun(*args, **kwargs)

    made = consumer._thread
    monkeypatch.setattr(made, "call_thread", at_once)
    return made


@pytest.fixture
async def client(thread: ConsumerThread) -> FakeClient:
    """The client of the thread: three partitions are assigned."""
    made = FakeClient(T0, T1, T2)
    thread._consumer = made
    return made


async def _fetch(thread: ConsumerThread, client: FakeClient) -> dict[Any, Batch]:
    fetched = await thread._fetch_records(client, {T0, T1, T2}, timeout=0.0)
    return {tp: batch for tp, (batch,) in fetched.items()}


# -- commits --------------------------------------------------------------------------------------


def test_faust_alone_would_commit_past_an_event_in_flight(consumer: Consumer):
    """Faust's own rule skips the smallest offset that is not acknowledged; ours commits nothing."""
    consumer._committed_offset[P0] = 2_585
    consumer._acked[P0] = [2_586, 2_587, 2_588, 2_589]

    assert driver.Consumer._new_offset(consumer, P0) == 2_590
    assert consumer._new_offset(P0) is None


async def test_nothing_is_ever_committed_by_faust(consumer: Consumer, thread: ConsumerThread):
    """With everything acknowledged, a commit of Faust's neither happens nor claims to."""
    thread.commit = None  # type: ignore[assignment,method-assign]  # calling it would raise
    consumer._committed_offset[P0] = 0
    consumer._acked[P0] = [1, 2, 3]

    assert not await consumer._commit({P0: 4})
    assert not await consumer.commit({P0})
    assert consumer._committed_offset == {P0: 0}


async def test_gaps_between_batches_are_not_expanded(consumer: Consumer):
    """With a batch as one event, every batch leaves a gap; each would be an integer per record."""
    await consumer._add_gap(P0, 0, 10**9)

    assert not consumer._gap[P0]


# -- the consumer that is made --------------------------------------------------------------------


async def test_records_are_read_committed_and_positions_are_never_reset(
    consumer: Consumer, thread: ConsumerThread
):
    """Faust asks for uncommitted records and the earliest offset: both would be silent errors."""
    made = thread._create_worker_consumer(consumer.transport)
    plain = driver.AIOKafkaConsumerThread._create_worker_consumer(thread, consumer.transport)

    assert ("read_committed", "none") == (made._isolation_level, made._auto_offset_reset)
    assert ("read_uncommitted", "earliest") == (plain._isolation_level, plain._auto_offset_reset)
    assert not made._enable_auto_commit
    for client in (made, plain):
        client._closed = True


def test_the_address_andon_chooses_our_transport():
    """The entry point is found: Faust would otherwise fetch single records, and commit."""
    assert faust.transport.by_url("andon://127.0.0.1:9092") is Transport


def test_records_are_handed_on_as_aiokafka_has_them(thread: ConsumerThread):
    """Making another object of each record took a third of the time."""
    record = object()

    assert fetcher.PartitionRecords is RawRecords
    assert RawRecords._consumer_record(object(), T0, record) is record  # type: ignore[arg-type]


# -- batches and their positions ------------------------------------------------------------------


async def test_a_batch_says_where_it_begins_and_ends_with_all_holes(
    thread: ConsumerThread, client: FakeClient
):
    """Holes before, between and after records belong to the batch that comes with them."""
    await thread.move_to({P0: 5})
    client.ready = [(T0, [_record(7), _record(9)], 12)]
    first = await _fetch(thread, client)
    client.ready = [(T0, [_record(14)], 15)]
    second = await _fetch(thread, client)

    assert [(5, 12, [7, 9])] == _spans(first)
    assert [(12, 15, [14])] == _spans(second)
    assert (7, 10) == (first[P0].generation, first[P0].nbytes)


def _spans(batches: dict[Any, Batch]) -> list[tuple[int, int, list[int]]]:
    return [(b.before, b.after, [r.offset for r in b.records]) for b in batches.values()]


async def test_records_that_come_when_nobody_wants_them_are_fetched_again(
    consumer: Consumer, thread: ConsumerThread, client: FakeClient
):
    """Faust drops what comes while the flow is stopped, its position moved: we seek back."""
    await thread.move_to({P0: 5})
    client.ready = [(T0, [_record(5)], 6)]
    client.during_fetch = lambda: setattr(consumer, "flow_active", False)
    dropped = await _fetch(thread, client)
    position = client.state(T0).position
    consumer.flow_active = True
    client.ready = [(T0, [_record(5)], 6)]
    client.during_fetch = lambda: None

    assert ({}, 5) == (dropped, position)
    assert [(5, 6, [5])] == _spans(await _fetch(thread, client))


async def test_records_of_partitions_that_are_not_recovered_are_not_handed_on(
    thread: ConsumerThread, client: FakeClient
):
    """Without a position of ours there is nothing that a batch could join."""
    await thread.move_to({P0: 5})
    client.seek(T1, 0)
    client.ready = [(T0, [_record(5)], 6), (T1, [_record(0)], 1)]

    assert {P0} == set(await _fetch(thread, client))


async def test_a_partition_without_a_committed_offset_waits_for_ours(
    thread: ConsumerThread, client: FakeClient
):
    """The client asks for offsets that nobody commits; a reset would start from anywhere."""
    client.problem = NoOffsetForPartitionError({T0: None})

    assert {} == await _fetch(thread, client)


async def test_full_memory_stops_the_fetching_itself(consumer: Consumer, worker: Hooked):
    """A paused partition is fetched all the same, or dropped: not fetching is the only brake."""
    worker.room = False

    assert {} == await asyncio.wait_for(consumer._getmany({T0}, 1.0), 1.0)


async def test_a_batch_is_one_message_whose_value_it_is(consumer: Consumer):
    """The agent gets the batch with its records as they are, at the cost of one message."""
    batch = Batch(P0, 5, 12, [_record(7), _record(9)], 7, 10)
    message = consumer._to_message(P0, batch)
    decode = BatchSchema().compile(consumer.app)
    event = await decode(message)

    assert (9, 7, P0) == (message.offset, message.generation_id, message.tp)
    assert event.value is batch


# -- where positions come from --------------------------------------------------------------------


async def test_every_recovered_partition_is_sought_to_its_progress(
    consumer: Consumer, worker: Hooked, client: FakeClient
):
    """Also the one at 0, which Faust leaves where it is; and no partition that is not assigned."""
    other = TP("events", 9)
    worker.positions = {P0: 0, P1: 50, other: 3}
    client.seek(T0, 33)
    found = await consumer.seek_to_committed()

    assert {P0: 0, P1: 50, other: 3} == found
    assert (0, 50) == (client.state(T0).position, client.state(T1).position)
    assert {P0: 0, P1: 50} == consumer._thread.positions.expected


async def test_resuming_goes_to_our_positions_and_to_none_of_the_groups(
    consumer: Consumer, worker: Hooked, client: FakeClient
):
    """Faust seeks by itself on resume: it must not undo a seek of ours with committed offsets."""
    worker.positions = {P0: 50}
    await consumer.perform_seek()

    assert client.state(T0).position == 50
    assert consumer._read_offset[P0] == 50


async def test_position_and_last_stable_offset_are_told_when_they_are_known(
    consumer: Consumer, thread: ConsumerThread, client: FakeClient
):
    """Lag and idleness are judged by both; while one is unknown there is nothing to say."""
    await thread.move_to({P0: 5})
    client.state(T0).lso = 9

    assert consumer.fetch_state(P0) == (5, 9)
    assert consumer.fetch_state(P1) is None
    assert consumer.fetch_state(TP("events", 9)) is None


# -- membership -----------------------------------------------------------------------------------


async def test_membership_is_taken_at_the_moment_of_assignment(
    consumer: Consumer,
    thread: ConsumerThread,
    client: FakeClient,
    worker: Hooked,
    monkeypatch: pytest.MonkeyPatch,
):
    """An eviction afterwards resets the client to -1 and '': that does not change what we hold."""

    async def nothing(*_: Any) -> None:
        return None

    monkeypatch.setattr(thread, "on_partitions_assigned", nothing)
    await RebalanceListener(thread).on_partitions_assigned([T0])
    client._coordinator.generation, client._coordinator.member_id = -1, ""

    assert [Membership(7, "me")] == worker.memberships
    assert consumer.RebalanceListener is RebalanceListener


async def test_the_running_flush_ends_before_partitions_are_given_up(
    consumer: Consumer, worker: Hooked, monkeypatch: pytest.MonkeyPatch
):
    """While the callback runs the old generation is valid: first the flush, then Faust."""

    async def faust_revokes(_: Any, revoked: set[TP]) -> None:
        worker.revoked.append(f"faust gives up {len(revoked)}")

    monkeypatch.setattr(driver.Consumer, "on_partitions_revoked", faust_revokes)
    await consumer.on_partitions_revoked({P0})

    assert ["flush ended", "faust gives up 1"] == worker.revoked
