"""The batch transport, over the real classes of Faust and aiokafka, without a broker.

What Faust alone would do in the same places is in test_faust_defects.py.
"""

import asyncio
from typing import Any

import faust
import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import NoOffsetForPartitionError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.columnar import (
    Answer,
    Batch,
    BatchSchema,
    Consumer,
    ConsumerThread,
    FetchState,
    Membership,
    RebalanceListener,
    Transport,
    Unread,
    WholeBatches,
    read_together,
)
from tests.streams.transport import P0, P1, T0, T1, T2, FakeClient, Hooked, record_at


async def _fetch(thread: ConsumerThread, client: FakeClient) -> dict[Any, Batch]:
    fetched = await thread._fetch_records(client, {T0, T1, T2}, timeout=0.0)
    return {tp: batch for tp, (batch,) in fetched.items()}


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


def test_no_object_is_made_of_each_record(thread: ConsumerThread):
    """Of each record one of its own, and then another one, took a third of all time."""
    assert (Answer, WholeBatches) == (fetcher.MemoryRecords, fetcher.PartitionRecords)


# -- batches and their positions ------------------------------------------------------------------


async def test_a_batch_says_where_it_begins_and_ends_with_all_holes(
    thread: ConsumerThread, client: FakeClient
):
    """Holes before, between and after records belong to the batch that comes with them."""
    await thread.move_to({P0: 5})
    client.ready = [(T0, [record_at(7), record_at(9)], 12)]
    first = await _fetch(thread, client)
    client.ready = [(T0, [record_at(14)], 15)]
    second = await _fetch(thread, client)

    assert [(5, 12, [7, 9])] == _spans(first)
    assert [(12, 15, [14])] == _spans(second)
    assert (7, 2) == (first[P0].generation, len(first[P0].records))


def _spans(batches: dict[Any, Batch]) -> list[tuple[int, int, list[int]]]:
    return [
        (batch.before, batch.after, batch.records.offsets.tolist())
        for batch in read_together([*batches.values()])
    ]


async def test_records_that_come_when_nobody_wants_them_are_fetched_again(
    consumer: Consumer, thread: ConsumerThread, client: FakeClient
):
    """Faust drops what comes while the flow is stopped, its position moved: we seek back."""
    await thread.move_to({P0: 5})
    client.ready = [(T0, [record_at(5)], 6)]
    client.during_fetch = lambda: setattr(consumer, "flow_active", False)
    dropped = await _fetch(thread, client)
    position = client.state(T0).position
    consumer.flow_active = True
    client.ready = [(T0, [record_at(5)], 6)]
    client.during_fetch = lambda: None

    assert ({}, 5) == (dropped, position)
    assert [(5, 6, [5])] == _spans(await _fetch(thread, client))


async def test_records_of_partitions_that_are_not_recovered_are_not_handed_on(
    thread: ConsumerThread, client: FakeClient
):
    """Without a position of ours there is nothing that a batch could join."""
    await thread.move_to({P0: 5})
    client.seek(T1, 0)
    client.ready = [(T0, [record_at(5)], 6), (T1, [record_at(0)], 1)]

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
    batch = Batch(P0, 5, 12, Unread.of([record_at(7), record_at(9)]), 7, 10)
    message = consumer._to_message(P0, batch)
    decode = BatchSchema().compile(consumer.app)
    event = await decode(message)

    assert (11, 7, P0) == (message.offset, message.generation_id, message.tp)
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


async def test_how_far_a_partition_is_fetched_is_told_when_it_is_known(
    consumer: Consumer, thread: ConsumerThread, client: FakeClient
):
    """Lag and idleness are judged by it; while any of it is unknown there is nothing to say."""
    await thread.move_to({P0: 5})
    client.seek(T1, 0)
    client.state(T0).lso = client.state(T1).lso = 9

    assert consumer.fetch_state(P0) == FetchState(position=5, stable=9, handed_on=5)
    assert consumer.fetch_state(P1) is None
    assert consumer.fetch_state(TP("events", 9)) is None


async def test_a_position_that_moves_is_not_yet_a_batch_handed_on(
    consumer: Consumer, thread: ConsumerThread, client: FakeClient
):
    """Markers move it with no batch, and a batch only once it is on its way."""
    await thread.move_to({P0: 5})
    client.state(T0).lso = 9
    client.ready = [(T0, [record_at(5)], 6)]
    seen = []

    def look_while_it_moves() -> None:
        client.state(T0).consumed_to(6)
        seen.append(consumer.fetch_state(P0))

    client.during_fetch = look_while_it_moves
    await _fetch(thread, client)
    seen.append(consumer.fetch_state(P0))
    client.seek(T0, 9)
    seen.append(consumer.fetch_state(P0))

    assert [(6, 9, 5), (6, 9, 6), (9, 9, 6)] == seen


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
