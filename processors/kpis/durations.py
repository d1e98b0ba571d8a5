import re
from typing import Final

from processors.kpis.definitions import DAY_MS, WindowSpec

_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}
_DURATION: Final = re.compile(r"([1-9]\d*)(ms|s|m|h|d)")


def parse_duration_ms(text: str) -> int:
    """Return the milliseconds of a whole number with unit ms, s, m, h or d; never 0.

    Raises ValueError for anything else.

    >>> parse_duration_ms("10s")
    10000
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"found {text!r}, expected a duration such as 500ms, 10s, 15m, 1h or 7d")
    return int(match[1]) * _UNITS_MS[match[2]]


def parse_window(text: str) -> WindowSpec:
    """Return the window of ``15m`` (tumbling), ``5m/1m`` (hopping, size/hop) or ``day``.

    Raises ValueError if it is none of these or the size is no multiple of the hop.

    >>> parse_window("5m/1m")
    WindowSpec(kind='HOPPING', size_ms=300000, hop_ms=60000)
    """
    if text == "day":
        return WindowSpec("DAY", DAY_MS, DAY_MS)
    size, slash, hop = text.partition("/")
    size_ms = parse_duration_ms(size)
    if not slash:
        return WindowSpec("TUMBLING", size_ms, size_ms)
    hop_ms = parse_duration_ms(hop)
    if size_ms % hop_ms or size_ms == hop_ms:
        raise ValueError(f"found {text!r}, expected a size that is a multiple of its hop")
    return WindowSpec("HOPPING", size_ms, hop_ms)
