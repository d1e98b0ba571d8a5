"""Event-time progress of one source partition, and what is late by it.

The watermark is the highest event time of a prefix of the partition, minus the topic's allowed
disorder; a logged advance may raise it. It never falls.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: The watermark of a partition of which nothing is known: it lies before every instant.
BEFORE_ALL_MS = -(2**62)


@dataclass(frozen=True, slots=True)
class Lateness:
    """How far events of a topic may be out of order, and how late they may still count."""

    disorder_ms: int
    grace_ms: int


def running_watermarks(
    event_times: NDArray[np.int64],
    watermark_ms: int,
    lateness: Lateness,
    advances: Iterable[tuple[int, int]] = (),
) -> tuple[NDArray[np.int64], int]:
    """Return the watermark in force before each event, and the one after the last.

    ``advances`` are (row, watermark): before the event of that row, or after the last, the
    watermark is raised to so much.

    >>> before, after = running_watermarks(np.array([5_000, 9_000, 6_000]), 0, Lateness(2_000, 0))
    >>> before.tolist(), after
    ([0, 3000, 7000], 7000)
    """
    floors = np.full(len(event_times) + 1, watermark_ms, dtype=np.int64)
    for row, raised_ms in advances:
        floors[row:] = np.maximum(floors[row:], raised_ms)
    found = floors.copy()
    if len(event_times):
        reached = np.maximum.accumulate(event_times) - lateness.disorder_ms
        found[1:] = np.maximum(reached, floors[1:])
    return found[:-1], int(found[-1])


def expired(
    event_times: NDArray[np.int64], watermarks: NDArray[np.int64], lateness: Lateness
) -> NDArray[np.bool_]:
    """Tell which events come after their grace: event time below watermark minus grace."""
    return event_times < watermarks - lateness.grace_ms


def combined(watermarks: list[int | None]) -> int | None:
    """Return the lowest watermark of the partitions that hold any data, None where none does.

    None in the list stands for a partition that is known to be empty: it holds nothing back.
    """
    known = [watermark for watermark in watermarks if watermark is not None]
    return min(known) if known else None
