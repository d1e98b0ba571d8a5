"""Log-bucket histograms of durations: mergeable, order-free, 1 % relative error.

The rule is DDSketch's (Masson, Rim and Lee, VLDB 2019): buckets grow by ``(1 + a) / (1 - a)`` with
``a`` = 1 %, so one point of a bucket is within 1 % of everything in it. Adding two histograms is
adding their counts.

Bucket 0 holds everything below 100 ms and stands for 0 ms; bucket ``b >= 1`` holds
``[FLOORS[b - 1], FLOORS[b])``; the last one takes all that is longer than 30 days.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

RELATIVE_ERROR: Final = 0.01
SMALLEST_MS: Final = 100
LARGEST_MS: Final = 30 * 86_400_000

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def _floors() -> Counts:
    # Whole-number arithmetic: (1 + a) / (1 - a) is 101 / 99, and a float power could put a
    # boundary one millisecond elsewhere on another machine.
    floors = []
    up, down = SMALLEST_MS, 1
    while (floor := -(-up // down)) <= LARGEST_MS:
        floors.append(floor)
        up, down = up * 101, down * 99
    return np.array(floors, dtype=np.int64)


FLOORS: Final = _floors()
"""The first whole millisecond of each bucket from 1 on, ascending, shape [BUCKETS - 1]."""

BUCKETS: Final = len(FLOORS) + 1
"""How many buckets there are, bucket 0 included."""


def _representatives() -> Floats:
    growth = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
    exact_floors = SMALLEST_MS * growth ** np.arange(BUCKETS - 1)
    return np.concatenate(([0.0], exact_floors * (1 + RELATIVE_ERROR)))


REPRESENTATIVES: Final = _representatives()
"""The milliseconds a bucket stands for, shape [BUCKETS]."""

_FLOOR_SERIES: Final = pl.Series("floors", FLOORS)


def bucket_of(values_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the bucket, 0 to BUCKETS - 1, of each duration in milliseconds.

    >>> bucket_of(np.array([0, 99, 100, 102, 103]))
    array([0, 0, 1, 1, 2])
    """
    return np.searchsorted(FLOORS, values_ms, side="right").astype(np.int64)


def bucket_expression(value_ms: pl.Expr) -> pl.Expr:
    """Return an expression for the bucket (Int64) of durations in ms; null stays null."""
    bucket = pl.lit(_FLOOR_SERIES).search_sorted(value_ms, side="right").cast(pl.Int64)
    return pl.when(value_ms.is_not_null()).then(bucket)


@dataclass(frozen=True, slots=True)
class SparseCounts:
    """Counts of ``rows`` histograms, the empty buckets left out, ordered by row and bucket."""

    row: Counts
    bucket: Counts
    count: Counts
    rows: int

    @classmethod
    def of(cls, entries: npt.ArrayLike, rows: int) -> "SparseCounts":
        """Return the counts of (row, bucket, count) entries in any order, no pair twice."""
        row, bucket, count = np.array(entries, dtype=np.int64).reshape(-1, 3).T
        order = np.lexsort((bucket, row))
        return cls(row[order], bucket[order], count[order], rows)

    def totals(self) -> Counts:
        """Return how many values each row holds."""
        totals = np.zeros(self.rows, np.int64)
        np.add.at(totals, self.row, self.count)
        return totals

    def quantile(self, q: float) -> npt.NDArray[np.float64]:
        """Return the ``q`` quantile of each row in milliseconds; NaN for a row without counts.

        It is SQL's PERCENTILE_DISC, the smallest value that at least ``q`` of all values do not
        exceed, within RELATIVE_ERROR (from SMALLEST_MS on; below that it is 0).
        """
        totals = self.totals()
        # 0.07 * 100 is a hair above 7 in floats, and must still ask for the seventh value.
        ranks = np.maximum(np.ceil(q * totals - 1e-9), 1).astype(np.int64)
        before = np.cumsum(totals) - totals
        reached = np.cumsum(self.count)
        # Counts run on from row to row: a rank is looked up behind all rows before its own.
        places = np.searchsorted(reached, before + ranks)
        values = np.full(self.rows, np.nan)
        filled = totals > 0
        values[filled] = REPRESENTATIVES[self.bucket[places[filled]]]
        return values
