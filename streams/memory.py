"""Memory that is free and that the C library keeps: given back to the system once it is much."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Callable
from pathlib import Path

_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Return how much memory of this process is in use, 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def trim() -> None:
    """Give back what is free, where the C library has means for it: glibc has."""
    # With None it looks in this process, at whatever C library that has.
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)


class Trimmer:
    """Trims when the process has grown by a quarter, and by 64 MB, since it last did.

    A backlog is worked off in phases that need their memory in pieces of different sizes, in
    different threads: without this, each would come on top of what the last has left free. At an
    even load nothing grows, and nothing is given back that would be asked for again at once.
    """

    def __init__(
        self,
        resident: Callable[[], int] = resident_bytes,
        give_back: Callable[[], None] = trim,
    ) -> None:
        self._resident = resident
        self._give_back = give_back
        self._least = resident()

    def look(self) -> bool:
        """Trim if that is due, and tell whether it was."""
        now = self._resident()
        self._least = min(self._least, now)
        if now < max(self._least * 5 // 4, self._least + (64 << 20)):
            return False
        self._give_back()
        self._least = self._resident()
        return True
