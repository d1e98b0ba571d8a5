"""Contracts as read from `avro/`: the schema, the predicates beside it, and the columns of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
from ruamel.yaml import YAML

AVRO_DIRECTORY = Path(__file__).parent / "avro"

_WIRE = ("name", "namespace", "aliases", "type", "symbols", "items", "values", "size", "default")

_DTYPES: Mapping[str, pl.DataType] = {
    "string": pl.String(),
    "int": pl.Int64(),
    "long": pl.Int64(),
    "float": pl.Float64(),
    "double": pl.Float64(),
    "boolean": pl.Boolean(),
    "bytes": pl.Binary(),
    "enum": pl.String(),
}


@dataclass(frozen=True, slots=True)
class Check:
    """A predicate that must hold, or be null, for every record of a contract.

    `check` is SQL that polars and DuckDB read alike. With `each`, the name of an array column, it
    is asked of every element, whose fields are the columns; `field` then names array and field.
    """

    field: str
    check: str
    expected: str
    each: str | None = None


@dataclass(frozen=True, slots=True)
class Contract:
    """The newest version of one contract; `schema` is its Avro schema as the file has it."""

    name: str
    schema: Mapping[str, Any]
    checks: tuple[Check, ...]
    columns: pl.Schema = field(repr=False)

    @property
    def text(self) -> str:
        """The schema as JSON without blanks, as a registry stores it."""
        return json.dumps(self.schema, separators=(",", ":"))

    @property
    def max_value_bytes(self) -> int | None:
        """Largest encoded value in bytes, or None where only the broker's limit holds."""
        return self.schema.get("max_value_bytes")


def contract_names(directory: Path = AVRO_DIRECTORY) -> tuple[str, ...]:
    """Return the names of all contracts, sorted."""
    return tuple(sorted(path.stem for path in directory.glob("*.avsc")))


@cache
def load_contract(name: str, directory: Path = AVRO_DIRECTORY) -> Contract:
    """Read `<name>.avsc` and `<name>.checks.yaml`; raise FileNotFoundError for an unknown name."""
    schema = json.loads((directory / f"{name}.avsc").read_text(encoding="utf-8"))
    checks_file = directory / f"{name}.checks.yaml"
    entries = YAML(typ="safe").load(checks_file) if checks_file.exists() else None
    checks = tuple(Check(**entry) for entry in entries or ())
    return Contract(name, schema, checks, polars_schema(schema))


def contract_schemas() -> dict[str, pl.Schema]:
    """Return the columns of every contract, as `Codec.columns` gives them."""
    return {name: load_contract(name).columns for name in contract_names()}


def wire(schema: Any) -> Any:
    """Return the schema without docs, logical types and properties of our own.

    What is left decides the bytes and how they are resolved. An instant is then its integer.
    """
    if isinstance(schema, list):
        return [wire(branch) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    bare = {name: schema[name] for name in _WIRE if name in schema}
    for name in ("type", "items", "values"):
        if name in bare:
            bare[name] = wire(bare[name])
    if "fields" in schema:
        bare["fields"] = [wire(inner) for inner in schema["fields"]]
    return bare["type"] if bare.keys() == {"type"} else bare


def expanded(schema: Any, known: dict[str, Any] | None = None) -> Any:
    """Return the schema with each named type written out wherever it is used.

    Raise ValueError for a type that contains itself: contracts have no such types.
    """
    known = {} if known is None else known
    if isinstance(schema, list):
        return [expanded(branch, known) for branch in schema]
    if isinstance(schema, str):
        return _known(schema, known)
    full = dict(schema)
    name = full.get("name", "").rpartition(".")[2]
    if schema["type"] == "record":
        known[name] = None
        full["fields"] = [
            inner | {"type": expanded(inner["type"], known)} for inner in schema["fields"]
        ]
    for part in ("items", "values"):
        if part in full:
            full[part] = expanded(full[part], known)
    if schema["type"] in ("record", "enum", "fixed"):
        known[name] = full
    return full


def _known(name: str, known: Mapping[str, Any]) -> Any:
    short = name.rpartition(".")[2]
    if short in known and known[short] is None:
        raise ValueError(f"type {name}: contains itself")
    return known.get(short, name)


def polars_schema(schema: Mapping[str, Any]) -> pl.Schema:
    """Return the columns of a record: enums String, every integer and instant Int64."""
    return pl.Schema({f["name"]: dtype(f["type"]) for f in expanded(schema)["fields"]})


def without_null(avro_type: Any) -> Any:
    """Return what a nullable type holds besides null, any other type as it is.

    Raise ValueError for a union of several types: contracts have no such fields.
    """
    if not isinstance(avro_type, list):
        return avro_type
    branches = [branch for branch in avro_type if branch != "null"]
    if len(branches) != 1:
        raise ValueError(f"union of {len(branches)} types besides null, expected 1")
    return branches[0]


def kind(avro_type: Any) -> str:
    """Return the name of an expanded type: a primitive's, or record, enum, array, ..."""
    return avro_type if isinstance(avro_type, str) else str(avro_type["type"])


def dtype(avro_type: Any) -> pl.DataType:
    """Return the polars type of an expanded Avro type; raise ValueError where there is none."""
    avro_type = without_null(avro_type)
    if kind(avro_type) == "record":
        return pl.Struct({f["name"]: dtype(f["type"]) for f in avro_type["fields"]})
    if kind(avro_type) == "array":
        return pl.List(dtype(avro_type["items"]))
    if kind(avro_type) not in _DTYPES:
        raise ValueError(f"type {kind(avro_type)}: no column type, expected {', '.join(_DTYPES)}")
    return _DTYPES[kind(avro_type)]
