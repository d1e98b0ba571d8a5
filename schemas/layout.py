"""Fields of a contract encoded for many rows at once, where little differs from row to row.

Between two whole numbers, which alone take a varying number of bytes, lies a segment. Its few forms
are made once; for a row they are looked up and copied, and doubles written into them.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise, product, zip_longest
from math import prod
from typing import Any, Final

import fastavro
import numpy as np
from numpy.typing import NDArray

from schemas.contract import Contract, expanded, kind, wire, without_null
from schemas.errors import ContractViolation

#: A segment with more forms would be a table too large to look up in.
MOST_FORMS: Final = 4_096

Places = NDArray[np.intp]

_SEVEN: Final = np.uint64(7)
_DOUBLE: Final = np.dtype("V8")


class Part:
    """Encodes some fields of a contract: those of a record lie one after the other."""

    def __init__(self, contract: Contract, names: Sequence[str]) -> None:
        fields = [f for f in wire(contract.schema)["fields"] if f["name"] in names]
        self._schema = fastavro.parse_schema({"type": "record", "name": "Part", "fields": fields})

    def encode(self, values: Mapping[str, Any]) -> bytes:
        """Return the bytes of the fields; raises TypeError or ValueError for other types."""
        return _encoded(self._schema, values)


def require_fields(contract: Contract, names: Sequence[str]) -> None:
    """Raise ContractViolation unless these are the fields of the contract, in its order."""
    found = [f["name"] for f in contract.schema["fields"]]
    if found != list(names):
        problem = f"found {', '.join(found)}, expected {', '.join(names)}"
        raise ContractViolation(contract.name, "fields", problem)


class Texts:
    """Encodes an array of records of two strings, of which the first are the same in every row."""

    def __init__(self, contract: Contract, name: str, firsts: Sequence[str]) -> None:
        """Raise ContractViolation where the field has another shape."""
        fields = {f["name"]: f["type"] for f in expanded(wire(contract.schema))["fields"]}
        try:
            kinds = [kind(f["type"]) for f in fields[name]["items"]["fields"]]
        except (KeyError, TypeError) as problem:
            text = f"found {fields.get(name)}, expected an array of records"
            raise ContractViolation(contract.name, name, text) from problem
        if kinds != ["string", "string"]:
            raise ContractViolation(contract.name, name, f"found {kinds}, expected two strings")
        count = [_encoded("long", len(firsts))] if firsts else []
        encoded = [_encoded("string", first) for first in firsts]
        self._before = [b"".join(each) for each in zip_longest(count, encoded, fillvalue=b"")]

    def encode(self, seconds: Sequence[str]) -> bytes:
        """Return the bytes of a row, from the second string of each record."""
        pairs = zip(self._before, map(_text, seconds), strict=True)
        return b"".join(piece for pair in pairs for piece in pair) + b"\0"


@dataclass(frozen=True, slots=True)
class _Token:
    """A field of one item: its forms and, if a column chooses, what it is."""

    forms: list[bytes]
    name: str = ""
    nullable: bool = False
    double: bool = False


@dataclass(frozen=True, slots=True)
class _Varying:
    """A varying field, by item: its segment, and by how much its form moves the segment's.

    In form ``f`` of its segment the field of item ``i`` ends at ``ends[firsts[i] + f]``.
    """

    token: _Token
    segments: slice
    strides: Places
    firsts: Places
    ends: Places

    @classmethod
    def of(cls, found: "Sequence[_Found]") -> "_Varying":
        tokens, segments, strides, ends = zip(*found, strict=True)
        firsts = np.cumsum([0, *map(len, ends)])[:-1]
        # Each item has a segment of its own, or all share one.
        step = segments[1] - segments[0] if len(segments) > 1 else 0
        where = slice(segments[0], segments[-1] + 1, step or 1)
        return cls(tokens[0], where, np.array(strides), firsts, np.concatenate(ends))

    def add(self, forms: Places, column: NDArray[Any]) -> None:
        """Add to the numbers of the segments' forms what the values of a column count there."""
        if len(self.token.forms) == 1:
            return
        chosen = ~np.isnan(column) if self.token.double else column + self.token.nullable
        forms[:, self.segments] += chosen * self.strides

    def write(
        self,
        out: NDArray[np.uint8],
        starts: Places,
        forms: Places,
        column: NDArray[Any],
    ) -> None:
        """Write doubles where they belong in segments that start there and have these forms."""
        values = np.ascontiguousarray(column, np.float64).reshape(-1)
        ends = self.ends
        if len(ends) > len(self.firsts):
            ends = ends.take(forms[:, self.segments] + self.firsts)
        places = (starts[:, self.segments] + ends).reshape(-1) - _DOUBLE.itemsize
        if self.token.nullable:
            known = np.flatnonzero(~np.isnan(values))
            values, places = values.take(known), places.take(known)
        _at_any_byte(out, _DOUBLE)[places] = values.view(_DOUBLE)


_Found = tuple[_Token, int, int, list[int]]


class Items:
    """Encodes an array of records, as many of them in every row.

    ``constants`` holds a value for each item of the fields that do not vary, ``symbols`` those that
    the numbers in the column of an enum stand for.
    """

    def __init__(
        self,
        contract: Contract,
        name: str,
        constants: Mapping[str, Sequence[Any]],
        symbols: Mapping[str, Sequence[str]],
    ) -> None:
        """Raise ContractViolation where the field, or what varies in it, has another shape."""
        fields = {f["name"]: f["type"] for f in expanded(wire(contract.schema))["fields"]}
        table: list[bytes] = []
        found: dict[str, list[_Found]] = {}
        bases = []
        try:
            types = {f["name"]: f["type"] for f in fields[name]["items"]["fields"]}
            varying = {n: _token(n, t, symbols) for n, t in types.items() if n not in constants}
            for segment in _segments(types, constants, varying):
                bases.append(len(table))
                table += _laid_out(len(bases) - 1, segment, found)
        except (KeyError, IndexError, TypeError, ValueError) as problem:
            text = f"{type(problem).__name__} {problem}, expected an array of records that fit"
            raise ContractViolation(contract.name, name, text) from problem
        self._numbers = [n for n, token in varying.items() if not token.forms]
        self._varying = {n: _Varying.of(places) for n, places in found.items()}
        self._bases = np.array(bases)
        self._lengths = np.array([len(form) for form in table])
        width = max(map(len, table))
        self._table = np.array([form.ljust(width, b"\0") for form in table], f"V{width}")

    def encode(self, columns: Mapping[str, NDArray[Any]]) -> list[memoryview]:
        """Return the bytes of each row, from columns [rows, items] of the fields that vary.

        They are doubles, of which NaN is null where null may be; indices of symbols, of which -1
        is; whole numbers.
        """
        rows = len(next(iter(columns.values())))
        if not rows:
            return []
        forms = np.zeros((rows, len(self._bases)), np.intp)
        for name, varying in self._varying.items():
            varying.add(forms, columns[name])
        numbers = _zigzag([columns[name] for name in self._numbers], rows)
        chosen = forms + self._bases
        lengths = np.empty((rows, forms.shape[1] + numbers.shape[1]), np.intp)
        lengths[:, ::2] = self._lengths.take(chosen)
        lengths[:, 1::2] = _varint_lengths(numbers)
        ends = lengths.reshape(-1).cumsum().reshape(lengths.shape)
        starts = ends - lengths
        out = np.empty(ends[-1, -1] + self._table.itemsize, np.uint8)
        # All are as wide as the widest, and what is too much is written over by what comes after.
        segments = _at_any_byte(out, self._table.dtype)
        segments[starts[:, ::2].reshape(-1)] = self._table.take(chosen.reshape(-1))
        for name, varying in self._varying.items():
            if varying.token.double:
                varying.write(out, starts[:, ::2], forms, columns[name])
        _write_varints(out, starts[:, 1::2].reshape(-1), numbers.reshape(-1))
        return [out.data[start:end] for start, end in pairwise([0, *ends[:, -1].tolist()])]


def _token(name: str, avro_type: Any, symbols: Mapping[str, Sequence[str]]) -> _Token:
    nullable = isinstance(avro_type, list)
    values: list[Any] = [None] if nullable else []
    match kind(without_null(avro_type)):
        case "double":
            values.append(0.0)
        case "enum":
            values += symbols[name]
        case "int" | "long" if not nullable:
            pass
        case other:
            raise ValueError(f"{name}: found {other}, expected double, enum, int or long")
    forms = [_encoded(avro_type, value) for value in values]
    return _Token(forms, name, nullable, kind(without_null(avro_type)) == "double")


def _segments(
    types: Mapping[str, Any],
    constants: Mapping[str, Sequence[Any]],
    varying: Mapping[str, _Token],
) -> Iterator[list[_Token]]:
    items = max(map(len, constants.values()))
    segment = [_Token([_encoded("long", items) if items else b""])]
    for item in range(items):
        for name, avro_type in types.items():
            if name in constants:
                segment.append(_Token([_encoded(avro_type, constants[name][item])]))
            elif varying[name].forms:
                segment.append(varying[name])
            else:
                yield segment
                segment = []
    yield [*segment, _Token([b"\0"])]


def _laid_out(number: int, segment: list[_Token], found: dict[str, list[_Found]]) -> list[bytes]:
    """Return the forms of a segment, noting where its varying fields lie."""
    counts = [len(token.forms) for token in segment]
    names = [token.name for token in segment if len(token.forms) > 1]
    if prod(counts) > MOST_FORMS or len({*names}) < len(names):
        raise ValueError(f"found {names} with no varying whole number between, expected one")
    forms = list(product(*(token.forms for token in segment)))
    ends = [list(accumulate(map(len, form))) for form in forms]
    for place, token in enumerate(segment):
        if token.name:
            places = [each[place] for each in ends]
            stride = prod(counts[place + 1 :])
            found.setdefault(token.name, []).append((token, number, stride, places))
    return [b"".join(form) for form in forms]


def _at_any_byte(out: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return bytes as values that begin at every one of them."""
    return np.ndarray((len(out) - dtype.itemsize + 1,), dtype, out, strides=(1,))


def _zigzag(columns: Sequence[NDArray[Any]], rows: int) -> NDArray[np.uint64]:
    if not columns:
        return np.empty((rows, 0), np.uint64)
    whole = np.stack(columns, 2).reshape(rows, -1).astype(np.int64, copy=False)
    return ((whole << 1) ^ (whole >> 63)).view(np.uint64)


def _varint_lengths(numbers: NDArray[np.uint64]) -> Places:
    lengths: Places = np.ones(numbers.shape, np.intp)
    for bits in range(7, 64, 7):
        longer = numbers >> np.uint64(bits) != 0
        if not longer.any():
            break
        lengths += longer
    return lengths


def _write_varints(out: NDArray[np.uint8], places: Places, numbers: NDArray[np.uint64]) -> None:
    while len(places):
        more = numbers > 127
        out[places] = np.where(more, numbers | 128, numbers).astype(np.uint8)
        places, numbers = places[more] + 1, numbers[more] >> _SEVEN


def _text(text: str) -> bytes:
    content = text.encode()
    return _length(len(content)) + content


@lru_cache(maxsize=1_024)
def _length(length: int) -> bytes:
    return _encoded("long", length)


def _encoded(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, value)
    return out.getvalue()
