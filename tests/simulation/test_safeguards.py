"""The histories find what they are there for: with any one safeguard taken out, some goes wrong.

Each test takes one answer to one way of failing out of the product, or out of the group that drives
it, and plays short histories until the properties break. That they hold with all safeguards in
place is tested beside this.
"""

import random
from collections.abc import Callable

from processors.merge import Merge
from streams.columnar import Membership
from streams.flush import Flush
from streams.recovery import Recovery
from tests.builders import least_definitions
from tests.simulation.group import Group
from tests.simulation.log import MemoryLog, MemoryTransactions
from tests.simulation.play import Play, Step, check
from tests.simulation.test_histories import play_short, short_history

#: So many histories must be enough to see that a safeguard is missing.
ENOUGH = 1_200


def _first_to_break(play: Callable[[bytes], object], seed: str) -> int | None:
    """Return the number of the first history that breaks a property, or ends otherwise."""
    dice = random.Random(seed)
    for number in range(ENOUGH):
        data = dice.randbytes(dice.randint(48, 128))
        try:
            play(data)
        except Exception:  # noqa: BLE001 - that it goes wrong is what is asked for
            return number
    return None


def _is_seen(name: str, play: Callable[[bytes], object] = play_short) -> bool:
    return _first_to_break(play, name) is not None


def _always(answer: object) -> Callable[..., object]:
    return lambda *_, **__: answer


def test_going_on_with_memory_that_a_failed_commit_has_left_behind():
    """It has moved on, and the log has not."""
    assert _is_seen("memory", lambda data: play_short(data, out="no memory after an abort"))


def test_going_on_from_the_groups_offsets(monkeypatch):
    """They may lag behind what is committed; only that positions must join would save us then."""
    _without_joins(monkeypatch)
    name = "progress, not the group's offsets"
    odd = ("lose a fetch", "fetch again")
    assert _is_seen(name, lambda data: play_short(data, out=name, without=odd))


def test_not_waiting_for_what_is_undecided(monkeypatch):
    """A dead worker's open transaction, or a sleeper's, may yet be committed."""
    monkeypatch.setattr(Recovery, "_await_stable", _always(None))
    assert _is_seen("not waiting")


def test_reading_what_is_not_committed(monkeypatch):
    """Records of aborted transactions stand in the log like any others."""
    read = MemoryLog.read

    def uncommitted(self, topic, partitions, begin=None, end=None, *, committed=True):
        return read(self, topic, partitions, begin, end, committed=False)

    monkeypatch.setattr(MemoryLog, "read", uncommitted)
    assert _is_seen("uncommitted")


def test_offsets_without_the_groups_metadata(monkeypatch):
    """The broker then takes them from anybody, a worker of the last generation included."""

    def send_offsets(self, transaction, offsets, membership):
        self._check_producer(transaction)
        transaction.offsets |= offsets

    monkeypatch.setattr(MemoryLog, "send_offsets", send_offsets)
    assert _is_seen("no metadata")


def test_metadata_as_they_are_at_the_commit(monkeypatch):
    """After an eviction they say that there is no membership, which the broker believes."""
    steps = MemoryTransactions.steps

    def late(self, flush, membership):
        is_member = membership.generation == self.log.generation and (
            membership.member_id in self.log.members
        )
        return steps(self, flush, membership if is_member else Membership(-1, ""))

    def at_the_commit(self, transaction, offsets, membership):
        self._check_producer(transaction)
        transaction.offsets |= offsets

    monkeypatch.setattr(MemoryTransactions, "steps", late)
    monkeypatch.setattr("tests.simulation.log.group_metadata", _always(b""))
    monkeypatch.setattr(MemoryLog, "send_offsets", at_the_commit)
    assert _is_seen("late metadata")


def test_batches_that_need_not_join(monkeypatch):
    """Records that Faust throws away, or hands over again, would be lost or counted twice."""
    _without_joins(monkeypatch)
    assert _is_seen("positions")


def _without_joins(monkeypatch):
    for module in ("fold", "merge"):
        monkeypatch.setattr(f"streams.{module}.trimmed", lambda _, batch: batch.records)


def test_a_chain_that_need_not_join(monkeypatch):
    """A block of partials that is lost, or comes twice, would be added up all the same."""
    monkeypatch.setattr(Merge, "_follows", _always(True))

    def torn(data: bytes) -> None:
        entries, history = short_history(data)
        play = Play(entries, Group(least_definitions()))
        play.run([Step("tear", (0, 3, 5, data[0], 0)), *history])
        check(entries, play.group, compare_actions=True)

    assert _is_seen("chain", torn)


def test_state_that_does_not_name_its_writer_first(monkeypatch):
    """Nobody could end the transaction of a worker that died before it came to say who it is."""
    records = property(
        lambda self: [*self.state, *self.progress.values(), *self.outputs],
    )
    monkeypatch.setattr(Flush, "records", records)
    assert _is_seen("writer")


def test_offsets_before_state(monkeypatch):
    """A sleeper has passed the check then, and has left nothing to be waited for."""

    def steps(self, flush, membership):
        transaction = self.log.begin(self.producer)
        self.log.send_offsets(transaction, flush.offsets, membership)
        yield
        for record in flush.records:
            self.log.append(record, transaction)
            yield
        yield
        self.log.end(transaction, "committed")

    monkeypatch.setattr(MemoryTransactions, "steps", steps)
    assert _is_seen("offsets first")
