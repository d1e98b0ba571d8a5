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
Sums = NDArray[np.int64]

#: Counts of histograms: rows of (row, place, count), a place being histogram * BUCKETS + bucket.
Counts = NDArray[np.int64]

#: A row with more counts than these keeps them in an array: most rows of small windows have few.
FEW = 48

_UNKNOWN_TIME = -(2**62)


@dataclass(frozen=True, slots=True)
class HistogramRows:
    """Counts per bucket: parallel arrays of key code, histogram index, bucket and count."""

    codes: Codes
    histograms: NDArray[np.int64]
    buckets: NDArray[np.int64]
    counts: NDArray[np.int64]


class Segment:
    """Rows of one scope in ``[start_ms, end_ms)``.

    ``dirty`` marks rows to publish, ``revised`` rows that changed when their source was final,
    ``final`` names the sources that are. ``unsaved`` tells that a checkpoint has to write it.
    """

    __slots__ = (
        "_few",
        "_many",
        "_slots",
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
        self._few: dict[int, dict[int, int]] = {}
        self._many: dict[int, Sums] = {}
        self.attributes: dict[int, str] = {}
        self.attribute_times: dict[int, int] = {}
        self.final: set[str] = set()
        self.unsaved = True
        self._slots: dict[int, int] = {}

    def slots_of(self, codes: Codes) -> list[int]:
        """Return the row of each code, making rows for new ones."""
        slots = self._slots
        wanted = codes.tolist()
        new = [code for code in dict.fromkeys(wanted) if code not in slots]
        if new:
            self._append(new)
        return [slots[code] for code in wanted]

    def add(
        self, codes: Codes, columns: NDArray[np.intp], values: Sums, *, sign: int = 1
    ) -> list[int]:
        """Add ``values`` [n, columns] to rows; ``codes`` may repeat. Return the rows."""
        slots = self.slots_of(codes)
        if len(slots) == 1:
            self.sums[slots[0], columns] += sign * values[0]
        elif len(set(slots)) == len(slots):
            self.sums[np.array(slots)[:, None], columns] += sign * values
        else:
            order = np.argsort(slots, kind="stable")
            ordered = np.array(slots)[order]
            firsts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
            totals = np.add.reduceat(values[order], firsts, axis=0)
            self.sums[ordered[firsts][:, None], columns] += sign * totals
        self.touch(slots)
        return slots

    def add_histograms(self, added: HistogramRows) -> list[int]:
        """Add counts per bucket; return the rows."""
        slots = self.slots_of(added.codes)
        places = added.histograms * BUCKETS + added.buckets
        self._add_places(slots, places.tolist(), added.counts.tolist())
        self.touch(slots)
        return slots

    def _add_places(self, slots: list[int], places: list[int], counts: list[int]) -> None:
        few, many = self._few, self._many
        for slot, place, count in zip(slots, places, counts, strict=True):
            if slot in many:
                many[slot][place] += count
                continue
            known = few.setdefault(slot, {})
            known[place] = known.get(place, 0) + count
            if len(known) > FEW:
                many[slot] = _dense(few.pop(slot), self.histograms)

    def counts_of(self, rows: NDArray[np.intp]) -> Counts:
        """Return the counts of the given rows, named by their place in ``rows``."""
        places, entries, dense = [], [], []
        for place, slot in enumerate(rows.tolist()):
            if slot in self._many:
                places.append(place)
                dense.append(self._many[slot])
            else:
                entries += [(place, *entry) for entry in self._few.get(slot, {}).items()]
        sparse = np.array(entries, dtype=np.int64).reshape(-1, 3)
        if not dense:
            return sparse
        stacked = np.stack(dense)
        filled = np.nonzero(stacked)
        found = (np.array(places)[filled[0]], filled[1], stacked[filled])
        return np.concatenate([sparse, np.stack(found, axis=1)])

    def note_attributes(self, codes: Codes, times: list[int | None], values: list[str]) -> None:
        """Keep the attributes of each key's newest event; of two at one instant the greater."""
        for slot, time, value in zip(self.slots_of(codes), times, values, strict=True):
            if time is None:
                continue
            known = (self.attribute_times.get(slot, _UNKNOWN_TIME), self.attributes.get(slot, ""))
            if (time, value) > known:
                self.attribute_times[slot], self.attributes[slot] = time, value

    def touch(self, rows: list[int]) -> None:
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

    def merge(self, other: Segment, *, sign: int) -> None:
        """Add (or take away, with sign -1) all sums of another segment of the same scope."""
        if other.rows:
            columns = np.arange(self.sums.shape[1])
            self.add(other.codes[: other.rows], columns, other.sums[: other.rows], sign=sign)

    @property
    def nbytes(self) -> int:
        """Bytes held, roughly."""
        entries = sum(map(len, self._few.values())) + 2 * len(self.attributes)
        dense = sum(counts.nbytes for counts in self._many.values())
        return self.sums.nbytes + dense + 100 * (self.rows + entries) + 1_000

    def _append(self, codes: list[int]) -> None:
        rows = self.rows + len(codes)
        if rows > len(self.codes):
            self._grow_rows(max(rows, 2 * len(self.codes)))
        self.codes[self.rows : rows] = codes
        self._slots.update(zip(codes, range(self.rows, rows), strict=True))
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
        """Return a segment of the given rows, in their order, none of them dirty."""
        segment = cls(start_ms, end_ms, sums.shape[1], histograms)
        segment.rows = len(codes)
        segment.codes, segment.sums, segment.revised = codes.copy(), sums.copy(), revised.copy()
        segment.dirty = np.zeros(len(codes), dtype=np.bool_)
        segment._slots = {code: row for row, code in enumerate(codes.tolist())}
        segment._add_places(*(column.tolist() for column in counts.T))
        return segment


def _dense(counts: dict[int, int], histograms: int) -> Sums:
    dense = np.zeros(histograms * BUCKETS, dtype=np.int64)
    dense[list(counts)] = list(counts.values())
    return dense


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
                [slot, segment.attribute_times[slot], value]
                for slot, value in segment.attributes.items()
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
    for slot, time, value in inner["attributes"]:
        segment.attribute_times[slot], segment.attributes[slot] = time, value
    segment.final = set(head.final)
    segment.unsaved = False
    return segment


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
