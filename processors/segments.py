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

Codes = NDArray[np.int32]
Sums = NDArray[np.int64]

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

    def __init__(self, start_ms: int, end_ms: int, width: int) -> None:
        self.start_ms = start_ms
        self.end_ms = end_ms
        self.rows = 0
        self.codes: Codes = np.empty(4, dtype=np.int32)
        self.sums: Sums = np.zeros((4, width), dtype=np.int64)
        self.dirty = np.zeros(4, dtype=np.bool_)
        self.revised = np.zeros(4, dtype=np.bool_)
        self.histograms: dict[int, dict[int, int]] = {}
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
        packed = (added.histograms << 16) | added.buckets
        for slot, place, count in zip(slots, packed.tolist(), added.counts.tolist(), strict=True):
            counts = self.histograms.setdefault(slot, {})
            counts[place] = counts.get(place, 0) + count
        self.touch(slots)
        return slots

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
        entries = sum(map(len, self.histograms.values())) + 2 * len(self.attributes)
        return self.sums.nbytes + 100 * (self.rows + entries) + 1_000

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
        cls, start_ms: int, end_ms: int, codes: Codes, sums: Sums, revised: NDArray[np.bool_]
    ) -> Segment:
        """Return a segment of the given rows, in their order, none of them dirty."""
        segment = cls(start_ms, end_ms, sums.shape[1])
        segment.rows = len(codes)
        segment.codes, segment.sums, segment.revised = codes.copy(), sums.copy(), revised.copy()
        segment.dirty = np.zeros(len(codes), dtype=np.bool_)
        segment._slots = {code: row for row, code in enumerate(codes.tolist())}
        return segment


_LENGTH = struct.Struct("<I")


def pack(segment: Segment) -> bytes:
    """Return a segment as compressed bytes, the form it has in the changelog and at rest.

    What is dirty is not kept: a checkpoint publishes first.
    """
    rows = segment.rows
    flat = [
        (slot, place, count)
        for slot, counts in segment.histograms.items()
        for place, count in counts.items()
    ]
    header: dict[str, Any] = {
        "start": segment.start_ms,
        "end": segment.end_ms,
        "rows": rows,
        "width": segment.sums.shape[1],
        "histograms": len(flat),
        "attributes": [[s, segment.attribute_times[s], v] for s, v in segment.attributes.items()],
        "final": sorted(segment.final),
    }
    head = json.dumps(header, separators=(",", ":")).encode()
    body = b"".join(
        [
            _LENGTH.pack(len(head)),
            head,
            segment.codes[:rows].tobytes(),
            segment.sums[:rows].tobytes(),
            segment.revised[:rows].tobytes(),
            np.array(flat, dtype=np.int64).tobytes(),
        ]
    )
    return bytes(cramjam.zstd.compress(body, level=1))


def unpack(packed: bytes) -> Segment:
    """Return the segment that :func:`pack` made the bytes of, with no row dirty."""
    body = bytes(cramjam.zstd.decompress(packed))
    (length,) = _LENGTH.unpack_from(body)
    header = json.loads(body[4 : 4 + length])
    rows, width = header["rows"], header["width"]
    at = 4 + length
    codes = np.frombuffer(body, np.int32, rows, at)
    at += codes.nbytes
    sums = np.frombuffer(body, np.int64, rows * width, at).reshape(rows, width)
    at += sums.nbytes
    revised = np.frombuffer(body, np.bool_, rows, at)
    at += revised.nbytes
    flat = np.frombuffer(body, np.int64, 3 * header["histograms"], at).reshape(-1, 3)
    segment = Segment.restored(header["start"], header["end"], codes, sums, revised)
    for slot, place, count in flat.tolist():
        segment.histograms.setdefault(slot, {})[place] = count
    for slot, time, value in header["attributes"]:
        segment.attribute_times[slot], segment.attributes[slot] = time, value
    segment.final = set(header["final"])
    segment.unsaved = False
    return segment
