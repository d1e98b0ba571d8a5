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


_ESCAPES = {ord(character): f"%{ord(character):02X}" for character in "%|,"}


def _escaped(value: str) -> str:
    return value.translate(_ESCAPES)


def printable_key(key: str) -> str:
    """Return a key that :data:`KEY_SEPARATOR` joins in its printable form."""
    return printable(key.split(KEY_SEPARATOR))
