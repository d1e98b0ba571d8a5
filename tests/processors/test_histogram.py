"""Log-bucket histograms of durations."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from processors.histogram import (
    BUCKETS,
    FLOORS,
    LARGEST_MS,
    RELATIVE_ERROR,
    SMALLEST_MS,
    SparseCounts,
    bucket_expression,
    bucket_of,
)

DURATIONS = st.lists(st.integers(min_value=0, max_value=LARGEST_MS), min_size=1, max_size=200)


def histogram(values_ms: list[int]) -> np.ndarray:
    buckets = bucket_of(np.array(values_ms, dtype=np.int64))
    return np.bincount(buckets, minlength=BUCKETS).astype(np.int64)


def sparse(*rows: list[int]) -> SparseCounts:
    dense = [histogram(row) for row in rows]
    entries = [(r, int(b), int(d[b])) for r, d in enumerate(dense) for b in np.flatnonzero(d)]
    return SparseCounts.of(entries[::-1], len(rows))


@given(DURATIONS, st.floats(min_value=0.01, max_value=0.99))
def test_a_quantile_is_within_one_percent_of_the_smallest_value_that_covers_its_share(values, q):
    """A quantile is within 1 % of SQL's PERCENTILE_DISC; what lies below 100 ms counts as 0."""
    exact = np.sort(values)[max(int(np.ceil(q * len(values) - 1e-9)), 1) - 1]
    expected = 0 if exact < SMALLEST_MS else exact

    assert abs(sparse(values).quantile(q)[0] - expected) <= (RELATIVE_ERROR * expected * (1 + 1e-9))


@given(DURATIONS, st.randoms(use_true_random=False))
def test_histograms_add_up_in_any_order_and_in_any_parts(values, random):
    """The histogram of all values is the sum of the histograms of any parts, in any order."""
    shuffled = random.sample(values, len(values))
    cut = random.randint(0, len(values))

    assert (histogram(values) == histogram(shuffled[:cut]) + histogram(shuffled[cut:])).all()


@given(st.lists(st.none() | st.integers(min_value=-5, max_value=2 * LARGEST_MS), max_size=50))
def test_the_expression_finds_the_same_buckets_as_the_array_function(values):
    """Polars and NumPy put a value into the same bucket; null has none."""
    frame = pl.DataFrame({"value": values}, schema={"value": pl.Int64})
    buckets = frame.select(bucket_expression(pl.col("value"))).to_series()
    expected = [None if v is None else int(bucket_of(np.array([v]))[0]) for v in values]

    assert pl.Series("value", expected, dtype=pl.Int64).to_list() == buckets.to_list()


def test_every_boundary_opens_its_own_bucket():
    """A bucket begins with its floor and ends with the millisecond before the next one."""
    numbers = np.arange(1, BUCKETS)

    assert (bucket_of(FLOORS) == numbers).all()
    assert (bucket_of(FLOORS - 1) == numbers - 1).all()


def test_what_is_longer_than_thirty_days_counts_in_the_last_bucket():
    """No duration falls outside."""
    assert [BUCKETS - 1] * 2 == bucket_of(np.array([LARGEST_MS, 100 * LARGEST_MS])).tolist()


def test_a_histogram_without_counts_has_no_quantile():
    """No data is NaN, never 0, and does not disturb its neighbours."""
    np.testing.assert_array_equal([np.nan, 0.0, np.nan], sparse([], [50], []).quantile(0.5))


def test_rows_do_not_touch_each_other():
    """Each row has its own quantile and its own count, whatever stands before it."""
    counts = sparse([1_000] * 9 + [60_000], [], [5_000])
    found = [counts.quantile(q) for q in (0.5, 0.9, 0.91)]

    assert [10, 0, 1] == counts.totals().tolist()
    np.testing.assert_allclose(
        [[1_000, 1_000, 60_000], [np.nan] * 3, [5_000] * 3],
        np.array(found).T,
        rtol=RELATIVE_ERROR,
    )
