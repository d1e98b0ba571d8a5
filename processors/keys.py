"""Keys as text: the values of a key's columns in one string that can be taken apart again."""

from __future__ import annotations

from collections.abc import Iterable

#: Joins the columns of a key in memory; ids may hold anything a person can type.
KEY_SEPARATOR = "\x1f"


def printable(values: Iterable[str]) -> str:
    """Join key values for a Kafka key: `,` between them; `%`, `|` and `,` inside are escaped.

    >>> printable(["T|1", "a,b"])
    'T%7C1,a%2Cb'
    """
    return ",".join(map(_escaped, values))


def _escaped(value: str) -> str:
    for character in "%|,":
        value = value.replace(character, f"%{ord(character):02X}")
    return value
