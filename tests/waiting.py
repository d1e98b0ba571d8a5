"""How tests wait: until something holds that somebody else brings about, never for time to pass.

Brokers, processes and topics tell nobody when they are ready, so they are asked again and again.
"""

import time
from collections.abc import Callable
from typing import TypeVar

_Found = TypeVar("_Found")


def wait_until(
    find: Callable[[], _Found], what: str = "it", timeout_s: float = 60.0, every_s: float = 0.05
) -> _Found:
    """Return what is found as soon as it is true.

    Raises TimeoutError that says what did not come.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := find()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        time.sleep(every_s)
    return found
