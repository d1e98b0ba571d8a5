"""How much lies between what was appended and what readers could see."""

import numpy as np

from streams.bench.latency import Reals


def drained_after_s(append_ms: Reals, waits_ms: Reals, since_ms: float, most: int) -> float | None:
    """Return the seconds from ``since_ms`` until no more than ``most`` events are unseen, for good.

    An event is unseen from its append until it could be read, ``waits_ms`` later. None where that
    many are never seen.

    >>> drained_after_s(np.array([0.0, 10.0, 20.0]), np.array([500.0, 490.0, 480.0]), 100, 1)
    0.4
    """
    if np.count_nonzero(np.isnan(waits_ms)) > most:
        return None
    seen_ms = np.sort(append_ms + waits_ms)
    # Just before each moment at which more is seen, so much was not.
    appended = np.searchsorted(np.sort(append_ms), seen_ms, side="left")
    unseen = appended - np.searchsorted(seen_ms, seen_ms, side="left")
    late = np.flatnonzero((unseen > most) & (seen_ms > since_ms))
    if not len(late):
        return 0.0
    return float(seen_ms[late[-1]] - since_ms) / 1000
