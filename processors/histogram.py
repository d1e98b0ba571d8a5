"""Log-bucket histograms of durations: mergeable, order-free, 1 % relative error.

The rule is DDSketch's (Masson, Rim and Lee, VLDB 2019): buckets grow by ``(1 + a) / (1 - a)`` with
``a`` = 1 %, so one point of a bucket is within 1 % of everything in it. Adding two histograms is
adding their counts.

Bucket 0 holds everything below 100 ms and stands for 0 ms; bucket ``b >= 1`` holds
``[FLOORS[b - 1], FLOORS[b])``; the last one takes all that is longer than 30 days.
"""

from collections.abc import Sequence
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
class Stretches:
    """Counts of several histograms by row, each a stretch of the same two arrays.

    ``edges`` [rows, histograms + 1] are where the stretches of a row begin and the last one ends;
    ``bases`` [rows, histograms] are the numbers that bucket 0 has there.
    """

    numbers: Counts
    counts: Counts
    edges: Counts
    bases: Counts


@dataclass(frozen=True, slots=True)
class SparseCounts:
    """Counts of a histogram by row, the empty buckets left out: stretches of the same arrays.

    The counts of row ``r`` are those at ``firsts[r]`` to ``ends[r]``, for buckets that have their
    ``numbers``, of which ``bases[r]`` is bucket 0. ``reached`` is what all counts before one add
    up to, and one longer.
    """

    numbers: Counts
    reached: Counts
    firsts: Counts
    ends: Counts
    bases: Counts

    @classmethod
    def of(cls, entries: npt.ArrayLike, rows: int) -> "SparseCounts":
        """Return the counts of (row, bucket, count) entries in any order, no pair twice."""
        row, bucket, count = np.array(entries, dtype=np.int64).reshape(-1, 3).T
        order = np.lexsort((bucket, row))
        edges = np.searchsorted(row[order], np.arange(rows + 1))
        stretches = np.stack([edges[:-1], edges[1:]], axis=1)
        bases = np.zeros((rows, 1), np.int64)
        return cls.joined([Stretches(bucket[order], count[order], stretches, bases)])[0]

    @classmethod
    def joined(cls, several: Sequence[Stretches]) -> "list[SparseCounts]":
        """Return the counts of each histogram, the rows of all one after the other."""
        starts = np.cumsum([0, *(len(each.numbers) for each in several)])
        edges = np.concatenate([e.edges + start for e, start in zip(several, starts, strict=False)])
        bases = np.concatenate([each.bases for each in several])
        numbers = np.concatenate([each.numbers for each in several])
        reached = np.zeros(len(numbers) + 1, np.int64)
        np.cumsum(np.concatenate([each.counts for each in several]), out=reached[1:])
        return [
            cls(numbers, reached, edges[:, i], edges[:, i + 1], bases[:, i])
            for i in range(bases.shape[1])
        ]

    def totals(self) -> Counts:
        """Return how many values each row holds."""
        return self.reached[self.ends] - self.reached[self.firsts]

    def quantile(self, q: float) -> npt.NDArray[np.float64]:
        """Return the ``q`` quantile of each row in milliseconds; NaN for a row without counts.

        It is SQL's PERCENTILE_DISC, the smallest value that at least ``q`` of all values do not
        exceed, within RELATIVE_ERROR (from SMALLEST_MS on; below that it is 0).
        """
        totals = self.totals()
        filled = np.flatnonzero(totals)
        # 0.07 * 100 is a hair above 7 in floats, and must still ask for the seventh value.
        ranks = np.maximum(np.ceil(q * totals[filled] - 1e-9), 1).astype(np.int64)
        # Counts run on from row to row: a rank is looked up behind all rows before its own.
        before = self.reached[self.firsts[filled]]
        places = np.searchsorted(self.reached[1:], before + ranks)
        values = np.full(len(totals), np.nan)
        values[filled] = REPRESENTATIVES[self.numbers[places] - self.bases[filled]]
        return values
