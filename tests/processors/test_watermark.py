"""Event-time progress of a partition."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from processors.watermark import BEFORE_ALL_MS, Lateness, combined, expired, running_watermarks
from tests.laws import cut, law

LATENESS = Lateness(disorder_ms=2_000, grace_ms=10_000)

times = st.lists(st.integers(0, 100_000), max_size=40)


def _whole(event_times: list[int], start: int) -> tuple[list[int], int]:
    before, after = running_watermarks(np.array(event_times, dtype=np.int64), start, LATENESS)
    return before.tolist(), after


def test_the_watermark_follows_the_newest_event_less_the_disorder():
    """It is the highest event time so far minus the disorder; an event sees the one before it."""
    assert ([0, 3_000, 7_000], 7_000) == _whole([5_000, 9_000, 6_000], 0)


@law()
@given(times, st.integers(0, 50_000))
def test_the_watermark_never_falls(event_times, start):
    """Neither an old event nor an old start lowers it."""
    before, after = _whole(event_times, start)

    assert sorted(before) == before
    assert after >= max([start, *before])


@law()
@given(times, st.lists(st.integers(0, 40)))
def test_the_watermark_does_not_depend_on_where_batches_are_cut(event_times, places):
    """Taken in pieces, each event sees the watermark that it sees in one batch."""
    whole = _whole(event_times, BEFORE_ALL_MS)
    seen: list[int] = []
    watermark = BEFORE_ALL_MS
    for piece in cut(event_times, places):
        before, watermark = _whole(piece, watermark)
        seen += before

    assert whole == (seen, watermark)


def test_an_event_expires_when_it_is_more_than_the_grace_behind():
    """At the grace exactly it still counts; a millisecond earlier it does not."""
    found = expired(np.array([90_000, 89_999]), np.array([100_000, 100_000]), LATENESS)

    assert [False, True] == found.tolist()


def test_an_empty_partition_holds_nothing_back_and_an_unknown_one_everything():
    """None stands for known to be empty; all of them empty give no time at all."""
    assert combined([7, None, 5]) == 5
    assert combined([None, None]) is None
    assert combined([7, BEFORE_ALL_MS]) == BEFORE_ALL_MS


@law()
@given(times, st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60_000))))
def test_an_advance_raises_the_watermark_from_its_place_on(event_times, advances):
    """Made on the way through a batch, it does what it does between two batches."""
    placed = [(min(row, len(event_times)), raised_ms) for row, raised_ms in advances]
    seen: list[int] = []
    watermark = BEFORE_ALL_MS
    for row in range(len(event_times) + 1):
        raised = [raised_ms for place, raised_ms in placed if place == row]
        watermark = max([watermark, *raised])
        before, watermark = _whole(event_times[row : row + 1], watermark)
        seen += before

    found, after = running_watermarks(
        np.array(event_times, dtype=np.int64), BEFORE_ALL_MS, LATENESS, placed
    )

    assert (seen, watermark) == (found.tolist(), after)
