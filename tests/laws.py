"""How hard the laws are tried, and cutting what is in order into pieces.

TEST_EFFORT=20 in the environment tries twenty times as many examples as an ordinary run.
"""

import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

from hypothesis import HealthCheck, settings

T = TypeVar("T")

_EFFORT = int(os.environ.get("TEST_EFFORT", "1"))


def law(examples: int = 40) -> settings:
    """Return the settings of a law that is tried on so many examples in an ordinary run."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples * _EFFORT, deadline=None, suppress_health_check=slow)


def cut(items: Sequence[T], places: Iterable[int]) -> list[Sequence[T]]:
    """Return the items in pieces that end at the given places; places outside do nothing."""
    inside = sorted({place for place in places if 0 < place < len(items)})
    return [items[a:b] for a, b in pairwise([0, *inside, len(items)])]
