"""Memory is flat, or it is not, or the run was too short to say so."""

import numpy as np

from streams.bench.endurance import trend


def test_memory_that_stays_is_flat():
    """What it does before it has settled does not count."""
    found = trend(np.array([100.0, 200.0, 300.0, *[400.0] * 20]), settle_min=3)

    assert (20, 400.0, 0.0, True) == (
        found.minutes,
        found.mean_mb,
        round(found.slope_mb_per_hour, 6),
        found.flat,
    )


def test_memory_that_grows_a_megabyte_a_minute_is_not_flat():
    """Sixty in an hour are more than three percent of what it has."""
    found = trend(np.arange(400.0, 430.0), settle_min=0)

    assert (60.0, False) == (round(found.slope_mb_per_hour, 6), found.flat)


def test_memory_that_shrinks_is_flat():
    """Nobody will run out of it."""
    assert trend(np.arange(430.0, 400.0, -1), settle_min=0).flat is True


def test_a_few_minutes_say_nothing():
    """A slope is given, no verdict."""
    assert (None, None) == (
        trend(np.arange(400.0, 409.0), settle_min=0).flat,
        trend(np.arange(400.0, 430.0), settle_min=80).flat,
    )
