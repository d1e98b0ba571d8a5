"""Events of which a higher version may come: the versions that counted, kept until grace is over.

A version counts if it is higher than those of its id before it; it then takes back what the last
one added, so the record of that one is kept, as it came. As with :mod:`processors.dedupe`, an id is
looked for in the bucket of its event time, and a bucket is forgotten whole.

A version costs 32 bytes and its record, packed together with those that came at the same time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cramjam
import numpy as np
from numpy.typing import NDArray

from processors.dedupe import BUCKET_MS, Hashes, insert_run, matches

#: Records are packed once so many bytes of them wait: what one look-up unpacks.
PACK_BYTES = 64 * 1024

_COUNT = struct.Struct("<I")
_INDEX = np.dtype([("high", "<u8"), ("low", "<u8"), ("version", "<u4")])

#: Sorted by their first column: high and low half of the hash, version, place of the record.
_Run = NDArray[np.uint64]

Earlier = dict[int, list[bytes]]


@dataclass(slots=True)
class _Bucket:
    """Versions of one stretch of event time.

    A record's place is the number of its block, shifted, and its number in the block; ``open`` is
    the block that is being filled. ``unsaved`` has the index of each block that a checkpoint has
    still to write.
    """

    runs: list[_Run] = field(default_factory=list)
    blocks: list[bytes] = field(default_factory=list)
    open: list[bytes] = field(default_factory=list)
    open_bytes: int = 0
    unsaved: dict[int, list[_Run]] = field(default_factory=dict)

    def versions(self, hashes: Hashes) -> NDArray[np.int64]:
        """Return the highest version of each id, 0 for one that is not known."""
        known = np.zeros(len(hashes), dtype=np.int64)
        for run in self.runs:
            for row, place in matches(run, hashes):
                known[row] = max(known[row], int(run[place, 2]))
        return known

    def records_before(self, one: Hashes, version: int) -> list[bytes]:
        """Return the records of an id's lower versions, the lowest first."""
        found = [run[place] for run in self.runs for _, place in matches(run, one)]
        lower = sorted((int(row[2]), int(row[3])) for row in found if row[2] < version)
        return [self._record(place) for _, place in lower]

    def add(self, hashes: Hashes, versions: NDArray[np.int64], records: Sequence[bytes]) -> None:
        """Keep versions, in their order."""
        run = np.empty((len(records), 4), dtype=np.uint64)
        run[:, :2], run[:, 2] = hashes, versions
        ends = np.cumsum([len(record) for record in records])
        start = 0
        while start < len(records):
            begun = ends[start] - len(records[start])
            room = PACK_BYTES - self.open_bytes
            stop = min(int(np.searchsorted(ends, begun + room)) + 1, len(records))
            block, row = len(self.blocks), len(self.open)
            run[start:stop, 3] = np.arange(row, row + stop - start) | block << 32
            self.unsaved.setdefault(block, []).append(run[start:stop])
            self.open += records[start:stop]
            self.open_bytes += int(ends[stop - 1] - begun)
            if self.open_bytes >= PACK_BYTES:
                self._close_block()
            start = stop
        insert_run(self.runs, run[np.argsort(run[:, 0], kind="stable")])

    def take_unsaved(self) -> Iterator[bytes]:
        """Yield the blocks that no checkpoint has written."""
        if self.open:
            self._close_block()
        unsaved, self.unsaved = self.unsaved, {}
        for block, runs in unsaved.items():
            entries = np.concatenate(runs)
            index = np.empty(len(entries), dtype=_INDEX)
            for column, name in enumerate(_INDEX.names or ()):
                index[name] = entries[:, column]
            yield _COUNT.pack(len(index)) + index.tobytes() + self.blocks[block]

    def restore(self, saved: bytes) -> None:
        """Put a block back that :meth:`take_unsaved` gave."""
        (count,) = _COUNT.unpack_from(saved)
        index = np.frombuffer(saved, _INDEX, count, _COUNT.size)
        run = np.empty((count, 4), dtype=np.uint64)
        for column, name in enumerate(_INDEX.names or ()):
            run[:, column] = index[name]
        run[:, 3] = np.arange(count, dtype=np.uint64) | np.uint64(len(self.blocks) << 32)
        self.blocks.append(saved[_COUNT.size + index.nbytes :])
        insert_run(self.runs, run[np.argsort(run[:, 0], kind="stable")])

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        packed = sum(map(len, self.blocks)) + self.open_bytes
        return packed + sum(run.nbytes for run in self.runs)

    def _close_block(self) -> None:
        lengths = np.array([len(record) for record in self.open], dtype="<u4")
        body = _COUNT.pack(len(lengths)) + lengths.tobytes() + b"".join(self.open)
        self.blocks.append(bytes(cramjam.zstd.compress(body, level=1)))
        self.open, self.open_bytes = [], 0

    def _record(self, place: int) -> bytes:
        block, row = place >> 32, place & 0xFFFF_FFFF
        if block == len(self.blocks):
            return self.open[row]
        body = bytes(cramjam.zstd.decompress(self.blocks[block]))
        (count,) = _COUNT.unpack_from(body)
        lengths = np.frombuffer(body, "<u4", count, _COUNT.size)
        start = _COUNT.size + lengths.nbytes + int(lengths[:row].sum())
        return body[start : start + int(lengths[row])]


@dataclass(slots=True)
class KeptVersions:
    """The versions that counted of one source partition, per bucket of event time."""

    buckets: dict[int, _Bucket] = field(default_factory=dict)

    def admit(
        self,
        hashes: Hashes,
        versions: NDArray[np.int64],
        event_times: NDArray[np.int64],
        records: Sequence[bytes],
    ) -> tuple[NDArray[np.bool_], Earlier]:
        """Tell which events count, keep these, and return what was there before them.

        An event counts if its version is higher than each of its id before it. The second result
        has, by the row of an event that counts and was there before, the records of the versions
        that counted until then, the lowest first.
        """
        counts = np.zeros(len(hashes), dtype=np.bool_)
        earlier: Earlier = {}
        starts = event_times - event_times % BUCKET_MS
        for start in np.unique(starts).tolist():
            rows = np.flatnonzero(starts == start)
            bucket = self.buckets.get(start) or _Bucket()
            known = bucket.versions(hashes[rows])
            higher, again = _rising(hashes[rows], versions[rows], known)
            kept = rows[higher]
            if not len(kept):
                continue
            self.buckets[start] = bucket
            counts[kept] = True
            bucket.add(hashes[kept], versions[kept], [records[row] for row in kept.tolist()])
            for row in rows[higher & again].tolist():
                one = hashes[row : row + 1]
                earlier[row] = bucket.records_before(one, int(versions[row]))
        return counts, earlier

    def close(self, before_ms: int) -> list[int]:
        """Forget the buckets that end at or before ``before_ms``; return their starts."""
        closed = [start for start in self.buckets if start + BUCKET_MS <= before_ms]
        for start in closed:
            del self.buckets[start]
        return closed

    def restore(self, start: int, saved: bytes) -> None:
        """Put back what a checkpoint wrote."""
        self.buckets.setdefault(start, _Bucket()).restore(saved)

    def take_unsaved(self) -> Iterator[tuple[int, bytes]]:
        """Yield what was kept since the last call: bucket and block, each below 1 MiB by far."""
        for start, bucket in self.buckets.items():
            for block in bucket.take_unsaved():
                yield start, block

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(bucket.nbytes for bucket in self.buckets.values())


def _rising(
    hashes: Hashes, versions: NDArray[np.int64], known: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell which versions are higher than all of their id before, and which ids were there before.

    ``known`` is the highest version of each id before the first row, 0 for none.
    """
    higher, again = versions > known, known > 0
    highest: dict[tuple[int, int], int] = {}
    for row in _repeated(hashes).tolist():
        one = (int(hashes[row, 0]), int(hashes[row, 1]))
        before = highest.get(one, int(known[row]))
        higher[row], again[row] = versions[row] > before, before > 0
        highest[one] = max(before, int(versions[row]))
    return higher, again


def _repeated(hashes: Hashes) -> NDArray[np.intp]:
    """Return the rows, in their order, that may share their id with another."""
    order = np.argsort(hashes[:, 0], kind="stable")
    ordered = hashes[order, 0]
    same = np.zeros(len(hashes) + 1, dtype=np.bool_)
    same[1:-1] = ordered[1:] == ordered[:-1]
    return np.sort(order[same[1:] | same[:-1]])
