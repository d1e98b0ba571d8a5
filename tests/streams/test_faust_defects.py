"""Defects of plain Faust, each beside what of ours stands over it.

A test shows first that Faust's own class still has the defect, then that ours has not. An upgrade
of Faust that mends or moves one fails here, and says which override to look at.
"""

import asyncio
import time
from random import Random
from types import SimpleNamespace
from typing import Any

import mode
import pytest
from aiokafka import codec as compression
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from confluent_kafka import Consumer, Producer, TopicPartition
from faust.stores.memory import Store
from faust.transport.drivers import aiokafka as driver
from faust.transport.producer import ProducerBuffer
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from schemas.catalogue import INTERACTIONS, PARTIALS
from streams.app import App, create_app
from streams.columnar import (
    Batch,
    ConsumerThread,
    Membership,
    RebalanceListener,
)
from streams.definitions import load_definitions
from streams.flush import Flush, NotAMember, group_metadata, no_membership
from streams.fold import PositionGap, trimmed
from streams.records import Record, Records
from streams.settings import Settings
from streams.transactions import FlushFailed, KafkaTransactions
from streams.worker import Worker
from tests.simulation.log import MemoryLog
from tests.streams.transport import P0, P1, T0, T1, FakeClient, Hooked, record_at


class Silent:
    """Transactions of a worker that is never to commit."""

    def start(self) -> None:
        """Nothing has to be got ready."""

    def commit(self, flush: Flush, membership: Membership) -> None:
        """Nobody is to come here."""
        raise AssertionError("a commit")


@pytest.fixture
def andon(tmp_path: Any) -> Worker:
    settings = Settings(state_dir=tmp_path)
    return Worker(settings, load_definitions(settings), lambda _: Silent())


@pytest.fixture
def app(andon: Worker) -> App:
    """The app of a worker, as it is started."""
    return create_app(andon.settings, andon)


def _commits(consumer: driver.Consumer) -> list[Any]:
    """Note what reaches the client that would commit."""
    seen: list[Any] = []

    async def commit(offsets: Any) -> bool:
        seen.append(offsets)
        return True

    consumer._thread.commit = commit
    consumer.assignment = lambda: {P0, P1}
    return seen


def _acknowledged(consumer: driver.Consumer, committed: int | None, *offsets: int) -> None:
    consumer._committed_offset[P0] = committed
    consumer._acked[P0] = list(offsets)


# -- what is committed ----------------------------------------------------------------------------


async def test_an_event_in_flight_is_counted_as_done(plain, consumer):
    """Off by one: the smallest offset that is not acknowledged is skipped, and lost on a restart.

    Ours knows no offset that Faust could commit.
    """
    for each in (plain, consumer):
        _acknowledged(each, 2_585, 2_586, 2_587, 2_588, 2_589)

    assert 2_590 == plain._new_offset(P0)
    assert consumer._new_offset(P0) is None


async def test_a_gap_covers_the_message_in_hand(plain, consumer):
    """Of a gap before 14, Faust takes 14 for done as well; ours notes no gaps at all."""
    for each in (plain, consumer):
        await each._add_gap(P0, 11, 14)
        _acknowledged(each, None, 10, 15)

    assert 16 == plain._new_offset(P0)
    assert (None, 0) == (consumer._new_offset(P0), len(consumer._gap[P0]))


async def test_a_gap_is_held_for_every_batch(plain, consumer):
    """A batch is one message: its other offsets look like a gap, each to be an integer later."""
    for each in (plain, consumer):
        await each._add_gap(P0, 0, 10**9)

    assert ([10**9 + 1], []) == tuple(
        [interval.length() for interval in each._gap[P0]] for each in (plain, consumer)
    )


async def test_faust_commits_what_was_acknowledged(plain, consumer):
    """By its timer, at a revocation and when it stops; ours by no way at all.

    Neither the timer's call, nor the last of the layers below it, gets as far as the client.
    """
    found = []
    for each in (plain, consumer):
        commits = _commits(each)
        _acknowledged(each, 0, 1, 2, 3)
        told = await each.commit()
        _acknowledged(each, 4, 5)
        await each.on_stop()
        _acknowledged(each, 6, 7)
        lowest = await each._commit({P0: 8})
        found.append((told, lowest, commits))

    assert (True, True, [{P0: 4}, {P0: 6}, {P0: 8}]) == found[0]
    assert (False, False, []) == found[1]


async def test_faust_says_that_it_committed_what_the_broker_refused(plain, consumer):
    """It takes the offset for committed all the same, and an idle partition never is."""
    for each in (plain, consumer):
        _acknowledged(each, 1, 2, 3)

        async def refuse(offsets: Any) -> bool:
            return False

        each._thread.commit = refuse
        each.assignment = lambda: {P0}
        assert not await each.commit()

    assert (4, 1) == (plain._committed_offset[P0], consumer._committed_offset[P0])


# -- what is produced -----------------------------------------------------------------------------


class Slowly(ProducerBuffer):
    """A buffer whose broker takes longer than Faust has patience for."""

    async def _send_pending(self, fut: Any) -> None:
        await asyncio.sleep(30)


async def test_faust_flushes_for_a_tenth_of_a_second_and_gives_up(monkeypatch):
    """Two messages wait, one is on its way: the flush returns, and the commit would follow."""
    buffer = Slowly()
    buffer.app = SimpleNamespace(conf=SimpleNamespace(producer_threaded=False))
    await buffer.start()
    for message in ("a", "b", "c"):
        buffer.put(message)
    await asyncio.sleep(0)
    await asyncio.wait_for(buffer.flush(), 5)

    assert 2 == buffer.size
    buffer.pending = asyncio.Queue()
    await buffer.stop()


def test_nothing_of_ours_is_produced_by_faust(app: App):
    """No tables, no leader topic, no sinks of agents: its producer has nothing to send."""
    assert {} == dict(app.tables)
    assert app.conf.topic_disable_leader
    assert [[], []] == [list(agent._sinks) for agent in app.agents.values()]


async def test_faust_swallows_a_failed_delivery(plain, caplog):
    """It logs a warning, and sets an exception on what nobody awaits."""
    failed, told = asyncio.Future(loop=asyncio.new_event_loop()), []
    failed.set_exception(ConnectionError("no broker"))
    topic = plain.app.topic("events")
    message = SimpleNamespace(
        message=SimpleNamespace(channel=topic, callback=None), set_exception=told.append
    )
    topic._on_published(failed, message, None, None)

    assert ["no broker"] == [str(problem) for problem in told]


def test_a_failed_delivery_ends_the_flush_before_its_offsets_are_sent(settings, new_topic):
    """A record that the broker refuses: nothing of the flush is to be seen, and no offset moves."""
    chosen = settings()
    narrow = new_topic("narrow", **{"max.message.bytes": "1000"})
    transactions = KafkaTransactions(
        chosen.kafka_client(), chosen.application_id, f"{chosen.application_id}-1", 5_000
    )
    transactions.start()
    sent = []
    transactions._retrying = sent.append
    refused = [
        Record(narrow, 0, b"k", b"fine"),
        Record(narrow, 0, b"k", Random(1).randbytes(5_000)),
    ]
    flush = Flush(outputs=refused, offsets={TP(narrow, 0): 1})

    with pytest.raises(FlushFailed, match=r"0 records undelivered, errors \[.*MSG_SIZE_TOO_LARGE"):
        transactions.commit(flush, Membership(1, "me"))
    assert [] == sent


# -- errors in agents: see also tests/integration/test_worker_process.py --------------------------


def test_faust_starts_an_agent_again_at_the_next_event(plain, app):
    """The failed one leaves a hole; ours crash the whole worker, which recovers."""
    assert plain.app.conf.agent_supervisor is mode.OneForOneSupervisor
    assert {mode.CrashingSupervisor} == {a.supervisor_strategy for a in app.agents.values()}
    assert {1} == {agent.concurrency for agent in app.agents.values()}


class OneBatch:
    """A stream that has one event for who takes it without acknowledgements, and none else."""

    def noack(self) -> Any:
        async def events() -> Any:
            yield SimpleNamespace(value="a batch")

        return SimpleNamespace(events=events)


async def test_our_agents_take_batches_without_acknowledgements(app, andon, monkeypatch):
    """Faust acknowledges an event whose body raised; nothing is to be acknowledged here at all."""
    collected: list[Any] = []
    monkeypatch.setattr(andon, "collect", collected.append)
    for agent in app.agents.values():
        await agent.fun(OneBatch())

    assert ["a batch", "a batch"] == collected


# -- rebalances -----------------------------------------------------------------------------------


async def test_a_revocation_forgets_acknowledgements_before_it_commits(
    plain, consumer, worker, monkeypatch
):
    """What was done since the last commit is done again by the next owner.

    Ours ends its flush while all is still known, and before Faust forgets anything.
    """
    known = []

    async def callback(_: set[TP]) -> None:
        known.append(list(plain._acked[P0]))

    async def before_revocation() -> None:
        known.append(list(consumer._acked[P0]))

    async def nothing(_: set[TP]) -> None:
        return None

    for each in (plain, consumer):
        _acknowledged(each, 0, 1, 2)
    plain._on_partitions_revoked, consumer._on_partitions_revoked = callback, nothing
    consumer.hooks.before_revocation = before_revocation
    await plain.on_partitions_revoked({P0})
    await consumer.on_partitions_revoked({P0})

    assert [[], [1, 2]] == known


async def test_waiting_for_events_that_are_held_never_ends(plain, app):
    """Events in hand are acknowledged by nobody: ours waits for none, with its own limit."""
    held = ConsumerMessage("events", 0, 5, 0.0, 1, [], None, b"v", 0, 0, 0, P0)
    plain._unacked_messages = {held}
    waiting = asyncio.create_task(plain.wait_empty())
    await asyncio.wait({waiting}, timeout=1.5)
    is_waiting = not waiting.done()
    plain._unacked_messages.clear()
    await waiting

    assert is_waiting
    assert (True, False) == (plain.app.conf.stream_wait_empty, app.conf.stream_wait_empty)


async def test_an_evicted_member_has_generation_minus_one_and_no_name(consumer, monkeypatch):
    """Offsets sent under that are accepted from anyone; ours are those of the assignment.

    Neither what the coordinator has become, nor anything like it, is ever sent.
    """
    coordinator = SimpleNamespace(generation=7, member_id="me", request_rejoin=lambda: None)
    thread = consumer._thread
    thread._consumer = SimpleNamespace(_coordinator=coordinator)

    async def nothing(*_: Any) -> None:
        return None

    monkeypatch.setattr(thread, "on_partitions_assigned", nothing)
    memberships: list[Membership] = []
    consumer.hooks.on_membership = memberships.append
    await RebalanceListener(thread).on_partitions_assigned([T0])
    GroupCoordinator.reset_generation(coordinator)

    assert (-1, "") == (coordinator.generation, coordinator.member_id)
    assert [Membership(7, "me")] == memberships
    with pytest.raises(NotAMember):
        group_metadata("group", Membership(coordinator.generation, coordinator.member_id))


def test_a_broker_accepts_offsets_of_nobody_in_a_group_with_members(settings, new_topic):
    """That is why such a membership is refused here: nobody else would."""
    chosen, topic = settings(), new_topic("offsets")
    client = chosen.kafka_client()
    config = {**client, "group.id": chosen.application_id}
    member, nobody = Consumer(config), Consumer(config)
    member.subscribe([topic])
    deadline = time.monotonic() + 60
    while not member.assignment():
        assert time.monotonic() < deadline
        member.poll(0.1)
    producer = Producer({**client, "transactional.id": chosen.application_id})
    producer.init_transactions(30)
    producer.begin_transaction()
    metadata = nobody.consumer_group_metadata()
    producer.send_offsets_to_transaction([TopicPartition(topic, 0, 7)], metadata, 30)
    producer.commit_transaction(30)
    (place,) = member.committed([TopicPartition(topic, 0)], 30)
    for each in (member, nobody):
        each.close()

    assert no_membership(chosen.application_id) == metadata
    assert 7 == place.offset


async def test_what_a_partition_left_stays_after_it_was_revoked(andon, monkeypatch):
    """Faust's store knows a key's partition from recovery alone: what was set since then stays.

    Of ours, nothing of a partition is left that somebody else may have had in between.
    """
    table = SimpleNamespace(name="keys", key_type=None, value_type=None)
    store: Store = Store("memory://", SimpleNamespace(), table)
    store.data["key of partition 1"] = "stale"
    await store.on_recovery_completed({TP("events", 0)}, set())
    monkeypatch.setattr("streams.worker.KafkaLog", lambda _: MemoryLog())
    kept, given = TP(INTERACTIONS, 0), TP(PARTIALS, 1)
    positions = []
    for generation, assigned in ((1, {kept, given}), (2, {kept}), (5, {kept})):
        before = andon.engine.folds.get(kept)
        andon._announced = Membership(generation, "me")
        await andon.take_over(SimpleNamespace(assignment=lambda of=assigned: of))
        same = andon.engine.folds[kept] is before
        positions.append((set(andon.engine.positions), same))

    assert {"key of partition 1": "stale"} == store.data
    assert [({kept, given}, False), ({kept}, True), ({kept}, False)] == positions


async def test_the_assignor_is_chosen_by_a_setting_of_tables(plain, app, consumer):
    """Without standby replicas partitions are dealt out in turn; with them, by Faust's assignor.

    Ours keeps no state in tables and needs no partitions side by side: the plain one will do.
    """
    found = []
    for each in (plain, consumer):
        made = each._thread._create_worker_consumer(each.transport)
        made._closed = True
        found.append(each._thread._assignor)

    assert plain.app.assignor is found[0]
    assert RoundRobinPartitionAssignor is found[1]
    assert 0 == app.conf.table_standby_replicas


# -- fetching -------------------------------------------------------------------------------------


async def _drop(consumer: driver.Consumer, client: FakeClient) -> int:
    """Let a record come while the flow is stopped; return the position afterwards."""
    client.seek(T0, 5)
    client.ready = [(T0, [record_at(5)], 6)]
    client.during_fetch = lambda: setattr(consumer, "flow_active", False)
    await consumer._thread._fetch_records(client, {T0}, timeout=0.0)
    return int(client.state(T0).position)


async def test_records_are_thrown_away_after_the_position_has_moved(
    plain, consumer, thread: ConsumerThread, client: FakeClient
):
    """Nobody fetches them again; ours seeks back, and ends should a gap come about all the same."""
    await thread.move_to({P0: 5})

    assert 6 == await _drop(plain, plain._thread._consumer)
    assert 5 == await _drop(consumer, client)
    with pytest.raises(PositionGap, match=r"found a batch from 6, expected one from 5"):
        trimmed(5, Batch(P0, 6, 7, Records.of([]), 7, 0))


async def test_resuming_goes_to_the_groups_committed_offset(
    plain, consumer, worker: Hooked, client: FakeClient
):
    """And leaves a partition without one where it is; ours goes to recovered progress."""

    async def seek_to_committed() -> dict[TP, int]:
        return {P0: 80}

    for each in (plain, consumer):
        each._thread._consumer.seek_to_committed = seek_to_committed
    worker.positions = {P0: 50, P1: 0}
    client.seek(T1, 33)
    await consumer.perform_seek()
    await plain.perform_seek()

    assert (80, None) == (plain._read_offset[P0], plain._read_offset[P1])
    assert (50, 50) == (consumer._read_offset[P0], client.state(T0).position)
    assert 0 == client.state(T1).position


async def test_uncommitted_records_are_read_and_lost_positions_begin_somewhere(plain, consumer):
    """Aborted records would count, and what is out of range would be left out in silence."""
    made = [each._thread._create_worker_consumer(each.transport) for each in (plain, consumer)]
    for client in made:
        client._closed = True

    assert [("read_uncommitted", "earliest"), ("read_committed", "none")] == [
        (client._isolation_level, client._auto_offset_reset) for client in made
    ]


def test_every_compression_of_kafka_can_be_read():
    """The client raises at the first batch of a codec that is not installed."""
    found = (compression.has_lz4(), compression.has_snappy(), compression.has_zstd())

    assert (True, True, True) == found
