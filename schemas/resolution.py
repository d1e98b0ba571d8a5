"""Reading what an older or newer writer wrote as the newest version of a contract."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fastavro
import polars as pl

from schemas.contract import Contract, dtype, expanded, kind, wire, without_null
from schemas.errors import Undecodable, UnknownSchema

ID_COLUMN, END_COLUMN = "andon_schema_id", "andon_end"

# What the columnar reader takes; a contract with other types is read record by record.
_COLUMNAR = frozenset(("string", "int", "long", "double", "boolean", "enum", "array", "record"))

_PROMOTIONS = {"int": ("long", "double"), "long": ("double",)}


@dataclass(frozen=True, slots=True)
class Writer:
    """How to read the records of one writer's schema.

    `framed` is the schema of a datum between its five-byte prefix and the sentinel, for the
    columnar reader; None where records must be read one by one. `projection` makes the newest
    version's columns of the writer's.
    """

    schema: Any
    reader: Any
    framed: str | None
    projection: tuple[pl.Expr, ...]

    def read(self, body: bytes) -> dict[str, Any]:
        """Return one record of the newest version, or raise Undecodable."""
        source = io.BytesIO(body)
        try:
            record = fastavro.schemaless_reader(source, self.schema, self.reader)
        except Exception as problem:  # the reader raises whatever the bytes lead it to
            raise Undecodable(f"{type(problem).__name__}: {problem}") from problem
        if left := len(body) - source.tell():
            raise Undecodable(f"{left} bytes left over after the record")
        if not isinstance(record, dict):
            raise Undecodable(f"{type(record).__name__}, expected a record")
        return record


def plan(contract: Contract, writer_text: str) -> Writer:
    """Return how to read the writer's records; raise UnknownSchema where it is another form."""
    try:
        written = json.loads(writer_text)
        schema = fastavro.parse_schema(wire(written))
        ours = wire(contract.schema)
        reader = None if wire(written) == ours else fastavro.parse_schema(ours)
        fields = {f["name"]: f for f in expanded(wire(written))["fields"]}
        projection = _projection(contract, fields)
        columnar = projection is not None and _is_columnar(expanded(wire(written)))
    except (ValueError, KeyError, TypeError, fastavro.schema.SchemaParseException) as problem:
        raise UnknownSchema(f"schema of another form than {contract.name}: {problem}") from problem
    _must_match(contract, written, fields)
    framed = json.dumps(_framed(wire(written))) if columnar else None
    return Writer(schema, reader, framed, tuple(projection or ()))


def serial_schema(contract: Contract) -> str | None:
    """Return the schema that batches of columns are written with; None where there is none."""
    ours = wire(contract.schema)
    return json.dumps(_long_for_int(ours)) if _is_columnar(expanded(ours)) else None


def _must_match(contract: Contract, written: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    theirs, ours = (s["name"].rpartition(".")[2] for s in (written, contract.schema))
    if theirs != ours:
        raise UnknownSchema(f"schema of {theirs}, expected of {ours}")
    for f in contract.schema["fields"]:
        if "default" not in f and _source(f, fields) is None:
            raise UnknownSchema(f"schema without {contract.name}.{f['name']}, which has no default")


def _source(f: Mapping[str, Any], fields: Mapping[str, Any]) -> Mapping[str, Any] | None:
    names = (f["name"], *f.get("aliases", ()))
    return next((fields[name] for name in names if name in fields), None)


def _is_columnar(avro_type: Any) -> bool:
    avro_type = without_null(avro_type)
    if kind(avro_type) == "record":
        return all(_is_columnar(f["type"]) for f in avro_type["fields"])
    if kind(avro_type) == "array":
        return _is_columnar(avro_type["items"])
    return kind(avro_type) in _COLUMNAR


def _framed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of prefix, record and sentinel: one byte, four, the fields, and eight.

    The columnar reader knows no `fixed` and does not say how much it consumed; a boolean, a float
    and a double have the right widths, and their bits come through unchanged.
    """
    first = [{"name": "andon_magic", "type": "boolean"}, {"name": ID_COLUMN, "type": "float"}]
    last = [{"name": END_COLUMN, "type": "double"}]
    schema = _long_for_int(schema)
    return {**schema, "fields": [*first, *schema["fields"], *last]}


def _long_for_int(schema: Any) -> Any:
    """Return the schema with every int as a long: the same bytes, and no silent wrap-around."""
    if isinstance(schema, list):
        return [_long_for_int(branch) for branch in schema]
    if isinstance(schema, dict):
        wide = ("type", "items", "values", "fields")
        return {k: _long_for_int(v) if k in wide else v for k, v in schema.items()}
    return "long" if schema == "int" else schema


def _projection(contract: Contract, fields: Mapping[str, Any]) -> list[pl.Expr] | None:
    """Return the newest version's columns as expressions over the writer's; None: no such."""
    columns = []
    for f in expanded(wire(contract.schema))["fields"]:
        source = _source(f, fields)
        if source is not None and not _is_readable(source["type"], f["type"]):
            return None
        columns.append(_column(f, source))
    return columns


def _column(f: Mapping[str, Any], source: Mapping[str, Any] | None) -> pl.Expr:
    if source is None:
        default = pl.Series([f.get("default")], dtype=dtype(f["type"]))
        return pl.lit(default).first().alias(f["name"])
    column = pl.col(source["name"])
    if dtype(source["type"]) != dtype(f["type"]):
        column = column.cast(dtype(f["type"]))
    return column.alias(f["name"])


def _is_readable(written: Any, read: Any) -> bool:
    """Whether every value of the written type is one of the read type, column for column."""
    if isinstance(written, list) and not isinstance(read, list):
        return False
    written, read = without_null(written), without_null(read)
    if kind(written) == kind(read) == "enum":
        return set(written["symbols"]) <= set(read["symbols"])
    if kind(written) in ("record", "array"):
        return bool(_shape(written) == _shape(read))
    return kind(written) == kind(read) or kind(read) in _PROMOTIONS.get(kind(written), ())


def _shape(avro_type: Any) -> Any:
    """Return a type without names and defaults, which do not matter to reading columns."""
    if isinstance(avro_type, list):
        return [_shape(branch) for branch in avro_type]
    if kind(avro_type) == "record":
        return [(f["name"], _shape(f["type"])) for f in avro_type["fields"]]
    if kind(avro_type) == "array":
        return ["array", _shape(avro_type["items"])]
    return (kind(avro_type), avro_type["symbols"]) if kind(avro_type) == "enum" else kind(avro_type)
