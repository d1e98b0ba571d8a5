"""Interval bounds for shares, over many keys at once."""

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_Z: Final = 1.959963984540054  # two-sided 95 %


def wilson_bounds(percent: Floats, n: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the Wilson 95 % bounds, 0 to 100, of shares in percent; NaN where there is none.

    Formula: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927). For a mean of scores between 0 and 100 % the bounds err on the wide side: no
    such score varies more than a yes-or-no answer of the same mean does.

    >>> lower, upper = wilson_bounds(np.array([60.0]), np.array([10]))
    >>> round(float(lower[0])), round(float(upper[0]))
    (31, 83)
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.clip(percent, 0.0, 100.0) / 100.0
        count = np.where(n > 0, n, np.nan).astype(np.float64)
        square = _Z * _Z / count
        centre = share + square / 2
        half = _Z * np.sqrt(share * (1 - share) / count + square / (4 * count))
        lower = 100.0 * (centre - half) / (1 + square)
        upper = 100.0 * (centre + half) / (1 + square)
    return np.clip(lower, 0.0, 100.0), np.clip(upper, 0.0, 100.0)
