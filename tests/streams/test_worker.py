"""What a worker does around its flushes."""

from types import SimpleNamespace

import numpy as np
import pytest
from faust.types import TP
from structlog.testing import capture_logs

from processors.fold import Account
from schemas.catalogue import INTERACTIONS, PARTIALS
from streams.columnar import FetchState, Membership
from streams.definitions import load_definitions
from streams.flush import Flush
from streams.published import Published
from streams.records import Record
from streams.settings import Settings
from streams.state import Advance
from streams.worker import AHEAD_MS, TooManyDeadLetters, Worker

PLACE = TP(INTERACTIONS, 0)


class Transactions:
    """Notes what is to be committed, and refuses all of it."""

    def __init__(self) -> None:
        self.tried = 0

    def start(self) -> None:
        """Nothing has to be got ready."""

    def commit(self, flush: Flush, membership: Membership) -> None:
        """Fail as a broker does that is gone."""
        self.tried += 1
        raise ConnectionError("no broker")


def worker(transactions: Transactions, **chosen: object) -> Worker:
    settings = Settings.model_validate(chosen)
    made = Worker(settings, load_definitions(settings), lambda _: transactions)
    made._membership = Membership(1, "me")
    return made


async def test_nothing_is_committed_after_a_commit_that_failed(monkeypatch):
    """The next flush is worked out while the last is committed; it ends with it."""
    transactions = Transactions()
    failing = worker(transactions)
    flush = Flush(outputs=[Record("t", 0, b"k", b"v")], offsets={PLACE: 1})
    monkeypatch.setattr(type(failing.engine), "flush", lambda *_, **__: flush)
    await failing.flush(publish_all=True)
    failing._membership = Membership(1, "me")
    await failing.flush(publish_all=True)
    await failing._committed()

    assert (1, True) == (transactions.tried, failing.failed.is_set())


@pytest.mark.timeout(20)
async def test_a_worker_that_loses_its_partitions_while_it_ends_does_not_wait_for_them(monkeypatch):
    """What it could not publish any more is for those that have them now."""
    ending = worker(Transactions())

    def flush(*_: object, **__: object) -> Flush:
        ending._membership = None
        return Flush()

    monkeypatch.setattr(type(ending.engine), "flush", flush)
    monkeypatch.setattr(type(ending.engine), "is_behind", True)
    await ending.stop()

    assert (True, False) == (ending.done.is_set(), ending.failed.is_set())


def test_partitions_are_written_down_one_after_the_other():
    """Each once in an interval, also after all were at once: each brings a wave of KPI records."""
    saving = worker(Transactions(), checkpoint_interval_s=8)
    saving._saved = dict.fromkeys((TP(PARTIALS, partition) for partition in range(4)), 0.0)
    found = []
    for now in (99.5, *range(100, 117)):
        due = saving._due_checkpoints(now, alone=True)
        saving._saved |= {tp: saving._turn(tp, now) for tp in due}
        found.append(sorted(tp.partition for tp in due))

    turns = [[1], [], [3], [0], [], [2], [], []]
    assert [[*range(4)], [], *turns, *turns] == found


def test_scopes_that_keep_the_pace_of_checkpoints_are_published_one_partition_after_the_other():
    """In half the interval of checkpoints, too, no two partitions have their wave at once."""
    saving = worker(Transactions(), checkpoint_interval_s=10)
    for partitions in (4, 8, 12, 16):
        turns = [saving._turn(TP(PARTIALS, number), 1_000.0) % 5 for number in range(partitions)]
        places = sorted(turns)
        gaps = np.diff([*places, places[0] + 5])

        assert min(gaps) > 0.3 * 5 / partitions


def test_a_checkpoint_waits_for_a_flush_of_its_own_but_not_for_ever():
    """What is merged meanwhile is waited for more; if there is always some, it is late once."""
    saving = worker(Transactions(), checkpoint_interval_s=10, flush_interval_ms=500)
    saving._saved = {PLACE: 100.0}

    assert [set(), {PLACE}, set(), {PLACE}] == [
        saving._due_checkpoints(now, alone=alone)
        for now, alone in ((109.9, True), (110.0, True), (110.4, False), (110.5, False))
    ]


def test_other_definitions_in_the_group_are_told_of_once():
    """Partials say by which KPI formulas and rules their writer works; the warning what to do."""
    noticing = worker(Transactions())
    others = {"elsewhere": "worker-2"}
    with capture_logs() as told:
        for found in (others, dict(others), {}):
            noticing._tell_of_others(found)

    assert [("other_definitions", "warning")] == [(t["event"], t["log_level"]) for t in told]
    assert told[0]["found"] == "partials by worker-2 with KPI formulas or rules elsewhere"
    assert told[0]["next_step"].startswith("give all workers the same files")
    assert {} == others


def test_a_stream_of_dead_letters_stops_the_worker():
    """A share above the limit, judged once enough records were seen, ends it with what to do."""
    judging = worker(Transactions(), dead_letter_limit=0.5, dead_letter_minimum=10)
    account = Account()
    judging.engine.folds[PLACE] = SimpleNamespace(state=SimpleNamespace(account=account))
    judging._check_dead_letters()
    account.consumed, account.dead_lettered = 9, 9
    judging._check_dead_letters()
    account.consumed, account.dead_lettered = 10, 5
    judging._check_dead_letters()
    account.consumed, account.dead_lettered = 20, 11

    with pytest.raises(TooManyDeadLetters, match=r"6 of 10 records are dead letters, expected"):
        judging._check_dead_letters()


def told(consumer_of: Worker, state: FetchState | None) -> None:
    """Let the consumer say this of every partition."""
    consumer_of._consumer = SimpleNamespace(fetch_state=lambda _: state)


def test_quiet_partitions_are_advanced_until_the_input_has_ended():
    """What announces an advance after that would lie there, not processed, when the worker ends."""
    waiting = worker(Transactions(), idle_timeout_s=5)
    told(waiting, FetchState(7, 7, 7))
    waiting.engine.folds[PLACE] = SimpleNamespace(announced=True, position=7, watermark_ms=0)
    seen = [waiting._due_advances(now) for now in (100.0, 104.9, 110.0)]
    waiting._input_ended = True

    assert [{}, {}, {PLACE: Advance(7, 10_000, "IDLE")}] == seen
    assert {} == waiting._due_advances(120.0)


def test_a_partition_is_empty_once_it_was_seen_to_be_for_two_seconds():
    """However long ago it was assigned: whoever has not looked meanwhile knows nothing of it."""
    waiting = worker(Transactions())
    waiting.engine.folds[PLACE] = SimpleNamespace(announced=False, position=0, watermark_ms=None)
    seen = []
    for now, state in (
        (100.0, None),
        (103.0, FetchState(0, 0, 0)),
        (104.7, FetchState(0, 0, 0)),
        (105.0, FetchState(0, 0, 0)),
    ):
        told(waiting, state)
        seen.append(waiting._due_advances(now))

    assert [{}, {}, {}, {PLACE: Advance(0, 0, "EMPTY")}] == seen


def test_a_partition_is_not_quiet_while_what_was_fetched_of_it_is_on_its_way():
    """A flush holds the loop for longer than a silence: meanwhile all was fetched, none taken.

    Announced as empty it would hold back no window, and come too late for all that are over.
    """
    waiting = worker(Transactions(), idle_timeout_s=3)
    stage = SimpleNamespace(announced=False, position=0, watermark_ms=None)
    waiting.engine.folds[PLACE] = stage
    told(waiting, FetchState(position=0, stable=9, handed_on=0))
    before = waiting._due_advances(100.0)
    told(waiting, FetchState(position=9, stable=9, handed_on=9))
    fetched = [waiting._due_advances(now) for now in (103.0, 106.0)], waiting._is_caught_up(PLACE)
    stage.position, stage.announced = 9, True
    stage.watermark_ms = 1_000
    taken = [waiting._due_advances(now) for now in (106.5, 109.5)]

    assert ({}, ([{}, {}], False)) == (before, fetched)
    assert [{}, {PLACE: Advance(9, 4_000, "IDLE")}] == taken


def test_in_a_rebuild_inputs_far_ahead_wait_for_those_with_much_to_give():
    """Ten minutes of event time; partials and a partition nearly read hold nobody back."""
    rebuilding = worker(Transactions())
    ahead, behind, partials = PLACE, TP(INTERACTIONS, 1), TP(PARTIALS, 0)
    lags = {behind: 100_000}
    rebuilding._consumer = SimpleNamespace(fetch_state=lambda tp: FetchState(0, lags.get(tp, 5), 0))
    for tp, watermark_ms in ((ahead, AHEAD_MS + 1), (behind, 0)):
        state = SimpleNamespace(watermark_ms=watermark_ms)
        rebuilding.engine.folds[tp] = SimpleNamespace(state=state, position=0)
    everything = {ahead, behind, partials}

    assert everything == rebuilding._wanted(everything)
    rebuilding.engine.published = Published()
    assert {behind, partials} == rebuilding._wanted(everything)
    lags[behind] = 5
    assert everything == rebuilding._wanted(everything)


def test_far_behind_is_who_has_much_to_work_off_fetched_or_not():
    """It stays so until half of what began it is left, and while partials wait for long."""
    catching_up = worker(Transactions())
    told(catching_up, FetchState(90_000, 90_000, 90_000))
    stages = [SimpleNamespace(position=60_000), SimpleNamespace(position=60_000)]
    catching_up.engine.folds.update(zip((PLACE, TP(INTERACTIONS, 1)), stages, strict=True))
    seen = []
    for position in (60_000, 59_999, 75_000, 75_001, 60_000):
        stages[0].position = position
        stages[1].position = 60_000 if position < 70_000 else 75_000
        catching_up.engine.hurries = catching_up._is_far_behind(10.0)
        seen.append(catching_up.engine.hurries)
    caught_up = seen[-1]
    catching_up._pending_since[True] = 6.9

    assert [False, True, False, False, False] == seen
    assert (False, True) == (caught_up, catching_up._is_far_behind(10.0))
