"""Going on from the log: what is waited for, what is taken again, and what is refused."""

import pytest
from faust.types import TP
from structlog.testing import capture_logs

from schemas.catalogue import LATE
from streams.columnar import Batch, Membership
from streams.flush import Engine
from streams.records import Record, Records
from streams.recovery import Recovery, Refused, Superseded
from streams.state import Advance, rebuild_entry
from tests.builders import INTERACTIONS, NOON_MS, record, small_definitions
from tests.simulation.log import Fenced, MemoryLog, MemoryTransactions

SOURCE = TP(INTERACTIONS, 0)


class Run:
    """One worker of one partition, over a log of three events."""

    def __init__(self) -> None:
        self.log = MemoryLog(generation=1, members={"me"}, now_ms=NOON_MS)
        codec = small_definitions().codec(INTERACTIONS)
        for n in range(3):
            value = codec.encode(record(INTERACTIONS, str(n), NOON_MS + n * 1_000))
            self.log.append(Record(INTERACTIONS, 0, None, value))

    def recover(self, name: str, *, epoch: int = 0, is_current: bool = True) -> Engine:
        engine = Engine(small_definitions(), name, epoch)
        Recovery(self.log, engine, lambda: is_current, patience_s=0.0).run([SOURCE])
        return engine

    def flush(self, engine: Engine, most: int, until: int | None = None, **options):
        """Take so many records; commit, or stop before a step."""
        before = engine.positions[SOURCE]
        after, records = self.log.fetch(SOURCE, before, most)
        batch = Batch(SOURCE, before, after, Records.of(records), 1, 0)
        flush = engine.flush([batch], NOON_MS, **options)
        steps = MemoryTransactions(self.log, engine.transactional_id).steps(
            flush, Membership(1, "me")
        )
        for _ in range(len(flush.records) + 2 if until is None else until):
            next(steps)
        if until is None:
            with pytest.raises(StopIteration):
                next(steps)
        return steps


class SleepClock:
    """Time that goes by with sleep alone."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_recovery_goes_on_from_progress_with_the_state_that_was_there():
    """Records since the checkpoint are taken again, a logged advance at its position among them."""
    run = Run()
    first = run.recover("first")
    run.flush(first, 1, checkpoint=first.positions)
    run.flush(first, 1, advances={SOURCE: Advance(2, NOON_MS + 40_000, "IDLE")})
    second = run.recover("second")

    assert {SOURCE: 2} == second.positions
    before, after = first.folds[SOURCE].state, second.folds[SOURCE].state
    assert (before.account, before.seen.nbytes) == (after.account, after.seen.nbytes)
    assert second.folds[SOURCE].watermark_ms == NOON_MS + 40_000


def test_the_open_transaction_of_a_worker_that_is_gone_is_ended():
    """Its successor goes on from before it, and it cannot commit any more."""
    run = Run()
    sleeper = run.flush(run.recover("first"), 2, until=4)
    second = run.recover("second")

    assert {SOURCE: 0} == second.positions
    with pytest.raises(Fenced):
        list(sleeper)


def test_only_who_holds_a_partition_back_is_ended():
    """Who has committed behind a sleeper's open transaction may be alive, and goes on."""
    run = Run()
    sleeper, owner = run.recover("sleeper"), run.recover("owner")
    waking = run.flush(sleeper, 2, until=4)
    run.flush(owner, 1)
    elsewhere = run.log.begin("owner")
    run.recover("successor")

    with pytest.raises(Fenced):
        list(waking)
    run.log.end(elsewhere, "committed")


def test_a_transaction_without_its_marker_is_named_with_what_to_do(monkeypatch):
    """A broker killed in a commit may lose markers; once they are written recovery goes on."""
    run = Run()
    run.flush(run.recover("first"), 2, until=4)
    changelog = small_definitions().changelog(INTERACTIONS)
    clock, write = SleepClock(), MemoryLog.write_markers
    monkeypatch.setattr(MemoryLog, "write_markers", lambda log: clock() > 100 and write(log))
    engine = Engine(small_definitions(), "second", 0)
    with capture_logs() as logs:
        Recovery(run.log, engine, lambda: True, clock=clock, sleep=clock.sleep, patience_s=0.3).run(
            [SOURCE]
        )

    assert {SOURCE: 0} == engine.positions
    (told,) = [each for each in logs if each["log_level"] == "error"]
    assert told["event"] == "transactions_hang"
    assert f"{changelog}[0] from offset 0 by first" in told["error"]
    assert "kafka-transactions.sh" in told["next_step"]


def test_a_commit_that_comes_while_the_successor_waits_counts():
    """Offsets were sent in time, so the commit holds: recovery reads what it wrote."""
    run = Run()
    first = run.recover("first")
    _, records = run.log.fetch(SOURCE, 0, 2)
    flush = first.flush([Batch(SOURCE, 0, 2, Records.of(records), 1, 0)], NOON_MS)
    commit = MemoryTransactions(run.log, "first").steps(flush, Membership(1, "me"))
    for _ in range(len(flush.records) + 2):
        next(commit)
    run.log.generation = 2
    run.log.meanwhile.append(lambda: list(commit))

    assert {SOURCE: 2} == run.recover("second").positions


def test_the_state_of_another_time_is_refused_with_what_to_do():
    """A topic that was made anew, or trimmed too far, ends before the progress that is saved."""
    run = Run()
    run.flush(run.recover("first"), 3)
    del run.log.partitions[SOURCE]

    with pytest.raises(Refused, match=r"found progress 3 .* run `andon rebuild`"):
        run.recover("second")


def test_an_input_that_now_counts_otherwise_is_refused():
    """What comes out of the records since the checkpoint must be what the progress says."""
    run = Run()
    run.flush(run.recover("first"), 3)
    entries = run.log.partitions[SOURCE].entries
    entries[1] = entries[0]

    with pytest.raises(Refused, match=r"the input has changed, or this release counts otherwise"):
        run.recover("second")


def test_a_rebuild_begins_anew_and_leaves_no_way_back():
    """A higher epoch takes everything again; who comes later goes on in it.

    A worker that still holds partitions of the old epoch is refused.
    """
    run = Run()
    old = run.recover("first")
    run.flush(old, 3, checkpoint=old.positions)
    rebuilt = run.recover("second", epoch=1)
    run.flush(rebuilt, 3, checkpoint=rebuilt.positions)
    third = run.recover("third")

    assert (1, {SOURCE: 3}) == (third.epoch, third.positions)
    with pytest.raises(Refused, match="a rebuild has begun; start this worker again"):
        Recovery(run.log, old, lambda: True, patience_s=0.0).run([SOURCE])


def test_recovery_stops_when_the_group_has_rebalanced_again():
    """What is being recovered may be somebody else's by now."""
    with pytest.raises(Superseded):
        Run().recover("first", is_current=False)


def test_a_rebuild_makes_logged_advances_again_and_sets_nothing_aside_twice():
    """What was late by an advance alone is late again, and its record is out already.

    A worker that comes while the rebuild is under way finds its epoch by the marks.
    """
    run = Run()
    first = run.recover("first")
    far = Advance(2, NOON_MS + 30 * 86_400_000, "IDLE")
    run.flush(first, 2, advances={SOURCE: far})
    run.flush(first, 1, checkpoint=first.positions)
    changelog = first.definitions.changelog(INTERACTIONS)
    mark = rebuild_entry(1, 0)
    run.log.append(Record(changelog, 0, *mark))
    second = run.recover("second")
    before = len(run.log.partitions[TP(LATE, 0)].entries)
    run.flush(second, 3)

    assert (1, {SOURCE: 3}) == (second.epoch, second.positions)
    counted = second.folds[SOURCE].state.account
    assert counted == first.folds[SOURCE].state.account
    assert (2, 1) == (counted.applied, counted.expired)
    assert before == len(run.log.partitions[TP(LATE, 0)].entries)
