"""What became of each input record, decided anew in SQL: dead letter, expired, duplicate, applied.

A ledger is a DuckDB database with one table a contract (`interaction`, `survey`, `evaluation`):
`partition, position, append_time, digest, fault` and the contract's columns, which are null where
`fault` says why the record could not be read; and the tables `advances` (logged idle advances) and
`set_aside` (what the late and the dead-letter topics hold).
"""

# ruff: noqa: S608 - every name in the SQL comes from the contracts and the registry.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow as pa
from ruamel.yaml import YAML

import schemas
from streams.verify.definitions import contract_fields

FUTURE_LIMIT_MS = 300_000
"""An event time may lie this far ahead of the broker's append time."""

OUTCOMES = ("applied", "duplicates", "expired", "dead_lettered")

_FILE = "verify.duckdb"
_ADVANCE = ("topic", "partition", "position", "watermark")

_SQL_TYPES = {
    "string": "VARCHAR",
    "boolean": "BOOLEAN",
    "int": "BIGINT",
    "long": "BIGINT",
    "float": "DOUBLE",
    "double": "DOUBLE",
}


@dataclass(frozen=True, slots=True)
class Input:
    """An input topic with what decides lateness, in milliseconds."""

    topic: str
    contract: str
    disorder_ms: int
    grace_ms: int
    reach_ms: int
    restates: bool


@dataclass(frozen=True, slots=True)
class Advance:
    """A logged idle advance: it holds before the record at ``position``."""

    topic: str
    partition: int
    position: int
    watermark_ms: int


@dataclass(frozen=True, slots=True)
class Check:
    """A predicate of a contract that must hold or be null, of each element where ``each`` says."""

    predicate: str
    each: str | None

    @property
    def broken(self) -> str:
        """SQL that is true where the check does not hold, and never null."""
        fails = f"coalesce(NOT ({self.predicate}), FALSE)"
        if self.each is None:
            return fails
        elements = f"SELECT unnest({sql_name(self.each)}, max_depth := 2)"
        return f"coalesce((SELECT bool_or({fails}) FROM ({elements})), FALSE)"


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the records of one input partition."""

    topic: str
    partition: int
    consumed: int
    applied: int
    duplicates: int
    expired: int
    dead_lettered: int
    watermark_ms: int | None

    @property
    def balances(self) -> bool:
        """Whether every record consumed has exactly one outcome."""
        parts = self.applied + self.duplicates + self.expired + self.dead_lettered
        return self.consumed == parts


def sql_name(name: str) -> str:
    """Return an identifier of SQL.

    >>> sql_name("offered")
    '"offered"'
    """
    return '"' + name.replace('"', '""') + '"'


def sql_text(text: str) -> str:
    """Return a string literal of SQL.

    >>> sql_text("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def sql_type(avro: Any) -> str:
    """Return the column type in which a ledger keeps an Avro type; instants are BIGINT ms."""
    if isinstance(avro, list):
        return next(sql_type(each) for each in avro if each != "null")
    if isinstance(avro, str):
        return _SQL_TYPES.get(avro, "VARCHAR")
    if avro["type"] == "array":
        return sql_type(avro["items"]) + "[]"
    if avro["type"] == "record":
        fields = (f"{sql_name(each['name'])} {sql_type(each['type'])}" for each in avro["fields"])
        return f"STRUCT({', '.join(fields)})"
    return "VARCHAR" if avro["type"] == "enum" else sql_type(avro["type"])


@cache
def contract_checks(contract: str) -> tuple[Check, ...]:
    """Return the range of Avro's int fields, then the checks that stand beside the schema."""
    ranges = [
        Check(f"{sql_name(field['name'])} BETWEEN {-(2**31)} AND {2**31 - 1}", None)
        for field in contract_fields(contract)
        if "int" in (field["type"] if isinstance(field["type"], list) else [field["type"]])
    ]
    path = Path(schemas.__file__).parent / "avro" / f"{contract}.checks.yaml"
    items = YAML(typ="safe", pure=True).load(path.read_text()) if path.exists() else ()
    written = (Check(str(item["check"]), item.get("each")) for item in items or ())
    return (*ranges, *written)


class Ledger:
    """The input records and their outcomes in a DuckDB database.

    Args:
        inputs: the input topics.
        directory: where the database file goes; DuckDB keeps there what does not fit its memory.
            None keeps all of it in memory.
        memory_limit: of DuckDB, as it writes sizes.

    """

    def __init__(
        self, inputs: Sequence[Input], directory: Path | None, memory_limit: str = "1GB"
    ) -> None:
        self.inputs = tuple(inputs)
        self.sql = duckdb.connect(":memory:" if directory is None else str(directory / _FILE))
        self.sql.execute(f"SET memory_limit = {sql_text(memory_limit)}")
        if directory is not None:
            self.sql.execute(f"SET temp_directory = {sql_text(str(directory / 'spill'))}")
        self.sql.execute("SET preserve_insertion_order = false")
        self.sql.execute("SET enable_progress_bar = false")
        for each in self.inputs:
            self.sql.execute(f"CREATE TABLE {sql_name(each.contract)} ({_columns(each.contract)})")
        self.sql.execute(
            'CREATE TABLE advances ("topic" VARCHAR, "partition" INTEGER,'
            ' "position" BIGINT, watermark BIGINT)'
        )
        self.sql.execute(
            'CREATE TABLE set_aside (set_aside VARCHAR, "topic" VARCHAR, "partition" INTEGER,'
            ' "position" BIGINT, reason VARCHAR, digest UBIGINT)'
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.sql.close()

    def add(self, table: str, batch: pa.Table) -> None:
        """Add rows to a table; the batch's columns are the table's, in any order."""
        self.sql.register("batch", batch)
        self.sql.execute(f"INSERT INTO {sql_name(table)} BY NAME SELECT * FROM batch")
        self.sql.unregister("batch")

    def advance(self, advances: Iterable[Advance]) -> None:
        """Add logged idle advances."""
        rows = [(a.topic, a.partition, a.position, a.watermark_ms) for a in advances]
        if rows:
            columns = zip(_ADVANCE, zip(*rows, strict=True), strict=True)
            self.add("advances", pa.table(dict(columns)))

    def decide(self) -> None:
        """Decide every record: tables ``<contract>_outcome`` and ``<contract>_watermark``."""
        for each in self.inputs:
            self.sql.execute(_timed(each))
            self.sql.execute(_outcomes(each))

    def accounts(self) -> list[Account]:
        """Return the account of every input partition that has records or advances."""
        rows = []
        for each in self.inputs:
            found = self.sql.execute(_accounts(each)).fetchall()
            rows += [Account(each.topic, *row) for row in found]
        return rows

    def combined_watermark(self, contract: str) -> int | None:
        """Return the least watermark over the partitions that have any, None if none has.

        A partition without a valid record has none and holds nothing back.
        """
        row = self.sql.execute(
            f"SELECT min(watermark) FROM {sql_name(contract + '_watermark')}"
        ).fetchone()
        return None if row is None else row[0]


def _columns(contract: str) -> str:
    fields = (f"{sql_name(f['name'])} {sql_type(f['type'])}" for f in contract_fields(contract))
    fixed = (
        '"partition" INTEGER, "position" BIGINT, append_time BIGINT, digest UBIGINT, fault VARCHAR'
    )
    return ", ".join((fixed, *fields))


def _fault(contract: str) -> str:
    """Return the SQL for the reason why a record is a dead letter, null for a good one."""
    broken = " OR ".join(each.broken for each in contract_checks(contract))
    return (
        "CASE WHEN fault IS NOT NULL THEN fault"
        f" WHEN {broken or 'FALSE'} THEN 'CONTRACT'"
        f" WHEN append_time > 0 AND event_time > append_time + {FUTURE_LIMIT_MS}"
        " THEN 'FUTURE_TIME' END"
    )


def _timed(source: Input) -> str:
    """Return the SQL that gives each record its reason and its partition's watermark at it.

    The watermark at a record is the highest event time up to and including it, less the
    disorder, or what an advance before it says if that is higher.
    """
    return f"""
    CREATE TABLE {sql_name(source.contract + "_timed")} AS
    WITH marked AS (
        SELECT "partition", "position", TRUE AS is_record, event_id, version, event_time,
            {_fault(source.contract)} AS reason
        FROM {sql_name(source.contract)}
        UNION ALL BY NAME
        SELECT "partition", "position", FALSE AS is_record,
            watermark + {source.disorder_ms} AS event_time
        FROM advances WHERE "topic" = {sql_text(source.topic)}
    )
    SELECT *, max(CASE WHEN reason IS NULL THEN event_time END) OVER (
        PARTITION BY "partition" ORDER BY "position", is_record
    ) - {source.disorder_ms} AS watermark
    FROM marked;
    CREATE TABLE {sql_name(source.contract + "_watermark")} AS
    SELECT "partition", max(watermark) AS watermark
    FROM {sql_name(source.contract + "_timed")} GROUP BY "partition"
    """


def _outcomes(source: Input) -> str:
    """Return the SQL that decides the records; ``counts`` is false for what was restated.

    Of a topic that is not restatable the first record of an id stays, whatever the versions.
    """
    known = "version <= seen_version" if source.restates else "seen_version IS NOT NULL"
    return f"""
    CREATE TABLE {sql_name(source.contract + "_outcome")} AS
    WITH judged AS (
        SELECT "partition", "position", event_id, version, reason, CASE
            WHEN reason IS NOT NULL THEN 'dead_lettered'
            WHEN event_time < watermark - {source.grace_ms} THEN 'expired' END AS outcome
        FROM {sql_name(source.contract + "_timed")} WHERE is_record
    ), seen AS (
        SELECT *, max(CASE WHEN outcome IS NULL THEN version END) OVER (
            PARTITION BY "partition", event_id ORDER BY "position"
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS seen_version
        FROM judged
    ), decided AS (
        SELECT "partition", "position", event_id, reason, CASE
            WHEN outcome IS NOT NULL THEN outcome
            WHEN {known} THEN 'duplicates'
            ELSE 'applied' END AS outcome
        FROM seen
    )
    SELECT "partition", "position", reason, outcome, outcome = 'applied' AND "position" = max(
        CASE WHEN outcome = 'applied' THEN "position" END
    ) OVER (PARTITION BY "partition", event_id) AS counts
    FROM decided
    """


def _accounts(source: Input) -> str:
    counts = ", ".join(
        f"count(*) FILTER (outcome = {sql_text(outcome)}) AS {outcome}" for outcome in OUTCOMES
    )
    return f"""
    SELECT "partition", coalesce(consumed, 0), {", ".join(f"coalesce({o}, 0)" for o in OUTCOMES)},
        watermark
    FROM {sql_name(source.contract + "_watermark")} LEFT JOIN (
        SELECT "partition", count(*) AS consumed, {counts}
        FROM {sql_name(source.contract + "_outcome")} GROUP BY "partition"
    ) USING ("partition")
    ORDER BY "partition"
    """
