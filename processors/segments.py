"""Segments: the sums of all keys of one scope in one window (or rule pane), as columns.

A segment knows keys by their code, a small integer that its scope gave them. Sums are whole
numbers, histograms are counts per bucket, attributes are those of the newest event: all of it adds
up to the same whatever the order.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import cramjam
import numpy as np
from numpy.typing import NDArray

from processors.histogram import BUCKETS

Codes = NDArray[np.int32]
Slots = NDArray[np.intp]
Sums = NDArray[np.int64]
Names = NDArray[np.object_]

#: Counts of histograms: rows of (row, place, count), a place being histogram * BUCKETS + bucket.
Counts = NDArray[np.int64]

#: The time of attributes that nobody has told of.
UNKNOWN_TIME = -(2**62)


@dataclass(frozen=True, slots=True)
class HistogramRows:
    """Counts per bucket: parallel arrays of key code, histogram index, bucket and count."""

    codes: Codes
    histograms: NDArray[np.int64]
    buckets: NDArray[np.int64]
    counts: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AttributeRows:
    """Attributes by key code, ordered by time and then value; times may be UNKNOWN_TIME."""

    codes: Codes
    times: NDArray[np.int64]
    values: Names


class Tallies:
    """Counts by a whole number, in its order; what is added is looked at when somebody reads."""

    __slots__ = ("_added", "_counts", "_numbers")

    def __init__(self, numbers: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Take over numbers in ascending order, none twice, and their counts."""
        self._numbers = numbers
        self._counts = counts
        self._added: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def add(self, numbers: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Add counts; numbers come in any order, and any number of times."""
        self._added.append((numbers, counts))

    def all(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all numbers, ascending, and the count of each."""
        if self._added:
            self._settle()
        return self._numbers, self._counts

    def _settle(self) -> None:
        numbers, counts = (np.concatenate(each) for each in zip(*self._added, strict=True))
        self._added = []
        numbers, counts = _summed(numbers, counts)
        if not len(self._numbers):
            self._numbers, self._counts = numbers, counts
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

    ``dirty`` marks rows to publish, ``revised`` rows that changed when their source was final,
    ``final`` names the sources that are. ``unsaved`` tells that a checkpoint has to write it.
    ``attributes`` are those of each row at ``attribute_times``, None where nobody has told of any.
    """

    __slots__ = (
        "_slots",
        "_tallies",
        "attribute_times",
        "attributes",
        "codes",
        "dirty",
        "end_ms",
        "final",
        "histograms",
        "revised",
        "rows",
        "start_ms",
        "sums",
        "unsaved",
    )

    def __init__(self, start_ms: int, end_ms: int, width: int, histograms: int = 0) -> None:
        self.histograms = histograms
        self.start_ms = start_ms
        self.end_ms = end_ms
        self.rows = 0
        self.codes: Codes = np.empty(4, dtype=np.int32)
        self.sums: Sums = np.zeros((4, width), dtype=np.int64)
        self.dirty = np.zeros(4, dtype=np.bool_)
        self.revised = np.zeros(4, dtype=np.bool_)
        self.attribute_times: NDArray[np.int64] = np.empty(0, np.int64)
        self.attributes: Names = np.empty(0, np.object_)
        self.final: set[str] = set()
        self.unsaved = True
        self._tallies = Tallies(np.empty(0, np.int64), np.empty(0, np.int64))
        # By code; -1 where there is no row.
        self._slots: NDArray[np.int32] = np.empty(0, np.int32)

    def slots_of(self, codes: Codes) -> Slots:
        """Return the row of each code, making rows for new ones."""
        if len(codes) and (highest := int(codes.max())) >= len(self._slots):
            more = max(highest + 1, len(self._slots) * 5 // 4) - len(self._slots)
            self._slots = np.concatenate([self._slots, np.full(more, -1, np.int32)])
        slots = self._slots[codes]
        if (slots < 0).any():
            self._append(np.unique(codes[slots < 0]))
            slots = self._slots[codes]
        return slots.astype(np.intp)

    def add(self, codes: Codes, columns: NDArray[np.intp], values: Sums, *, sign: int = 1) -> Slots:
        """Add ``values`` [n, columns] to rows; ``codes`` may repeat. Return the rows."""
        touched = slots = self.slots_of(codes)
        if len(slots) > 1:
            order = np.argsort(slots, kind="stable")
            ordered = slots[order]
            firsts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
            if len(firsts) + 1 < len(slots):
                firsts = np.concatenate([[0], firsts])
                values = np.add.reduceat(values[order], firsts, axis=0)
                slots = ordered[firsts]
        self.sums[slots[:, None], columns] += values if sign == 1 else sign * values
        self.touch(slots)
        return touched

    def add_histograms(self, added: HistogramRows) -> Slots:
        """Add counts per bucket; return the rows."""
        slots = self.slots_of(added.codes)
        places = added.histograms * BUCKETS + added.buckets
        self._tallies.add(slots * self._width + places, added.counts)
        self.touch(slots)
        return slots

    @property
    def _width(self) -> int:
        return self.histograms * BUCKETS

    def counts_of(self, rows: NDArray[np.intp]) -> Counts:
        """Return the counts of the given rows, named by their place in ``rows``, in that order."""
        numbers, counts = self._tallies.all()
        if not len(numbers):
            return np.empty((0, 3), np.int64)
        firsts = np.searchsorted(numbers, rows * self._width)
        lengths = np.searchsorted(numbers, (rows + 1) * self._width) - firsts
        names = np.repeat(np.arange(len(rows)), lengths)
        before = np.cumsum(lengths) - lengths
        found = np.arange(len(names)) + (firsts - before)[names]
        return np.stack([names, numbers[found] % self._width, counts[found]], axis=1)

    def note_attributes(self, added: AttributeRows) -> None:
        """Keep the attributes of each key's newest event; of two at one instant the greater."""
        slots = self.slots_of(added.codes)
        missing = len(self.codes) - len(self.attributes)
        if missing:
            unknown = np.full(missing, UNKNOWN_TIME)
            self.attribute_times = np.concatenate([self.attribute_times, unknown])
            self.attributes = np.concatenate([self.attributes, np.full(missing, None)])
        known = self.attribute_times[slots]
        newer = added.times > known
        for place in np.flatnonzero((added.times == known) & (known != UNKNOWN_TIME)).tolist():
            newer[place] = added.values[place] > self.attributes[slots[place]]
        # Of several for one row the last is kept, and they are in order.
        self.attribute_times[slots[newer]] = added.times[newer]
        self.attributes[slots[newer]] = added.values[newer]

    def attributes_of(self, rows: NDArray[np.intp], unknown: str) -> list[str]:
        """Return the attributes of rows, or what stands for unknown ones."""
        if not len(self.attributes):
            return [unknown] * len(rows)
        # Rows may have come since attributes were last told of.
        known = rows < len(self.attributes)
        found = self.attributes[np.where(known, rows, 0)]
        found[~known | (found == None)] = unknown  # noqa: E711 - of each of an array
        return list(found.tolist())

    def touch(self, rows: Slots) -> None:
        """Mark rows as changed."""
        self.dirty[rows] = True
        self.unsaved = True

    def touch_all(self) -> None:
        """Mark every row as changed."""
        self.dirty[: self.rows] = True
        self.unsaved = True

    def dirty_rows(self) -> NDArray[np.intp]:
        """Return the rows that changed since they were last published."""
        return np.flatnonzero(self.dirty[: self.rows])

    @property
    def nbytes(self) -> int:
        """Bytes held, roughly."""
        attributes = self.attribute_times.nbytes + self.attributes.nbytes
        by_row = 6 * len(self.codes) + self.sums.nbytes + attributes
        return by_row + self._slots.nbytes + self._tallies.nbytes + 1_500

    def _append(self, codes: Codes) -> None:
        rows = self.rows + len(codes)
        if rows > len(self.codes):
            self._grow_rows(max(rows, 2 * len(self.codes)))
        self.codes[self.rows : rows] = codes
        self._slots[codes] = np.arange(self.rows, rows)
        self.rows = rows

    def _grow_rows(self, length: int) -> None:
        more = length - len(self.codes)
        self.codes = np.concatenate([self.codes, np.empty(more, dtype=np.int32)])
        self.sums = np.concatenate([self.sums, np.zeros((more, self.sums.shape[1]), np.int64)])
        self.dirty = np.concatenate([self.dirty, np.zeros(more, dtype=np.bool_)])
        self.revised = np.concatenate([self.revised, np.zeros(more, dtype=np.bool_)])

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
        segment.rows = len(codes)
        segment.codes, segment.sums, segment.revised = codes.copy(), sums.copy(), revised.copy()
        segment.dirty = np.zeros(len(codes), dtype=np.bool_)
        if len(codes):
            segment._slots = np.full(int(codes.max()) + 1, -1, np.int32)
            segment._slots[codes] = np.arange(len(codes))
        if len(counts):
            numbers = counts[:, 0] * segment._width + counts[:, 1]
            segment._tallies = Tallies(*_summed(numbers, counts[:, 2]))
        return segment


def _summed(
    numbers: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers, ascending and each once, with their counts added up."""
    order = np.argsort(numbers)
    numbers = numbers[order]
    firsts = np.flatnonzero(np.concatenate([[True], numbers[1:] != numbers[:-1]]))
    return numbers[firsts], np.add.reduceat(counts[order], firsts)


_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Head:
    """What a packed segment says without being unpacked."""

    start_ms: int
    end_ms: int
    final: frozenset[str]


def pack(segment: Segment) -> bytes:
    """Return a segment as compressed bytes, the form it has in the changelog and at rest.

    What is dirty is not kept: a checkpoint publishes first.
    """
    head = _dump([segment.start_ms, segment.end_ms, sorted(segment.final)])
    rows = segment.rows
    counts = segment.counts_of(np.arange(rows))
    inner = _dump(
        {
            "rows": rows,
            "width": segment.sums.shape[1],
            "histograms": segment.histograms,
            "counts": len(counts),
            "attributes": [
                [slot, int(segment.attribute_times[slot]), value]
                for slot, value in enumerate(segment.attributes[:rows].tolist())
                if value is not None
            ],
        }
    )
    body = b"".join(
        [
            _LENGTH.pack(len(inner)),
            inner,
            segment.codes[:rows].tobytes(),
            segment.sums[:rows].tobytes(),
            segment.revised[:rows].tobytes(),
            counts.tobytes(),
        ]
    )
    return _LENGTH.pack(len(head)) + head + bytes(cramjam.zstd.compress(body, level=1))


def head_of(packed: bytes) -> Head:
    """Return what the bytes of :func:`pack` say of their segment without being decompressed."""
    (length,) = _LENGTH.unpack_from(packed)
    start_ms, end_ms, final = json.loads(packed[_LENGTH.size : _LENGTH.size + length])
    return Head(start_ms, end_ms, frozenset(final))


def unpack(packed: bytes) -> Segment:
    """Return the segment that :func:`pack` made the bytes of, with no row dirty."""
    head = head_of(packed)
    (length,) = _LENGTH.unpack_from(packed)
    body = bytes(cramjam.zstd.decompress(packed[_LENGTH.size + length :]))
    (length,) = _LENGTH.unpack_from(body)
    at = _LENGTH.size + length
    inner = json.loads(body[_LENGTH.size : at])
    rows, width = inner["rows"], inner["width"]
    codes = np.frombuffer(body, np.int32, rows, at)
    at += codes.nbytes
    sums = np.frombuffer(body, np.int64, rows * width, at).reshape(rows, width)
    at += sums.nbytes
    revised = np.frombuffer(body, np.bool_, rows, at)
    at += revised.nbytes
    counts = np.frombuffer(body, np.int64, 3 * inner["counts"], at).reshape(-1, 3)
    segment = Segment.restored(
        head.start_ms, head.end_ms, codes, sums, revised, counts, inner["histograms"]
    )
    if inner["attributes"]:
        noted, times, values = zip(*inner["attributes"], strict=True)
        known = AttributeRows(codes[list(noted)], np.array(times), np.array(values, np.object_))
        segment.note_attributes(known)
    segment.final = set(head.final)
    segment.unsaved = False
    return segment


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
