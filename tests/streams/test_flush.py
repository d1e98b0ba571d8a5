"""What a flush writes, and under whose name."""

import pytest
from confluent_kafka import Consumer
from faust.types import TP

from schemas.catalogue import PARTIALS, WATERMARKS
from streams.columnar import Batch, Membership
from streams.flush import Engine, Flush, NotAMember, group_metadata, no_membership
from streams.fold import FoldStage, PositionGap, trimmed
from streams.merge import MergeStage
from streams.records import Fetched, Records
from streams.state import Advance, Saved
from tests.builders import INTERACTIONS, NOON_MS, record, small_definitions

SOURCE = TP(INTERACTIONS, 0)
ME = Membership(3, "me")


def _engine(pace_ms: int = 0) -> Engine:
    definitions = small_definitions()
    engine = Engine(definitions, "writer", 0, pace_ms=pace_ms)
    plan = definitions.inputs[INTERACTIONS]
    engine.folds[SOURCE] = FoldStage.recovered(0, plan, definitions, Saved(), 0)
    for partition in range(2):
        stage = MergeStage.recovered(partition, definitions, Saved(), 0, 0)
        engine.merges[TP(PARTIALS, partition)] = stage
    return engine


def _batch(*values: bytes, tp: TP = SOURCE, before: int = 0) -> Batch:
    records = [Fetched(before + n, NOON_MS, None, value, ()) for n, value in enumerate(values)]
    return Batch(tp, before, before + len(values), Records.of(records), 3, 0)


def _event(name: str, **fields: str) -> bytes:
    codec = small_definitions().codec(INTERACTIONS)
    return codec.encode(record(INTERACTIONS, name, NOON_MS, **fields))


def _partials(flush: Flush, before: int = 0) -> list[Batch]:
    return [
        _batch(r.value or b"", tp=TP(PARTIALS, r.partition), before=before)
        for r in flush.outputs
        if r.topic == PARTIALS
    ]


# -- membership -----------------------------------------------------------------------------------


def test_group_metadata_are_laid_out_as_librdkafka_lays_them_out():
    """They are made by hand, of the membership of Faust's consumer: compare with real ones."""
    consumer = Consumer({"bootstrap.servers": "127.0.0.1:9", "group.id": "wörkers"})
    try:
        assert no_membership("wörkers") == consumer.consumer_group_metadata()
    finally:
        consumer.close()
    assert group_metadata("g", ME) == b"CGMDv2:\x03\0\0\0g\0me\0\x01"


@pytest.mark.parametrize("membership", [(-1, ""), (0, "me"), (3, ""), (-1, "me")])
def test_offsets_are_never_sent_under_no_membership(membership):
    """A broker accepts generation -1 with an empty member id from anyone: we refuse it."""
    with pytest.raises(NotAMember, match="expected those of an assignment"):
        group_metadata("g", Membership(*membership))


def test_every_flush_carries_offsets_also_if_it_only_publishes_or_saves():
    """The broker checks the membership with offsets alone: without any, a sleeper could write."""
    engine = _engine()
    first = engine.flush([_batch(_event("a"))], 0)
    silent = engine.flush(_partials(first), 0)
    published = engine.flush([], 10_000)
    saved = engine.flush([], 10_000, checkpoint=engine.positions)

    assert {SOURCE: 1} == first.offsets
    assert dict.fromkeys(engine.merges, 1) == silent.offsets
    assert not silent.kpi_records
    assert published.kpi_records
    assert not published.state
    for tp, position in (published.offsets | saved.offsets).items():
        assert engine.positions[tp] == position
    assert published.offsets
    assert set(engine.positions) == set(saved.offsets)


# -- what is written ------------------------------------------------------------------------------


def test_state_goes_before_everything_else():
    """A sleeper that commits late was seen: its state was in the log before its offsets were."""
    engine = _engine()
    flush = engine.flush([_batch(_event("a"), b"?")], 0, checkpoint=engine.positions)
    topics = [record.topic for record in flush.records]
    of_state = [topic.endswith("changelog") for topic in topics]

    assert sorted(of_state, reverse=True) == of_state
    assert {PARTIALS, "andon.dead-letters.v1"} == set(topics[sum(of_state) :])


def test_progress_is_written_for_every_source_that_moved_even_if_nothing_counted():
    """A flush of duplicates alone moves the position: recovery must know."""
    engine = _engine()
    engine.flush([_batch(_event("a"))], 0)
    flush = engine.flush([_batch(_event("a"), before=1)], 0)

    assert {SOURCE: b"0|progress"} == {tp: r.key for tp, r in flush.progress.items()}
    assert {SOURCE: 2} == flush.offsets
    assert engine.folds[SOURCE].state.account.duplicates == 1


def test_a_flush_that_only_merges_announces_nothing():
    """Otherwise it would feed itself for ever."""
    engine = _engine()
    first = engine.flush([_batch(_event("a"))], 0)
    flush = engine.flush(_partials(first), 0)

    assert [] == _partials(flush)


def test_more_changes_than_one_flush_publishes_go_out_with_the_next(monkeypatch):
    """All of them, each once; until then no checkpoint is written, which keeps no changed rows."""
    whole = _engine()
    flush = whole.flush(_partials(whole.flush([_batch(_event("a"))], 0)), 0, publish_all=True)
    monkeypatch.setattr("streams.flush.PUBLISH_ROWS", 2)
    engine = _engine()
    engine.flush(_partials(engine.flush([_batch(_event("a"))], 0)), 0)
    flushes = [engine.flush([], 1_000, publish_all=True, checkpoint=engine.positions)]
    while engine.is_behind:
        flushes.append(engine.flush([], 1_000, publish_all=True, checkpoint=engine.positions))

    assert sorted(_keys(flush)) == sorted(key for each in flushes for key in _keys(each))
    assert len(flushes) > 1
    waiting = [*[False] * (len(flushes) - 1), True]
    assert waiting == [engine.merges.keys() <= each.saved for each in flushes]
    assert b"0|checkpoint" in [record.key for record in flushes[-1].state]


def test_a_checkpoint_of_one_partition_leaves_the_others_as_they_are():
    """What has changed in it goes out with it; the others have their own turn for both."""
    engine = _engine()
    of_queues = [_event(name, queue_id=name) for name in "abcdef"]
    engine.flush(_partials(engine.flush([_batch(*of_queues)], 0)), 0)
    for tp in engine.merges:
        flush = engine.flush([], 0, checkpoint=[tp])

        assert {tp} == flush.saved == flush.progress.keys() == flush.offsets.keys()
        assert {tp.partition} == {record.partition for record in flush.records}
        assert _keys(flush)


def test_windows_that_fill_up_go_out_with_a_checkpoint_and_ask_for_no_flush():
    """State does not tell what is changed and not yet published; until then they wait."""
    engine = _engine()
    flushes = []
    for before, now_ms in enumerate([10_000, 20_000]):
        folded = engine.flush([_batch(_event(f"e{before}"), before=before)], now_ms)
        flushes.append(engine.flush(_partials(folded, before), now_ms))
    is_due = engine.is_due(30_000)
    flushes.append(engine.flush([], 30_000, checkpoint=engine.positions))

    assert not is_due
    assert [5, 1, 4] == [sum(b"HOPPING" in (k or b"") for k in _keys(each)) for each in flushes]


def _keys(flush: Flush) -> list[bytes | None]:
    return [record.key for record in flush.outputs if record.topic == "andon.kpis.v1"]


def test_a_scope_goes_out_with_the_merge_that_comes_about_when_it_is_due():
    """Half a second is over at 500: a merge somewhat before takes it along, and the pace stays.

    What a merge has left behind waits for the next one, but not for ever.
    """
    engine = _engine(pace_ms=500)
    published = []
    for before, now_ms in enumerate([10_000, 10_300, 10_600, 10_900, 11_100]):
        folded = engine.flush([_batch(_event(f"e{before}"), before=before)], now_ms)
        merged = engine.flush(_partials(folded, before), now_ms)
        published.append((now_ms, bool(_keys(folded)), bool(_keys(merged))))

    assert [
        (10_000, False, True),
        (10_300, False, True),
        (10_600, False, False),
        (10_900, False, True),
        (11_100, False, False),
    ] == published
    assert [False, True] == [engine.is_due(now_ms) for now_ms in (11_749, 11_750)]


def test_the_shortest_interval_keeps_step_with_the_flushes_of_inputs():
    """With flushes every 400 ms half a second would leave out every fifth merge: it is 400 ms.

    Others that fold at another moment bring merges in between, and no more records.
    """
    engine = _engine(pace_ms=400)
    published = []
    for before in range(12):
        now_ms = 10_000 + 200 * before
        folded = engine.flush([_batch(_event(f"e{before}"), before=before)], now_ms)
        published.append(bool(_keys(engine.flush(_partials(folded, before), now_ms))))

    assert [True, *[True, False] * 5, True] == published


def test_a_checkpoint_between_two_merges_does_not_put_off_what_the_second_brings():
    """It takes windows along that fill up; what is waited for goes out with the merge as ever."""
    engine = _engine(pace_ms=500)
    published = []
    for before, now_ms in enumerate([10_000, 10_500, 11_000]):
        folded = engine.flush([_batch(_event(f"e{before}"), before=before)], now_ms)
        merged = engine.flush(_partials(folded, before), now_ms)
        saved = engine.flush([], now_ms + 260, checkpoint=engine.positions)
        published.append([_with_queues(each) for each in (merged, saved)])

    assert [[True, False], [True, True], [True, True]] == published


def _with_queues(flush: Flush) -> bool:
    return any((key or b"").startswith(b"queue|") for key in _keys(flush))


def test_what_is_published_less_often_has_a_flush_of_its_own():
    """It is many records: what is taken and merged does not wait for them, but for so long."""
    engine = _engine(pace_ms=500)
    engine.flush(_partials(engine.flush([_batch(_event("a"))], 10_000)), 10_000)
    found = []
    for before, now_ms in enumerate([14_800, 15_100, 15_250], start=1):
        folded = engine.flush([_batch(_event(f"e{before}"), before=before)], now_ms)
        is_due = engine.is_due(now_ms)
        merged = engine.flush(_partials(folded, before), now_ms)
        found.append((is_due, *(_with_agents(each) for each in (folded, merged))))
    folded = engine.flush([_batch(_event("e4"), before=4)], 19_000)
    engine.flush(_partials(folded, 4), 19_000)

    assert [(False, False, False), (True, False, False), (False, True, False)] == found
    alone = [_with_agents(engine.flush([], now_ms)) for now_ms in (19_999, 20_000)]
    assert [False, True] == alone


def _with_agents(flush: Flush) -> bool:
    return any((key or b"").startswith(b"agent|") for key in _keys(flush))


def test_one_that_is_far_behind_publishes_with_checkpoints_only():
    """What it would say in between is old, and its time is for getting on; nothing is left out."""
    engine, eager = _engine(), _engine()
    engine.hurries = True
    batch = _batch(_event("a"))
    quiet = engine.flush(_partials(engine.flush([batch], 10_000)), 10_000)
    at_once = eager.flush(_partials(eager.flush([batch], 10_000)), 10_000)

    assert [] == _keys(quiet)
    assert not engine.is_due(20_000)
    assert _keys(at_once) == _keys(engine.flush([], 20_000, checkpoint=engine.positions))


def test_who_has_caught_up_publishes_first_what_is_published_most_often():
    """The queues are waited for; what comes every five seconds has four and a half more."""
    engine = _engine()
    engine.hurries = True
    engine.flush(_partials(engine.flush([_batch(_event("a"))], 10_000)), 10_000)
    engine.hurries = False
    scopes = [
        {(key or b"").partition(b"|")[0] for key in _keys(engine.flush([], now_ms))}
        for now_ms in (10_000, 14_499, 14_500)
    ]

    assert [{b"queue"}, set(), {b"agent"}] == scopes


def test_nothing_to_do_writes_nothing():
    """An idle worker leaves the log alone."""
    assert not _engine().flush([], 10_000)


def test_an_advance_holds_at_the_position_it_was_decided_at_or_not_at_all():
    """If records came meanwhile the partition was not idle."""
    engine = _engine()
    advance = {SOURCE: Advance(1, NOON_MS + 60_000, "IDLE")}
    moved = engine.flush([_batch(_event("a"), _event("b"))], 0, advances=advance)
    engine = _engine()
    idle = engine.flush([_batch(_event("a"))], 0, advances=advance)

    assert [0, 1] == [_count(flush, WATERMARKS) for flush in (moved, idle)]
    assert engine.folds[SOURCE].watermark_ms == NOON_MS + 60_000


def _count(flush: Flush, topic: str) -> int:
    return sum(record.topic == topic for record in flush.outputs)


def test_dead_records_alone_do_not_announce_a_partition():
    """It is told to be empty only when it is caught up and still has no event."""
    engine = _engine()
    engine.flush([_batch(b"?")], 0)
    dead = engine.folds[SOURCE].announced
    engine.flush([], 0, advances={SOURCE: Advance(1, 0, "EMPTY")})

    assert (False, True) == (dead, engine.folds[SOURCE].announced)


# -- positions ------------------------------------------------------------------------------------


def test_a_batch_that_overlaps_progress_is_trimmed_and_a_gap_stops_the_partition():
    """Positions before and after tell what Faust may have thrown away."""
    batch = _batch(b"x", b"y", b"z", before=5)

    assert [5, 6, 7] == trimmed(5, batch).offsets.tolist()
    assert [7] == trimmed(7, batch).offsets.tolist()
    assert 0 == len(trimmed(9, batch))
    with pytest.raises(PositionGap, match=r"found a batch from 5, expected one from 4"):
        trimmed(4, batch)
