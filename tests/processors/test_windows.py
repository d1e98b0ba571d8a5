"""Which windows hold an instant."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.windows import day_starts, day_window, floor_to, window_end, window_starts
from tests.laws import law

MINUTE = 60_000
HOUR = 60 * MINUTE

instants = st.integers(-(10**12), 4 * 10**12)


def _ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@law()
@given(st.lists(instants, min_size=1), st.sampled_from([1_000, 10_000, MINUTE, 15 * MINUTE]))
def test_a_tumbling_window_holds_its_instant_and_starts_at_a_multiple_of_its_size(times, size):
    """Every instant lies in exactly one tumbling window, [start, end), aligned to the epoch."""
    (starts,) = window_starts(np.array(times), "TUMBLING", size, size, "UTC")

    for time, start in zip(times, starts.tolist(), strict=True):
        assert 0 == start % size
        assert start <= time < window_end(start, "TUMBLING", size, "UTC")


@law()
@given(instants, st.sampled_from([(5 * MINUTE, MINUTE), (HOUR, 15 * MINUTE), (MINUTE, MINUTE)]))
def test_an_instant_lies_in_every_hopping_window_that_spans_it_and_in_no_other(time, sizes):
    """A window of size s that moves by h holds each instant s / h times."""
    size, hop = sizes
    found = {int(s[0]) for s in window_starts(np.array([time]), "HOPPING", size, hop, "UTC")}
    newest = time - time % hop
    candidates = range(newest - 2 * size, newest + 2 * size, hop)

    assert {start for start in candidates if start <= time < start + size} == found


@pytest.mark.parametrize(
    ("instant", "start", "hours"),
    [
        pytest.param("2026-03-28T22:59:59", "2026-03-27T23:00:00", 24, id="before the change"),
        pytest.param("2026-03-28T23:00:00", "2026-03-28T23:00:00", 23, id="spring: 23 hours"),
        pytest.param("2026-03-29T21:59:59", "2026-03-28T23:00:00", 23, id="spring, last second"),
        pytest.param("2026-03-29T22:00:00", "2026-03-29T22:00:00", 24, id="the day after"),
        pytest.param("2026-10-24T22:00:00", "2026-10-24T22:00:00", 25, id="autumn: 25 hours"),
        pytest.param("2026-10-25T22:59:59", "2026-10-24T22:00:00", 25, id="autumn, last second"),
    ],
)
def test_a_day_is_the_calendar_day_of_its_zone_however_long_it_is(instant, start, hours):
    """The day in Berlin runs from midnight to midnight there, over the change of clocks too."""
    time, expected = _ms(instant), _ms(start)

    assert (expected, expected + hours * HOUR) == day_window(time, "Europe/Berlin")
    assert [expected] == day_starts(np.array([time]), "Europe/Berlin").tolist()
    assert expected + hours * HOUR == window_end(expected, "DAY", 24 * HOUR, "Europe/Berlin")


@law()
@given(
    st.lists(st.integers(0, 4 * 10**12), max_size=20),
    st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe"]),
)
def test_the_columns_of_days_say_what_single_days_say(times, zone):
    """Looked up by quarter hours, an instant is in the same day as looked up alone."""
    expected = [day_window(time, zone)[0] for time in times]

    assert expected == day_starts(np.array(times, dtype=np.int64), zone).tolist()


@law()
@given(instants, st.sampled_from([10_000, MINUTE, 15 * MINUTE]))
def test_all_instants_of_a_pane_are_in_the_same_windows(time, pane):
    """A pane lies whole in each window, so a window may be found by the start of the pane."""
    start = floor_to(np.array([time]), pane)
    inside = np.array([time])
    for kind, size, hop in [("TUMBLING", 15 * MINUTE, 0), ("HOPPING", HOUR, 15 * MINUTE)]:
        by_pane = window_starts(start, kind, size, hop, "UTC")

        assert [s.tolist() for s in window_starts(inside, kind, size, hop, "UTC")] == [
            s.tolist() for s in by_pane
        ]
