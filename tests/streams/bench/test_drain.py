"""How long after a burst as little is unseen as before it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.bench.drain import drained_after_s


def drained(events, since_ms, most):
    append_ms, waits_ms = np.array(events, float).reshape(-1, 2).T
    return drained_after_s(append_ms, waits_ms, since_ms, most)


def test_it_is_drained_when_no_more_than_so_many_are_unseen():
    """Of four that are seen one by one from 1,000 ms on, two are left at 2,000."""
    events = [(0, 1_000), (0, 2_000), (0, 3_000), (0, 4_000)]

    assert 1.9 == drained(events, since_ms=100, most=2)


def test_what_was_never_behind_has_nothing_to_drain():
    """One event at a time is not two."""
    assert 0.0 == drained([(0, 50), (100, 50), (200, 50)], since_ms=100, most=1)


def test_what_is_behind_again_later_was_not_drained():
    """It counts from when it stays so."""
    events = [(0, 100), (0, 200), (500, 300), (500, 400), (500, 500)]

    assert 0.8 == drained(events, since_ms=0, most=2)


def test_what_is_never_seen_is_never_drained():
    """A gap of two is two unseen for ever."""
    events = [(0, float("nan")), (0, float("nan")), (0, 10)]

    assert drained(events, since_ms=0, most=1) is None


TIMES = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=1, max_size=12)


@given(TIMES, st.integers(0, 40), st.integers(0, 4))
def test_the_arithmetic_is_that_of_looking_at_every_millisecond(events, since_ms, most):
    """The last millisecond at which more were unseen is the last one before it was drained."""
    unseen = {
        now: sum(append <= now < append + wait for append, wait in events)
        for now in range(since_ms, 80)
    }
    over = [now for now, count in unseen.items() if count > most]

    expected = (max(over) + 1 - since_ms) / 1000 if over else 0.0
    assert expected == drained(events, since_ms, most)
