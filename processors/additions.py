"""Additions: rows of sections on their way into the windows of a scope.

The windows of a scope that lie over each other get the same rows. So rows wait, by the windows that
they are for, until somebody looks at these; then they are added up once, and the result goes into
each window. Adding up ten rows or a thousand costs nearly the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from processors.histogram import BUCKETS
from processors.kpis import Scope
from processors.segment_store import Place
from processors.segments import AttributeRows, HistogramRows, Segment, SumRows

Codes = NDArray[np.int32]
Numbers = NDArray[np.int64]
Rows = NDArray[np.intp]

#: Rows that may wait in a scope, however few keys it has.
MOST_WAITING = 4_096


@dataclass(frozen=True, slots=True)
class SumAddition:
    """What is added to the sums [rows, width] of keys, with the attributes of these if any.

    Codes come in any order, and any number of times.
    """

    codes: Codes
    values: Numbers
    attribute_times: Numbers | None = None
    attributes: NDArray[np.object_] | None = None

    def some(self, rows: Rows) -> SumAddition:
        """Return some of the rows."""
        if self.attributes is None or self.attribute_times is None:
            return SumAddition(self.codes[rows], self.values[rows])
        noted = self.attribute_times[rows], self.attributes[rows]
        return SumAddition(self.codes[rows], self.values[rows], *noted)


@dataclass(frozen=True, slots=True)
class HistogramAddition:
    """What is added to the counts of keys; a place is that of :class:`HistogramRows`."""

    codes: Codes
    places: Numbers
    counts: Numbers

    def some(self, rows: Rows) -> HistogramAddition:
        """Return some of the rows."""
        return HistogramAddition(self.codes[rows], self.places[rows], self.counts[rows])


Addition = SumAddition | HistogramAddition


@dataclass(frozen=True, slots=True)
class Target:
    """The windows that rows are for, and those in which their source was final before them."""

    places: tuple[Place, ...]
    revised: frozenset[Place] = frozenset()


@dataclass(frozen=True, slots=True)
class Sum:
    """Additions, added up."""

    sums: SumRows | None
    attributes: AttributeRows | None
    histograms: HistogramRows | None

    def add_to(self, segment: Segment, *, revises: bool = False) -> None:
        """Add all of it to a segment, and say so if that was final."""
        if self.sums is not None:
            segment.add(self.sums)
        if self.histograms is not None:
            segment.add_histograms(self.histograms)
        if self.attributes is not None:
            segment.note_attributes(self.attributes)
        for rows in (self.sums, self.histograms) if revises else ():
            if rows is not None:
                segment.revise(rows.codes)


@dataclass(slots=True)
class Waiting:
    """Additions of one scope that wait, by what they are for; ``rows`` counts theirs."""

    histograms: int
    rows: int = 0
    additions: dict[Target, list[Addition]] = field(default_factory=dict)

    def put(self, target: Target, addition: Addition) -> None:
        """Let an addition wait."""
        self.additions.setdefault(target, []).append(addition)
        self.rows += len(addition.codes)

    def take(self) -> Iterator[tuple[Target, Sum]]:
        """Yield all that has waited, added up; nothing waits then."""
        taken, self.additions, self.rows = self.additions, {}, 0
        for target, additions in taken.items():
            yield target, added_up(additions, self.histograms)


def split(
    addition: Addition, panes: Numbers, chosen: NDArray[np.bool_] | None = None
) -> Iterator[tuple[int, Addition]]:
    """Yield each pane of the rows with those in it; only of chosen rows, if any are."""
    if chosen is not None and not chosen.all():
        rows = np.flatnonzero(chosen)
        addition, panes = addition.some(rows), panes[rows]
    if not len(panes):
        return
    if (panes == panes[0]).all():
        yield int(panes[0]), addition
        return
    for pane in np.unique(panes).tolist():
        yield pane, addition.some(np.flatnonzero(panes == pane))


def added_up(additions: Sequence[Addition], histograms: int) -> Sum:
    """Add up additions to a scope that has so many histograms."""
    sums = [each for each in additions if isinstance(each, SumAddition)]
    counts = [each for each in additions if isinstance(each, HistogramAddition)]
    noted = [each for each in sums if each.attributes is not None]
    return Sum(
        SumRows.of(*_joined(sums, "codes", "values")) if sums else None,
        AttributeRows.of(*_joined(noted, "codes", "attribute_times", "attributes"))
        if noted
        else None,
        HistogramRows.of(histograms, *_joined(counts, "codes", "places", "counts"))
        if counts
        else None,
    )


def _joined(additions: Sequence[Addition], *names: str) -> Iterator[NDArray[Any]]:
    for name in names:
        arrays = [getattr(each, name) for each in additions]
        yield arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a section's rows as arrays; ``names`` are those of its measures."""

    names: tuple[str, ...]
    arrays: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, rows: pl.DataFrame, names: tuple[str, ...]) -> Columns:
        """Return the columns of rows but their keys."""
        columns = (rows.get_column(name) for name in rows.columns if name != "key")
        return cls(names, {column.name: _array(column) for column in columns})

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def rows(self, rows: slice | NDArray[np.intp]) -> Columns:
        """Return some of the rows."""
        return Columns(self.names, {name: array[rows] for name, array in self.arrays.items()})

    def addition(self, scope: Scope, codes: Codes) -> Addition:
        """Return what the rows, all of a scope and of keys with these codes, add to it."""
        if "place" in self.arrays:
            places = self["place"]
            if self.names != scope.histograms:
                places = places + _shifts(scope.histograms, self.names)[places // BUCKETS]
            return HistogramAddition(codes, places, self["count"])
        values = np.zeros((len(codes), len(scope.sums)), np.int64)
        own, theirs = _shared(scope.sums, self.names)
        values[:, own] = self["values"][:, theirs]
        if not scope.attributes:
            return SumAddition(codes, values)
        return SumAddition(codes, values, self["attribute_time"], self["attribute"])


def _array(column: pl.Series) -> NDArray[Any]:
    if column.dtype == pl.String:
        return np.array(column.to_list(), np.object_)
    return np.asarray(column.to_numpy())


@lru_cache
def _shared(own: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[list[int], list[int]]:
    """Return the places of names that both have, in each of them."""
    both = [name for name in theirs if name in own]
    return [own.index(name) for name in both], [theirs.index(name) for name in both]


@lru_cache
def _shifts(own: tuple[str, ...], theirs: tuple[str, ...]) -> Numbers:
    """Return how far the places of each of their histograms are from those of the same of ours."""
    places = [own.index(name) - place if name in own else 0 for place, name in enumerate(theirs)]
    return np.array(places, np.int64) * BUCKETS
