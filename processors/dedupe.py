"""Which events were seen before: 128-bit hashes of event ids, kept per event-time bucket.

A re-sent record repeats its event time, so an id is only ever looked for in its own bucket, and a
bucket is forgotten whole once the watermark has left it behind by the grace: what came later would
be expired. An id costs 16 bytes.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import xxhash
from numpy.typing import NDArray

#: Width of the event-time buckets that ids are forgotten by.
BUCKET_MS = 600_000

#: Runs of so many bytes get pages of their own. In the heap they would lie between what a flush
#: needs and gives back: what is kept for an hour leaves holes there as wide as itself.
OWN_PAGES_BYTES = 256 << 10

Hashes = NDArray[np.uint64]  # [ids, 2]: high and low half


def hash_ids(ids: Sequence[bytes]) -> Hashes:
    """Return the XXH3 128-bit hash of each id, [ids, 2]: the same on every machine and release."""
    digests = b"".join(map(xxhash.xxh3_128_digest, ids))
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 2)


@dataclass(slots=True)
class SeenIds:
    """The ids of one source partition, in sorted runs per bucket.

    ``unsaved`` holds what came since the last checkpoint: the runs a checkpoint has to write.
    ``restored`` are blocks that a checkpoint wrote, in any order, of buckets that nobody has asked
    for since: most ids are older than what still comes, and sorting them is most of the work.
    """

    runs: dict[int, list[Hashes]] = field(default_factory=dict)
    restored: dict[int, list[Hashes]] = field(default_factory=dict)
    unsaved: dict[int, list[Hashes]] = field(default_factory=dict)

    def first_seen(self, hashes: Hashes, event_times: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which of the ids are new, the first of equal ones counting as new; remember them."""
        fresh = np.zeros(len(hashes), dtype=np.bool_)
        buckets = event_times - event_times % BUCKET_MS
        for bucket in np.unique(buckets).tolist():
            rows = np.flatnonzero(buckets == bucket)
            rows = rows[np.argsort(hashes[rows, 0], kind="stable")]
            candidates = hashes[rows]
            new = _first_of_equal(candidates)
            runs = self._runs_of(bucket)
            for run in runs:
                new &= ~_contains(run, candidates)
            fresh[rows[new]] = True
            if new.any():
                self.unsaved.setdefault(bucket, []).append(candidates[new])
                insert_run(runs, candidates[new])
        return fresh

    def close(self, before_ms: int) -> list[int]:
        """Forget the buckets that end at or before ``before_ms``; return their starts."""
        closed = [bucket for bucket in self.buckets if bucket + BUCKET_MS <= before_ms]
        for bucket in closed:
            for held in (self.runs, self.restored, self.unsaved):
                held.pop(bucket, None)
        return closed

    def restore(self, bucket: int, hashes: Hashes) -> None:
        """Put back what a checkpoint wrote."""
        self.restored.setdefault(bucket, []).append(hashes)

    def take_unsaved(self) -> dict[int, Hashes]:
        """Return the ids remembered since the last call, per bucket."""
        taken = {bucket: np.concatenate(runs) for bucket, runs in self.unsaved.items()}
        self.unsaved = {}
        return taken

    @property
    def buckets(self) -> set[int]:
        """The starts of the buckets that ids are kept of."""
        return self.runs.keys() | self.restored.keys()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        several = (*self.runs.values(), *self.restored.values())
        return sum(run.nbytes for runs in several for run in runs)

    def _runs_of(self, bucket: int) -> list[Hashes]:
        runs = self.runs.setdefault(bucket, [])
        if bucket in self.restored:
            hashes = np.concatenate(self.restored.pop(bucket))
            insert_run(runs, hashes[np.argsort(hashes[:, 0], kind="stable")])
        return runs


def insert_run(runs: list[Hashes], run: Hashes) -> None:
    """Add a run, sorted by its first column, to runs that may have any more columns than two.

    Runs double in length, so that n ids stand in log n runs and each is merged log n times.
    """
    while runs and len(runs[-1]) < 2 * len(run):
        both = np.concatenate([runs.pop(), run])
        run = _room_for(both.shape)
        # No index is out of range; asked to look, `take` would write to a copy of its own first.
        np.take(both, np.argsort(both[:, 0], kind="stable"), axis=0, out=run, mode="wrap")
    runs.append(run)


def _room_for(shape: tuple[int, ...]) -> Hashes:
    nbytes = 8 * math.prod(shape)
    if nbytes < OWN_PAGES_BYTES:
        return np.empty(shape, dtype=np.uint64)
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype=np.uint64).reshape(shape)


def _first_of_equal(hashes: Hashes) -> NDArray[np.bool_]:
    """Tell which rows of hashes, sorted by their high half, are the first of their kind."""
    new = np.ones(len(hashes), dtype=np.bool_)
    same = hashes[1:, 0] == hashes[:-1, 0]
    if not np.array_equal(hashes[1:, 1][same], hashes[:-1, 1][same]):
        return _first_of_equal_slowly(map(tuple, hashes.tolist()), len(hashes))
    new[1:] = ~same
    return new


def _first_of_equal_slowly(pairs: Iterable[tuple[int, ...]], count: int) -> NDArray[np.bool_]:
    # Two ids share 64 bits: rarer than a broken disk, and still counted right.
    seen: set[tuple[int, ...]] = set()
    new = np.zeros(count, dtype=np.bool_)
    for row, pair in enumerate(pairs):
        new[row] = pair not in seen
        seen.add(pair)
    return new


def _contains(run: Hashes, hashes: Hashes) -> NDArray[np.bool_]:
    found = np.zeros(len(hashes), dtype=np.bool_)
    for row, _ in matches(run, hashes):
        found[row] = True
    return found


def matches(run: Hashes, hashes: Hashes) -> Iterator[tuple[int, int]]:
    """Yield (row of ``hashes``, row of the run) wherever the two hold the same id."""
    high = run[:, 0]
    at = np.searchsorted(high, hashes[:, 0])
    inside = np.flatnonzero(at < len(high))
    for row in inside[high[at[inside]] == hashes[inside, 0]].tolist():
        place = int(at[row])
        while place < len(high) and high[place] == hashes[row, 0]:
            if run[place, 1] == hashes[row, 1]:
                yield row, place
            place += 1
