"""Event-time windows: which windows hold an instant, and where each window ends.

All instants are epoch milliseconds, UTC; every window is ``[start_ms, end_ms)``.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

Kind = Literal["TUMBLING", "HOPPING", "DAY"]

#: Every zone's offset from UTC is a multiple of this, so a pane that divides it lies in one day.
ZONE_STEP_MS = 15 * 60_000


def floor_to(instants: NDArray[np.int64], size_ms: int) -> NDArray[np.int64]:
    """Return the epoch-aligned start of the bucket of ``size_ms`` that holds each instant.

    >>> floor_to(np.array([90_000, -1]), 60_000).tolist()
    [60000, -60000]
    """
    return instants - instants % size_ms


@lru_cache(maxsize=65_536)
def day_window(instant_ms: int, zone: str) -> tuple[int, int]:
    """Return start and end of the calendar day of ``zone`` that holds the instant.

    >>> start, end = day_window(1_774_746_000_000, "Europe/Berlin")  # 29 March 2026, 23 hours long
    >>> (end - start) // 3_600_000
    23
    """
    tz = ZoneInfo(zone)
    day = datetime.fromtimestamp(instant_ms / 1000, tz).date()
    return _midnight_ms(day, tz), _midnight_ms(day + timedelta(days=1), tz)


def _midnight_ms(day: date, tz: ZoneInfo) -> int:
    midnight = datetime(day.year, day.month, day.day, tzinfo=tz).astimezone(UTC)
    return int(midnight.timestamp() * 1000)


def day_starts(instants: NDArray[np.int64], zone: str) -> NDArray[np.int64]:
    """Return the start of the zone's calendar day that holds each instant."""
    steps, inverse = np.unique(floor_to(instants, ZONE_STEP_MS), return_inverse=True)
    starts = np.array([day_window(int(step), zone)[0] for step in steps], dtype=np.int64)
    return starts[inverse] if len(starts) else instants.copy()


def window_starts(
    instants: NDArray[np.int64], kind: Kind, size_ms: int, hop_ms: int, zone: str
) -> list[NDArray[np.int64]]:
    """Return one array of window starts for each of the windows of this kind that hold an instant.

    A tumbling window or a day holds each instant once, a hopping window ``size_ms / hop_ms`` times.
    """
    if kind == "DAY":
        return [day_starts(instants, zone)]
    if kind == "TUMBLING":
        return [floor_to(instants, size_ms)]
    newest = floor_to(instants, hop_ms)
    return [newest - back * hop_ms for back in range(size_ms // hop_ms)]


def window_end(start_ms: int, kind: Kind, size_ms: int, zone: str) -> int:
    """Return the end (exclusive) of the window that starts at ``start_ms``."""
    return day_window(start_ms, zone)[1] if kind == "DAY" else start_ms + size_ms
