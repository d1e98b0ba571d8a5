"""Event-time progress of one source partition, and what is late by it.

The watermark is the highest event time of a prefix of the partition, minus the topic's allowed
disorder; a logged advance may raise it. It never falls.
"""

from __future__ import annotations

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
    event_times: NDArray[np.int64], watermark_ms: int, lateness: Lateness
) -> tuple[NDArray[np.int64], int]:
    """Return the watermark in force before each event, and the one after the last.

    >>> before, after = running_watermarks(np.array([5_000, 9_000, 6_000]), 0, Lateness(2_000, 0))
    >>> before.tolist(), after
    ([0, 3000, 7000], 7000)
    """
    if not len(event_times):
        return np.empty(0, dtype=np.int64), watermark_ms
    after = np.maximum(np.maximum.accumulate(event_times) - lateness.disorder_ms, watermark_ms)
    before = np.empty_like(after)
    before[0] = watermark_ms
    before[1:] = after[:-1]
    return before, int(after[-1])


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
