"""Segments: the sums of all keys of one scope in one window (or rule pane), as columns.

A segment knows keys by their code, a small integer that its scope gave them. Sums are whole
numbers, histograms are counts per bucket, attributes are those of the newest event: all of it adds
up to the same whatever the order.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import cramjam
import numpy as np
from numpy.typing import NDArray

from processors.histogram import BUCKETS, Stretches

Codes = NDArray[np.int32]
Slots = NDArray[np.int32]
Sums = NDArray[np.int64]
Names = NDArray[np.object_]

#: Counts of histograms: rows of (row, place, count), a place being histogram * BUCKETS + bucket.
Counts = NDArray[np.int64]

#: The time of attributes that nobody has told of.
UNKNOWN_TIME = -(2**62)

_TRUE = np.ones(1, np.bool_)


# What is added is arranged once, for all the segments that it is added to.


@dataclass(frozen=True, slots=True)
class SumRows:
    """Sums by key code: parallel arrays, ``values`` [rows, width], no code twice."""

    codes: Codes
    values: Sums

    @classmethod
    def of(cls, codes: Codes, values: Sums) -> SumRows:
        """Add up the rows of each code, in any order."""
        if (codes[1:] < codes[:-1]).any():
            order = np.argsort(codes, kind="stable")
            codes, values = codes[order], values[order]
        is_first = np.concatenate([_TRUE, codes[1:] != codes[:-1]])[: len(codes)]
        if is_first.all():
            return cls(codes, values)
        firsts = np.flatnonzero(is_first)
        return cls(codes[firsts], np.add.reduceat(values, firsts, axis=0))


@dataclass(frozen=True, slots=True)
class HistogramRows:
    """Counts per bucket: ``counts`` of the ascending ``numbers``, none twice, of all ``codes``.

    The number of a key's bucket is code * histograms * BUCKETS + place, its place that of the
    bucket, counted on through all histograms of the scope.
    """

    codes: Codes
    numbers: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(
        cls, histograms: int, codes: Codes, places: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> HistogramRows:
        """Arrange parallel arrays of key code, place and count, in any order."""
        numbers, counts = _summed(codes.astype(np.int64) * (histograms * BUCKETS) + places, counts)
        return cls(np.unique(codes), numbers, counts)


@dataclass(frozen=True, slots=True)
class AttributeRows:
    """Attributes by key code, no code twice."""

    codes: Codes
    times: NDArray[np.int64]
    values: Names

    @classmethod
    def of(cls, codes: Codes, times: NDArray[np.int64], values: Names) -> AttributeRows:
        """Keep the newest of each code, of two at one instant the greater; in any order.

        Those whose time is UNKNOWN_TIME say nothing.
        """
        order = np.lexsort((times, codes))
        order = order[times[order] != UNKNOWN_TIME]
        codes, times, values = codes[order], times[order], values[order]
        is_same = (codes[1:] == codes[:-1]) & (times[1:] == times[:-1])
        if is_same.any():
            pairs = sorted(zip(codes.tolist(), times.tolist(), values.tolist(), strict=True))
            values = np.array([value for *_, value in pairs], np.object_)
        newest = np.flatnonzero(np.concatenate([codes[1:] != codes[:-1], _TRUE])[: len(codes)])
        return cls(codes[newest], times[newest], values[newest])


class Tallies:
    """Counts by a whole number, in its order; what is added is looked at when somebody reads."""

    __slots__ = ("_added", "_counts", "_numbers")

    def __init__(self, numbers: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Take over numbers in ascending order, none twice, and their counts."""
        self._numbers = numbers
        self._counts = counts
        self._added: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def add(self, numbers: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Add counts of numbers in ascending order, none twice."""
        self._added.append((numbers, counts))

    def all(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all numbers, ascending, and the count of each."""
        if self._added:
            self._settle()
        return self._numbers, self._counts

    def _settle(self) -> None:
        numbers, counts = self._added[0]
        if len(self._added) > 1:
            several = (np.concatenate(each) for each in zip(*self._added, strict=True))
            numbers, counts = _summed(*several)
        self._added = []
        if not len(self._numbers):
            # Others are given the same arrays, and counts are added to in place.
            self._numbers, self._counts = numbers, counts.copy()
            return
        places = np.searchsorted(self._numbers, numbers)
        known = self._numbers[np.minimum(places, len(self._numbers) - 1)] == numbers
        self._counts[places[known]] += counts[known]
        if not known.all():
            self._numbers = np.insert(self._numbers, places[~known], numbers[~known])
            self._counts = np.insert(self._counts, places[~known], counts[~known])

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        added = sum(2 * numbers.nbytes for numbers, _ in self._added)
        return added + self._numbers.nbytes + self._counts.nbytes


class Segment:
    """Rows of one scope in ``[start_ms, end_ms)``.

    ``revised`` marks rows that changed when their source was final, ``final`` names the sources
    that are. ``unsaved`` tells that a checkpoint has to write it.
    """

    __slots__ = (
        "_attribute_times",
        "_attributes",
        "_codes",
        "_dirty",
        "_revised",
        "_rows",
        "_slots",
        "_sums",
        "_tallies",
        "_told",
        "end_ms",
        "final",
        "histograms",
        "start_ms",
        "unsaved",
    )

    def __init__(self, start_ms: int, end_ms: int, width: int, histograms: int = 0) -> None:
        self.histograms = histograms
        self.start_ms = start_ms
        self.end_ms = end_ms
        self.final: set[str] = set()
        self.unsaved = True
        self._rows = 0
        self._told = 0
        self._codes: Codes = np.empty(4, dtype=np.int32)
        self._sums: Sums = np.zeros((4, width), dtype=np.int64)
        self._dirty = np.zeros(4, dtype=np.bool_)
        self._revised = np.zeros(4, dtype=np.bool_)
        self._attribute_times: NDArray[np.int64] = np.empty(0, np.int64)
        self._attributes: Names = np.empty(0, np.object_)
        # By code; -1 where there is no row.
        self._slots: NDArray[np.int32] = np.empty(0, np.int32)
        self._tallies = Tallies(np.empty(0, np.int64), np.empty(0, np.int64))

    # -- adding -------------------------------------------------------------------------------

    def add(self, added: SumRows) -> None:
        """Add sums to the keys' rows."""
        slots = self._slots_of(added.codes)
        self._sums[slots] += added.values
        self._dirty[slots] = True
        self.unsaved = True

    def add_histograms(self, added: HistogramRows) -> None:
        """Add counts per bucket."""
        self._tallies.add(added.numbers, added.counts)
        slots = self._slots_of(added.codes)
        self._dirty[slots] = True
        self.unsaved = True

    def note_attributes(self, added: AttributeRows) -> None:
        """Keep the attributes of each key's newest event; of two at one instant the greater."""
        slots = self._slots_of(added.codes)
        missing = len(self._codes) - len(self._attributes)
        if missing:
            unknown = np.full(missing, UNKNOWN_TIME)
            self._attribute_times = np.concatenate([self._attribute_times, unknown])
            self._attributes = np.concatenate([self._attributes, np.full(missing, None)])
        known = self._attribute_times[slots]
        newer = added.times > known
        for place in np.flatnonzero(added.times == known).tolist():
            newer[place] = added.values[place] > self._attributes[slots[place]]
        self._attribute_times[slots[newer]] = added.times[newer]
        self._attributes[slots[newer]] = added.values[newer]
        self.unsaved = True

    def revise(self, codes: Codes) -> None:
        """Mark the keys' rows as changed after their source was final."""
        slots = self._slots_of(codes)
        self._revised[slots] = True

    def touch(self, rows: NDArray[np.intp] | slice) -> None:
        """Mark rows as changed and not yet published."""
        self._dirty[: self._rows][rows] = True

    def clean(self, rows: NDArray[np.intp]) -> None:
        """Mark rows as published, all new ones among them."""
        self._dirty[rows] = False
        self._told = self._rows

    # -- reading ------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self._rows

    @property
    def codes(self) -> Codes:
        """The code of each row's key."""
        return self._codes[: self._rows]

    @property
    def sums(self) -> Sums:
        """The sums of each row, [rows, width]."""
        return self._sums[: self._rows]

    @property
    def revised(self) -> NDArray[np.bool_]:
        """Whether each row changed after its source was final."""
        return self._revised[: self._rows]

    @property
    def noted(self) -> tuple[NDArray[np.int64], list[str | None]]:
        """Times and attributes of the first rows, UNKNOWN_TIME and None where a row has none."""
        known = min(self._rows, len(self._attributes))
        return self._attribute_times[:known], self._attributes[:known].tolist()

    def counts_of(self, rows: NDArray[np.intp]) -> Counts:
        """Return the counts of the given rows, named by their place in ``rows``, in that order."""
        numbers, counts = self._tallies.all()
        if not len(numbers):
            return np.empty((0, 3), np.int64)
        codes = self.codes[rows].astype(np.int64)
        firsts = np.searchsorted(numbers, codes * self._places)
        lengths = np.searchsorted(numbers, (codes + 1) * self._places) - firsts
        names = np.repeat(np.arange(len(rows)), lengths)
        before = np.cumsum(lengths) - lengths
        found = np.arange(len(names)) + (firsts - before)[names]
        return np.stack([names, numbers[found] % self._places, counts[found]], axis=1)

    def stretches_of(self, rows: NDArray[np.intp]) -> Stretches:
        """Return the counts of the given rows by histogram, in the order of ``rows``."""
        numbers, counts = self._tallies.all()
        firsts = self.codes[rows].astype(np.int64) * self._places
        bases = firsts[:, None] + np.arange(self.histograms + 1) * BUCKETS
        edges = np.searchsorted(numbers, bases.reshape(-1)).reshape(bases.shape)
        starts = edges[:, 0]
        lengths = edges[:, -1] - starts
        if 2 * lengths.sum() > len(numbers):
            # Most are asked for: all of them cost less than to pick some.
            return Stretches(numbers, counts, edges, bases[:, :-1])
        shifts = starts - (np.cumsum(lengths) - lengths)
        found = np.repeat(shifts, lengths)
        found += np.arange(len(found))
        return Stretches(numbers[found], counts[found], edges - shifts[:, None], bases[:, :-1])

    def attributes_of(self, rows: NDArray[np.intp], unknown: str) -> list[str]:
        """Return the attributes of rows, or what stands for unknown ones."""
        if not len(self._attributes):
            return [unknown] * len(rows)
        # Rows may have come since attributes were last told of.
        known = rows < len(self._attributes)
        found = self._attributes[np.where(known, rows, 0)]
        found[~known | (found == None)] = unknown  # noqa: E711 - of each of an array
        return list(found.tolist())

    def dirty_rows(self) -> NDArray[np.intp]:
        """Return the rows that changed since they were last published."""
        return np.flatnonzero(self._dirty[: self._rows])

    def new_rows(self) -> NDArray[np.intp]:
        """Return the changed rows that were never published."""
        return self._told + np.flatnonzero(self._dirty[self._told : self._rows])

    @property
    def nbytes(self) -> int:
        """Bytes held, roughly."""
        attributes = self._attribute_times.nbytes + self._attributes.nbytes
        by_row = 6 * len(self._codes) + self._sums.nbytes + attributes
        return int(by_row + self._slots.nbytes + self._tallies.nbytes + 1_500)

    # -- rows ---------------------------------------------------------------------------------

    @property
    def _places(self) -> int:
        return self.histograms * BUCKETS

    def _slots_of(self, codes: Codes) -> Slots:
        """Return the row of each code, making rows for new ones."""
        try:
            slots = self._slots[codes]
        except IndexError:
            length = max(int(codes.max()) + 1, len(self._slots) * 5 // 4)
            more = np.full(length - len(self._slots), -1, np.int32)
            self._slots = np.concatenate([self._slots, more])
            slots = self._slots[codes]
        if len(slots) and slots.min() < 0:
            self._append(np.unique(codes[slots < 0]))
            slots = self._slots[codes]
        return slots

    def _append(self, codes: Codes) -> None:
        rows = self._rows + len(codes)
        if rows > len(self._codes):
            self._grow(max(rows, 2 * len(self._codes)))
        self._codes[self._rows : rows] = codes
        self._slots[codes] = np.arange(self._rows, rows)
        self._rows = rows

    def _grow(self, length: int) -> None:
        more = length - len(self._codes)
        self._codes = np.concatenate([self._codes, np.empty(more, dtype=np.int32)])
        self._sums = np.concatenate([self._sums, np.zeros((more, self._sums.shape[1]), np.int64)])
        self._dirty = np.concatenate([self._dirty, np.zeros(more, dtype=np.bool_)])
        self._revised = np.concatenate([self._revised, np.zeros(more, dtype=np.bool_)])

    @classmethod
    def restored(
        cls,
        start_ms: int,
        end_ms: int,
        codes: Codes,
        sums: Sums,
        revised: NDArray[np.bool_],
        counts: Counts,
        histograms: int,
    ) -> Segment:
        """Return a segment of the given rows and counts, in their order, none of them dirty."""
        segment = cls(start_ms, end_ms, sums.shape[1], histograms)
        segment._rows = segment._told = len(codes)
        segment._codes, segment._sums, segment._revised = codes.copy(), sums.copy(), revised.copy()
        segment._dirty = np.zeros(len(codes), dtype=np.bool_)
        if len(codes):
            segment._slots = np.full(int(codes.max()) + 1, -1, np.int32)
            segment._slots[codes] = np.arange(len(codes))
        if len(counts):
            numbers = codes[counts[:, 0]].astype(np.int64) * segment._places + counts[:, 1]
            segment._tallies = Tallies(*_summed(numbers, counts[:, 2]))
        return segment


def _summed(
    numbers: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers, ascending and each once, with their counts added up."""
    order = np.argsort(numbers)
    numbers = numbers[order]
    firsts = np.flatnonzero(np.concatenate([_TRUE, numbers[1:] != numbers[:-1]]))
    return numbers[firsts], np.add.reduceat(counts[order], firsts)


_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Head:
    """What a packed segment says without being unpacked."""

    start_ms: int
    end_ms: int
    final: frozenset[str]


#: How what is packed is laid out: 1 had matrices by row, and attributes in the head.
FORM = 2


def pack(segment: Segment) -> bytes:
    """Return a segment as compressed bytes, the form it has in the changelog and at rest.

    What is dirty is not in it: a checkpoint publishes first.
    """
    rows = segment.rows
    counts = segment.counts_of(np.arange(rows))
    times, values = segment.noted
    inner = _dump(
        {
            "form": FORM,
            "rows": rows,
            "width": segment.sums.shape[1],
            "histograms": segment.histograms,
            "counts": len(counts),
            "attributes": values,
        }
    )
    body = b"".join(
        [
            _LENGTH.pack(len(inner)),
            inner,
            segment.codes.tobytes(),
            _by_column(segment.sums),
            segment.revised.tobytes(),
            _by_column(counts),
            _by_column(times.reshape(-1, 1)),
        ]
    )
    return _headed(
        [segment.start_ms, segment.end_ms, sorted(segment.final)],
        bytes(cramjam.zstd.compress(body, level=1)),
    )


def _by_column(matrix: NDArray[np.int64]) -> bytes:
    """Return whole numbers column by column, first all their lowest bytes, and so on.

    Beside each other lie then bytes that are alike: two thirds of the size, and of the time.
    """
    columns = np.ascontiguousarray(matrix.T).reshape(-1)
    return columns.view(np.uint8).reshape(-1, 8).T.tobytes()


def head_of(packed: bytes) -> Head:
    """Return what the bytes of :func:`pack` say of their segment without being decompressed."""
    (length,) = _LENGTH.unpack_from(packed)
    start_ms, end_ms, final = json.loads(packed[_LENGTH.size : _LENGTH.size + length])
    return Head(start_ms, end_ms, frozenset(final))


def with_final(packed: bytes, final: Collection[str]) -> bytes:
    """Return the bytes of the same segment with these sources final."""
    (length,) = _LENGTH.unpack_from(packed)
    head = head_of(packed)
    return _headed([head.start_ms, head.end_ms, sorted(final)], packed[_LENGTH.size + length :])


def _headed(head: list[Any], body: bytes) -> bytes:
    dumped = _dump(head)
    return _LENGTH.pack(len(dumped)) + dumped + body


def unpack(packed: bytes) -> Segment:
    """Return the segment that :func:`pack` made the bytes of, with no row dirty."""
    head = head_of(packed)
    (length,) = _LENGTH.unpack_from(packed)
    body = bytes(cramjam.zstd.decompress(packed[_LENGTH.size + length :]))
    (length,) = _LENGTH.unpack_from(body)
    at = _LENGTH.size + length
    inner = json.loads(body[_LENGTH.size : at])
    packed_rows = _PackedRows(memoryview(body), at, inner.get("form", 1))
    rows = inner["rows"]
    codes = packed_rows.take(np.int32, rows)
    sums = packed_rows.take_matrix(rows, inner["width"])
    revised = packed_rows.take(np.bool_, rows)
    counts = packed_rows.take_matrix(inner["counts"], 3)
    segment = Segment.restored(
        head.start_ms, head.end_ms, codes, sums, revised, counts, inner["histograms"]
    )
    segment.note_attributes(packed_rows.take_attributes(codes, inner["attributes"]))
    segment.final = set(head.final)
    segment.unsaved = False
    return segment


@dataclass(slots=True)
class _PackedRows:
    """The arrays of a packed segment, taken one after the other."""

    body: memoryview
    at: int
    form: int

    def take(self, dtype: type[Any], count: int) -> NDArray[Any]:
        found = np.frombuffer(self.body, dtype, count, self.at)
        self.at += found.nbytes
        return found

    def take_matrix(self, rows: int, width: int) -> NDArray[np.int64]:
        if self.form == 1:
            return self.take(np.int64, rows * width).reshape(rows, width)
        planes = self.take(np.uint8, rows * width * 8).reshape(8, -1)
        columns = np.ascontiguousarray(planes.T).view(np.int64)
        return columns.reshape(width, rows).T

    def take_attributes(self, codes: Codes, found: list[Any]) -> AttributeRows:
        if self.form == 1:
            noted = [(row, time, value) for row, time, value in found]
            rows, times, values = zip(*noted, strict=True) if noted else ((), (), ())
            return AttributeRows.of(codes[[*rows]], np.array(times, np.int64), _names(values))
        times_of_all = self.take_matrix(len(found), 1)[:, 0]
        return AttributeRows.of(codes[: len(found)], times_of_all, _names(found))


def _names(values: Sequence[str | None]) -> Names:
    names = np.empty(len(values), np.object_)
    names[:] = values
    return names


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
