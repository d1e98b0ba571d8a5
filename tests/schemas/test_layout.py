"""Rows of items that are copied together are the bytes that the writer of records writes."""

import io
import math
from typing import Any

import fastavro
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.contract import Contract, load_contract
from schemas.errors import ContractViolation
from schemas.layout import Items, Part, Texts, require_fields

SYMBOLS = ("LOW", "MIDDLE", "HIGH")
ENUM = {"type": "enum", "name": "Level", "symbols": ["HIGH", "LOW", "MIDDLE"]}

DOUBLES = st.floats(allow_nan=False)
LONGS = st.integers(-(2**63), 2**63 - 1)
VARYING: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "number": ("long", LONGS | st.integers(-70, 70)),
    "size": ("int", st.integers(-(2**31), 2**31 - 1)),
    "value": ("double", DOUBLES),
    "perhaps": (["null", "double"], st.none() | DOUBLES),
    "backwards": (["double", "null"], st.none() | DOUBLES),
    "level": (ENUM, st.sampled_from(SYMBOLS)),
    "unlike": (["null", ENUM | {"name": "Unlike"}], st.none() | st.sampled_from(SYMBOLS)),
}
CONSTANT: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "name": ("string", st.text(max_size=70)),
    "target": (["null", "double"], st.none() | DOUBLES),
    "version": ("int", st.integers(0, 300)),
}


def contract_of(items: dict[str, Any]) -> Contract:
    fields = [{"name": name, "type": avro_type} for name, avro_type in items.items()]
    item = {"type": "record", "name": "Item", "fields": fields}
    array = {"type": "array", "items": item}
    schema = {"type": "record", "name": "Row", "fields": [{"name": "items", "type": array}]}
    return Contract("row", schema, (), pl.Schema())


def written(contract: Contract, items: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, contract.schema, {"items": items})
    return out.getvalue()


def column(name: str, rows: list[list[dict[str, Any]]]) -> np.ndarray:
    values = [[item[name] for item in row] for row in rows]
    if name in ("level", "unlike"):
        values = [[-1 if v is None else SYMBOLS.index(v) for v in row] for row in values]
    if name in ("value", "perhaps", "backwards"):
        values = [[math.nan if v is None else v for v in row] for row in values]
        return np.array(values, np.float64).reshape(len(rows), -1)
    return np.array(values, np.int64).reshape(len(rows), -1)


@st.composite
def drawn(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], list[list[dict[str, Any]]]]:
    """Draw fields in some order, the constants of each item, and rows of items."""
    names = {"name", *draw(st.sets(st.sampled_from([*VARYING, *CONSTANT])))}
    if names & {"perhaps", "backwards", "level", "unlike"}:
        names.add("number")
    every = VARYING | CONSTANT
    types = {name: every[name][0] for name in draw(st.permutations(sorted(names)))}
    items = draw(st.integers(0, 4))
    constants = {
        name: draw(st.lists(CONSTANT[name][1], min_size=items, max_size=items))
        for name in types
        if name in CONSTANT
    }
    one = {name: VARYING[name][1] for name in types if name in VARYING}
    same = [{name: values[item] for name, values in constants.items()} for item in range(items)]
    row = st.tuples(*(st.fixed_dictionaries(one).map(lambda v, s=s: s | v) for s in same))
    return types, constants, [list(r) for r in draw(st.lists(row, min_size=1, max_size=5))]


@given(drawn())
def test_rows_are_the_bytes_that_their_records_have(found):
    """Whatever varies, and in whatever order the fields are: byte for byte what is read."""
    types, constants, rows = found
    columns = {name: column(name, rows) for name in types if name in VARYING}
    contract = contract_of(types)
    symbols = dict.fromkeys(("level", "unlike"), SYMBOLS)

    encoded = Items(contract, "items", constants, symbols).encode(
        columns or {"none": np.empty((len(rows), 0))}
    )

    assert [written(contract, row) for row in rows] == [bytes(each) for each in encoded]


def test_no_rows_are_no_bytes():
    """An empty piece has no end that could be asked for."""
    items = Items(contract_of({"name": "string", "value": "double"}), "items", {"name": ["a"]}, {})

    assert [] == items.encode({"value": np.empty((0, 1))})


@pytest.mark.parametrize(
    ("types", "constants", "symbols", "message"),
    [
        ({"name": "string", "text": "string"}, {"name": ["a"]}, {}, "text: found string, expected"),
        ({"name": "string", "much": ["null", "long"]}, {"name": ["a"]}, {}, "much: found long"),
        ({"name": "string"}, {"name": [1]}, {}, "TypeError must be string"),
        ({"name": "string", "level": ENUM}, {"name": ["a"]}, {"level": ["NONE"]}, "NONE"),
        ({"name": "string", "level": ENUM}, {"name": ["a"]}, {}, "KeyError 'level'"),
        (
            {"name": "string", "level": ENUM},
            {"name": ["a", "b"]},
            {"level": SYMBOLS},
            "no varying whole number between",
        ),
    ],
)
def test_a_field_of_another_shape_is_refused_before_there_are_rows(
    types, constants, symbols, message
):
    """What cannot be laid out, or constants that are not of the contract, show at the start."""
    with pytest.raises(ContractViolation, match=message):
        Items(contract_of(types), "items", constants, symbols)


def test_a_field_that_is_no_array_of_records_is_refused():
    """Neither a field of another kind nor one that the contract has not can be laid out."""
    for name in ("scope", "window", "nothing"):
        with pytest.raises(ContractViolation, match=f"kpi-record.{name}: .* array of records"):
            Items(load_contract("kpi-record"), name, {"name": ["a"]}, {})


def test_parts_of_a_record_are_its_bytes_one_after_the_other():
    """A record is its fields in order, and nothing between them."""
    types = {"first": "string", "second": ["null", "long"], "third": "double"}
    fields = [{"name": name, "type": avro_type} for name, avro_type in types.items()]
    contract = Contract("row", {"type": "record", "name": "Row", "fields": fields}, (), pl.Schema())
    record = {"first": "a", "second": None, "third": 1.5}
    out = io.BytesIO()
    fastavro.schemaless_writer(out, contract.schema, record)

    parts = [Part(contract, names).encode(record) for names in (["first", "second"], ["third"])]

    assert out.getvalue() == b"".join(parts)


def test_fields_in_another_order_are_refused():
    """A contract with one more field, or another order, would be written wrongly."""
    names = [f["name"] for f in load_contract("as-of").schema["fields"]]
    require_fields(load_contract("as-of"), names)

    for wrong in (names[:-1], names[::-1]):
        with pytest.raises(ContractViolation, match=f"expected {', '.join(wrong)}"):
            require_fields(load_contract("as-of"), wrong)


@given(st.lists(st.tuples(st.text(max_size=70), st.text(max_size=9_000)), max_size=3))
def test_texts_are_the_bytes_that_the_writer_of_records_writes(pairs):
    """However long they are, and if there are none."""
    contract = contract_of({"name": "string", "value": "string"})
    items = [{"name": name, "value": value} for name, value in pairs]
    texts = Texts(contract, "items", [name for name, _ in pairs])

    assert written(contract, items) == texts.encode([value for _, value in pairs])


def test_texts_of_another_shape_are_refused():
    """At the start, and not in the middle of the first flush."""
    with pytest.raises(ContractViolation, match=r"row\.items.*found .*long.*, expected two string"):
        Texts(contract_of({"name": "string", "value": "long"}), "items", ["a"])
    with pytest.raises(ContractViolation, match=r"row\.rows.*found None, expected an array"):
        Texts(contract_of({"name": "string"}), "rows", ["a"])
