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


def test_where_in_a_bucket_the_run_begins_and_ends_says_nothing():
    """Ids are forgotten ten minutes at a time: four teeth of a saw are flat, wherever cut."""
    saw = np.array([600.0 + 5 * (minute % 10) for minute in range(60)])
    slopes = [trend(saw[start : start + 40], settle_min=0).slope_mb_per_hour for start in range(10)]

    assert [0.0] * 10 == [round(slope, 6) for slope in slopes]


def test_a_few_minutes_say_nothing():
    """Neither do nineteen after it has settled."""
    assert (None, None) == (
        trend(np.arange(400.0, 419.0), settle_min=0).flat,
        trend(np.arange(400.0, 430.0), settle_min=80).flat,
    )
