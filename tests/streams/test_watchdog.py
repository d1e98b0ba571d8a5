"""What counts as standing still, and for how long it may."""

from faust.types import TP

from streams.watchdog import Patience, Place, Standing

TP0, TP1 = TP("events", 0), TP("events", 1)


def _at(fetched: int | None, committed: int, *, is_held: bool = False) -> Standing:
    return Standing("processes", 0, {TP0: Place(fetched, committed, is_held)})


class Looking:
    """Looks every second, with a limit of three; the loop beats unless it is said not to."""

    def __init__(self) -> None:
        self.patience = Patience(3.0)
        self.beats = 0

    def look(self, standing: Standing, end: int | None, *, beat: bool = True) -> list[str]:
        self.beats += beat
        ends = None if end is None else {TP0: end}
        return self.patience.look(1.0, self.beats, standing, ends)

    def times(self, count: int, standing: Standing, end: int | None) -> list[str]:
        for _ in range(count - 1):
            assert [] == self.look(standing, end)
        return self.look(standing, end)


def test_records_that_nobody_fetches_are_a_stall():
    """The message says where the partition is, and where it ends."""
    found = Looking().times(4, _at(5, 5), 9)

    assert found == [
        "events[0]: found position 5, fetched up to 5, of 9 for 3 s, expected progress"
    ]


def test_what_is_taken_and_not_committed_is_a_stall():
    """Also where nothing more is to be fetched."""
    found = Looking().times(4, _at(9, 5, is_held=True), 9)

    assert found == [
        "events[0]: found position 5, fetched up to 9, of 9 for 3 s, expected progress"
    ]


def test_any_progress_begins_the_wait_anew():
    """A slow partition is not a stalled one."""
    looking = Looking()
    for position in range(20):
        assert [] == looking.look(_at(position, position), 100)
        assert [] == looking.look(_at(position, position), 100)
    assert {"events[0]": 1.0} == looking.patience.waited_s


def test_a_partition_with_nothing_in_front_of_it_may_stand_for_ever():
    """Markers of transactions after the last record are fetched, and belong to no batch."""
    assert [] == Looking().times(50, _at(9, 8), 9)


def test_a_partition_that_has_to_wait_for_others_is_not_stalled():
    """A rebuild holds back what is far ahead in event time; what was taken of it still counts."""
    waiting = Standing("processes", 0, {TP0: Place(5, 5, is_held=False, is_wanted=False)})
    held = Standing("processes", 0, {TP0: Place(5, 4, is_held=True, is_wanted=False)})

    assert [] == Looking().times(50, waiting, 9)
    assert [] != Looking().times(4, held, 9)


def test_a_position_that_the_fetcher_never_learns_is_a_stall():
    """As long as it does not know one, what is committed stands for it."""
    found = Looking().times(4, _at(None, 5), 9)

    assert found == [
        "events[0]: found position 5, fetched up to None, of 9 for 3 s, expected progress"
    ]


def test_brokers_that_do_not_answer_end_the_worker():
    """Nobody knows then whether there is anything to do."""
    looking = Looking()
    looking.look(_at(5, 5), 5)
    found = looking.times(3, _at(5, 5), None)

    assert found == ["brokers: found no answer for 3 s, expected the ends of the partitions"]


def test_a_loop_that_does_not_turn_is_a_stall_whatever_else_there_is():
    """What it last told of the partitions is old then."""
    looking = Looking()
    looking.look(_at(5, 5), 5)
    for _ in range(2):
        assert [] == looking.look(_at(5, 5), 5, beat=False)

    assert ["event loop: found no turn for 3 s, expected one every moment"] == looking.look(
        _at(5, 5), 5, beat=False
    )


def test_who_gets_no_partitions_or_recovers_without_end_has_twice_the_patience():
    """A group waits for its stalled members first; recovery that reads on is none."""
    waiting = Standing("waits for partitions", 0, {})
    found = Looking().times(7, waiting, 0)
    recovering = Looking()
    for step in range(50):
        assert [] == recovering.look(Standing("recovers partitions", step, {}), 0)

    assert found == ["worker: found that it waits for partitions for 6 s, expected to be at work"]


def test_a_worker_that_the_group_has_no_partition_for_may_wait_for_ever():
    """There are more workers than partitions: it stands by."""
    assert [] == Looking().times(50, Standing("stands by", 0, {}), 0)
