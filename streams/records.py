"""Records: those that a flush writes, and those of a partition as columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Header = tuple[str, bytes | None]


class Record(NamedTuple):
    """What a flush writes: to a given partition, because who reads it counts on that."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, str | bytes | None]] | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """A record as it lies in the log; ``timestamp`` in ms."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one partition, in the order of their offsets, a column each.

    ``timestamps`` are in ms; ``headed`` tells which have any headers. ``whole`` makes a record of a
    row, for the few that are looked at one by one; ``first`` is the row that these begin with.
    """

    offsets: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    headed: NDArray[np.bool_]
    values: Sequence[bytes | None]
    whole: Callable[[int], Fetched]
    first: int = 0

    @classmethod
    def of(cls, records: Sequence[Fetched]) -> Records:
        """Return records that were read one by one."""
        return cls(
            np.array([record.offset for record in records], np.int64),
            np.array([record.timestamp for record in records], np.int64),
            np.array([bool(record.headers) for record in records], np.bool_),
            [record.value for record in records],
            records.__getitem__,
        )

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> Fetched:
        return self.whole(self.first + row)

    @property
    def headers(self) -> Sequence[Sequence[Header]]:
        """The headers of each row, read as they are asked for."""
        return _HeaderColumn(self)

    def rows(self, start: int, stop: int) -> Records:
        """Return the rows [start, stop)."""
        if (start, stop) == (0, len(self)):
            return self
        return replace(
            self,
            offsets=self.offsets[start:stop],
            timestamps=self.timestamps[start:stop],
            headed=self.headed[start:stop],
            values=self.values[start:stop],
            first=self.first + start,
        )

    def between(self, begin: int, end: int) -> Records:
        """Return those with offsets in [begin, end)."""
        start, stop = np.searchsorted(self.offsets, [begin, end]).tolist()
        return self.rows(start, stop)

    def split(self, count: int) -> tuple[Records, int, Records]:
        """Return the first ``count``, the offset after which they end, and the others."""
        return self.rows(0, count), int(self.offsets[count]), self.rows(count, len(self))


class _HeaderColumn(Sequence[Sequence[Header]]):
    def __init__(self, records: Records) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: Any) -> Any:
        return self._records[row].headers if self._records.headed[row] else ()


def joined(several: Sequence[Records]) -> Records:
    """Return records of several stretches as one; offsets may then begin anew."""
    if len(several) == 1:
        return several[0]
    ends = np.cumsum([len(records) for records in several])

    def whole(row: int) -> Fetched:
        number = int(np.searchsorted(ends, row, side="right"))
        records = several[number]
        return records[row - int(ends[number]) + len(records)]

    return Records(
        np.concatenate([_NONE, *(records.offsets for records in several)]),
        np.concatenate([_NONE, *(records.timestamps for records in several)]),
        np.concatenate([_NONE.astype(np.bool_), *(records.headed for records in several)]),
        [value for records in several for value in records.values],
        whole,
    )


_NONE = np.empty(0, np.int64)
