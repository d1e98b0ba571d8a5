"""The segments of a scope: those in use as arrays, those at rest packed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from processors.segments import Segment, head_of, pack, unpack, with_final
from processors.watermark import BEFORE_ALL_MS

Place = tuple[int, int]  # index of the window in its scope (or PANES), start

#: Rows of a segment: their numbers, or a slice for all.
Rows = NDArray[np.intp] | slice

_NO_ROWS = np.empty(0, np.intp)
_ALL_ROWS = slice(None)


@dataclass(slots=True)
class Frozen:
    """A segment at rest; ``dirty`` are its rows that changed and are not yet published."""

    packed: bytes
    unsaved: bool
    dirty: Rows = field(default_factory=lambda: _NO_ROWS)

    def thawed(self) -> Segment:
        """Return the segment as it was."""
        segment = unpack(self.packed)
        segment.unsaved = self.unsaved
        segment.touch(self.dirty)
        return segment


@dataclass(slots=True)
class SegmentStore:
    """The segments of a scope; those not touched for long are kept packed.

    ``used`` are those touched since somebody last looked which are at rest.
    """

    hot: dict[Place, Segment] = field(default_factory=dict)
    cold: dict[Place, Frozen] = field(default_factory=dict)
    dropped: set[Place] = field(default_factory=set)
    used: set[Place] = field(default_factory=set)

    def __contains__(self, place: Place) -> bool:
        return place in self.hot or place in self.cold

    def get(self, place: Place) -> Segment | None:
        """Return the segment, unpacked, or None."""
        segment = self.hot.get(place)
        if segment is None and place in self.cold:
            self.hot[place] = segment = self.cold.pop(place).thawed()
        if segment is not None:
            self.used.add(place)
        return segment

    def put(self, place: Place, segment: Segment) -> None:
        """Add a new segment."""
        self.hot[place] = segment
        self.used.add(place)
        self.dropped.discard(place)

    def drop(self, place: Place) -> None:
        """Forget a segment; the next checkpoint takes it out of the changelog."""
        self.hot.pop(place, None)
        self.cold.pop(place, None)
        self.dropped.add(place)

    def freeze(self, budget: int, over_ms: int = BEFORE_ALL_MS) -> None:
        """Pack segments at rest, the oldest first, until those that are left fit the budget.

        At rest is what was not used since the last call, and what ends by `over_ms`: a block of a
        worker that catches up opens hours of windows, and is done with them.
        """
        at_rest = {
            place
            for place, segment in self.hot.items()
            if place not in self.used or segment.end_ms <= over_ms
        }
        self.used.clear()
        held = sum(self.hot[place].nbytes for place in at_rest)
        for place in [place for place in self.hot if place in at_rest]:
            if held <= budget:
                return
            segment = self.hot.pop(place)
            held -= segment.nbytes
            self.cold[place] = Frozen(pack(segment), segment.unsaved, segment.dirty_rows())

    # -- what is done to those at rest as they are ----------------------------------------------

    def make_final(self, place: Place, source: str) -> bool:
        """Note that a source is final, which changes every row; return False if that is known."""
        if place in self.hot:
            segment = self.hot[place]
            if source in segment.final:
                return False
            segment.final.add(source)
            segment.unsaved = True
            segment.touch(_ALL_ROWS)
            return True
        frozen = self.cold.get(place)
        if frozen is None or source in (known := head_of(frozen.packed).final):
            return False
        frozen.packed = with_final(frozen.packed, known | {source})
        frozen.unsaved, frozen.dirty = True, _ALL_ROWS
        return True

    def look(self, place: Place) -> Segment:
        """Return a segment to read: one at rest stays so."""
        return self.hot[place] if place in self.hot else self.cold[place].thawed()

    def clean(self, place: Place, rows: NDArray[np.intp]) -> None:
        """Mark rows as published, of a segment at rest all of them."""
        if place in self.hot:
            self.hot[place].clean(rows)
        else:
            self.cold[place].dirty = _NO_ROWS

    def unsaved(self) -> Iterator[tuple[Place, bytes]]:
        """Yield, packed, the segments that changed since the last checkpoint."""
        for place, segment in self.hot.items():
            if segment.unsaved:
                segment.unsaved = False
                yield place, pack(segment)
        for place, frozen in self.cold.items():
            if frozen.unsaved:
                frozen.unsaved = False
                yield place, frozen.packed

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        cold = sum(len(frozen.packed) for frozen in self.cold.values())
        return cold + sum(segment.nbytes for segment in self.hot.values())
