"""Bytes to columns and records of one contract, and back.

A whole batch is decoded at once: each datum is read with its five-byte prefix as the first two
fields and a sentinel as the last one, so that one pass also shows foreign schema ids and bytes left
over after a record. What that pass refuses is cut in halves until the bad records stand alone.
"""

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import fastavro
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyruhvro

from schemas.checks import Checks
from schemas.contract import expanded, kind, load_contract
from schemas.errors import (
    ContractViolation,
    FutureTime,
    Reason,
    RecordError,
    TooLarge,
    Undecodable,
    UnknownSchema,
)
from schemas.headers import Headers, prefix, schema_key
from schemas.records import whole_record
from schemas.registry import SchemaRegistry
from schemas.resolution import END_COLUMN, ID_COLUMN, Writer, plan, serial_schema

FUTURE_ALLOWANCE_MS = 5 * 60_000

_PREFIX_BYTES = 5
_END = struct.pack("<d", -6.62607015e-34)
_ALONE = 16
_FIRST_NOT_ASCII = 0x80

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rejected:
    """An input value that gave no row: which one, why, and the error's name and text."""

    index: int
    reason: Reason
    exception: str
    message: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """Rows of a batch in its order; `index[i]` is the input value that row i came from."""

    frame: pl.DataFrame
    index: Index
    rejected: list[Rejected]

    def of(self, start: int, stop: int) -> "Decoded":
        """Return what came of the input values [start, stop), as if there had been no others."""
        first, last = np.searchsorted(self.index, [start, stop]).tolist()
        return Decoded(
            self.frame.slice(first, last - first),
            self.index[first:last] - start,
            [replace(r, index=r.index - start) for r in self.rejected if start <= r.index < stop],
        )


@dataclass(slots=True)
class _Findings:
    """Rows and rejections found so far; an input value is in one of the two."""

    frames: list[pl.DataFrame] = field(default_factory=list)
    indexes: list[Index] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def add(self, frame: pl.DataFrame, index: Index) -> None:
        self.frames.append(frame)
        self.indexes.append(index)

    def reject(self, index: int, problem: RecordError) -> None:
        name = type(problem).__name__
        self.rejected.append(Rejected(int(index), problem.reason, name, str(problem)))


class Codec:
    """Encodes and decodes the records of one contract on one topic."""

    def __init__(self, contract: str, registry: SchemaRegistry, topic: str) -> None:
        self.contract = load_contract(contract)
        self.topic = topic
        self._registry = registry
        self._own = plan(self.contract, self.contract.text)
        self._own_id: int | None = None
        self._writers: dict[int | UUID, Writer] = {}
        self._usual: tuple[int, Writer] | None = None
        self._checks = Checks(self.contract)
        self._serial = serial_schema(self.contract)
        self._fields = expanded(self.contract.schema)["fields"]

    @property
    def schema_id(self) -> int:
        """The id that encoded values carry; raise UnknownSchema, RegistryUnavailable."""
        if self._own_id is None:
            self._own_id = self._registry.schema_id(self.contract.name, self.topic)
            self._writers[self._own_id] = self._own
        return self._own_id

    def record(self, value: Any) -> dict[str, Any]:
        """Return the whole, checked record that a plain JSON object stands for.

        Enums are strings, instants integers (ms) or RFC 3339 strings, absent fields take their
        defaults. Raise ContractViolation that names the field.
        """
        record = whole_record(self.contract, value)
        self.check(record)
        return record

    def check(self, record: Mapping[str, Any]) -> None:
        """Raise ContractViolation where a whole record breaks a predicate of its contract."""
        for violation in self._checks.violations(self._frame([record])).values():
            raise violation

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """Return the record as framed Avro; instants are ints in ms, absent fields take defaults.

        Types are checked here; the contract's predicates are left to `check` and to every reader.
        Raise ContractViolation that names the field.
        """
        out = io.BytesIO()
        out.write(prefix(self.schema_id))
        try:
            fastavro.schemaless_writer(out, self._own.schema, record, strict_allow_default=True)
        except Exception as problem:  # the writer raises whatever the value leads it to
            whole_record(self.contract, record)
            raise ContractViolation(self.contract.name, "record", str(problem)) from problem
        return out.getvalue()

    def encode_columns(self, batch: pa.RecordBatch) -> list[bytes]:
        """Return the rows as framed Avro; integers may be Int64, instants Int64 or timestamps (ms).

        A column that is absent takes its default. Raise ContractViolation for a column that is
        missing, unknown or of another type.
        """
        if self._serial is None:
            return [self.encode(record) for record in batch.to_pylist()]
        framing = prefix(self.schema_id)
        try:
            arrays = pyruhvro.serialize_record_batch(self._arranged(batch), self._serial, 1)
        except ValueError as problem:
            raise ContractViolation(self.contract.name, "batch", str(problem)) from problem
        return [framing + body for array in arrays for body in array.to_pylist()]

    def _arranged(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the batch with exactly the columns and types that the writer takes."""
        expected = pyruhvro.avro_to_arrow_schema(self._serial)
        if unknown := set(batch.schema.names) - set(expected.names):
            raise ContractViolation(self.contract.name, min(unknown), "unknown column")
        arrays = [
            self._array(batch, wanted, f) for wanted, f in zip(expected, self._fields, strict=True)
        ]
        for array, f in zip(arrays, self._fields, strict=True):
            if _lacks_values(array, f["type"]):
                raise ContractViolation(self.contract.name, f["name"], "null, expected a value")
        return pa.RecordBatch.from_arrays(arrays, schema=expected)

    def _array(self, batch: pa.RecordBatch, f: pa.Field, avro: Mapping[str, Any]) -> pa.Array:
        if f.name not in batch.schema.names:
            if "default" not in avro:
                raise ContractViolation(self.contract.name, f.name, "absent, expected a column")
            return pa.array([avro["default"]] * batch.num_rows, f.type)
        array = batch.column(f.name)
        try:
            return array if array.type.equals(f.type) else array.cast(f.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as problem:
            problem_text = f"column of {array.type}, expected {f.type}: {problem}"
            raise ContractViolation(self.contract.name, f.name, problem_text) from problem

    def decode(self, value: bytes | None, headers: Headers = None) -> dict[str, Any]:
        """Return one record of the newest version, instants as ints in ms.

        Raise ContractViolation, UnknownSchema, Undecodable, TooLarge, or RegistryUnavailable.
        """
        record = self.read(value, headers)
        self.check(record)
        return record

    def read(self, value: bytes | None, headers: Headers = None) -> dict[str, Any]:
        """Return one record as `decode` does, whether or not it keeps its contract's predicates."""
        key, framed = self._framed(value, headers)
        return self._writer(key).read(framed[_PREFIX_BYTES:])

    def columns(
        self,
        values: Sequence[bytes | None],
        append_times_ms: Sequence[int] | Index,
        headers: Sequence[Headers] | None = None,
        wanted: Sequence[str] | None = None,
    ) -> Decoded:
        """Return a batch's valid records as columns of the newest version, the rest as reasons.

        `append_times_ms` are the broker's, one a value; none, or one not above 0, limits nothing.
        `wanted` names the columns to return; records are judged by all that is in them.
        Raise RegistryUnavailable where a schema cannot be asked for: nothing is decided then.
        """
        found = _Findings()
        frame = self._decode_usual(values, wanted) if values else self._frame([])
        if frame is None:
            self._decode_carefully(values, headers, found)
        else:
            found.add(frame, np.arange(len(values)))
        decoded = self._checked(self._joined(found), append_times_ms)
        return decoded if wanted is None else replace(decoded, frame=decoded.frame.select(wanted))

    def _decode_usual(
        self, values: Sequence[bytes | None], wanted: Sequence[str] | None
    ) -> pl.DataFrame | None:
        """Return the rows if all values are sound records of the schema seen last, else None.

        Columns that are neither wanted nor asked by a check are left out.
        """
        schema_id, writer = self._usual or (self.schema_id, self._own)
        batch = _try_read(writer, values)
        if batch is None:
            return None
        limit = self.contract.max_value_bytes
        if limit is not None and max(map(len, values)) > limit:  # type: ignore[arg-type]
            return None
        ids = np.frombuffer(prefix(schema_id), "<u4", offset=1)
        if not (_bits(batch, ID_COLUMN, "<u4") == ids).all() or not _ends(batch).all():
            return None
        if wanted is None or writer.reader is not None:
            return _rows(writer, batch)
        return self._narrow_rows(batch, wanted)

    def _narrow_rows(self, batch: pa.RecordBatch, wanted: Sequence[str]) -> pl.DataFrame:
        """Return the columns of our own schema that are wanted, and what checks look at."""
        asked = {"event_time": (), **self._checks.columns}
        columns = {
            name: _narrowed(batch.column(name), () if name in wanted else asked.get(name, ()))
            for name in self.contract.columns
            if name in wanted or name in asked
        }
        frame = pl.from_arrow(pa.table(columns))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def _decode_carefully(
        self, values: Sequence[bytes | None], headers: Sequence[Headers] | None, found: _Findings
    ) -> None:
        groups: dict[int | UUID, tuple[list[int], list[bytes]]] = {}
        for i, value in enumerate(values):
            try:
                key, framed = self._framed(value, headers[i] if headers else None)
            except RecordError as problem:
                found.reject(i, problem)
                continue
            indexes, group = groups.setdefault(key, ([], []))
            indexes.append(i)
            group.append(framed)
        for key, (indexes, group) in groups.items():
            self._decode_group(key, np.array(indexes), group, found)
        largest = max(groups, key=lambda key: len(groups[key][0]), default=None)
        if isinstance(largest, int) and largest in self._writers:
            self._usual = (largest, self._writers[largest])

    def _decode_group(
        self, key: int | UUID, index: Index, values: list[bytes], found: _Findings
    ) -> None:
        try:
            writer = self._writer(key)
        except UnknownSchema as problem:
            for i in index:
                found.reject(i, problem)
            return
        self._decode(writer, index, values, found)

    def _decode(self, writer: Writer, index: Index, values: list[bytes], found: _Findings) -> None:
        """Decode values of one writer; halve what the columnar reader refuses."""
        batch = _try_read(writer, values)
        if batch is None and (writer.framed is None or len(values) <= _ALONE):
            self._decode_one_by_one(writer, index, values, found)
            return
        if batch is None:
            half = len(values) // 2
            self._decode(writer, index[:half], values[:half], found)
            self._decode(writer, index[half:], values[half:], found)
            return
        whole = _ends(batch)
        for i in index[~whole]:
            found.reject(i, Undecodable("bytes left over after the record"))
        found.add(_rows(writer, batch).filter(whole), index[whole])

    def _decode_one_by_one(
        self, writer: Writer, index: Index, values: list[bytes], found: _Findings
    ) -> None:
        records, kept = [], []
        for i, value in zip(index, values, strict=True):
            try:
                records.append(writer.read(value[_PREFIX_BYTES:]))
                kept.append(i)
            except Undecodable as problem:
                found.reject(i, problem)
        found.add(self._frame(records), np.array(kept, np.int64))

    def _framed(self, value: bytes | None, headers: Headers) -> tuple[int | UUID, bytes]:
        """Return the schema of a value and the value with a prefix; raise for one without either.

        A prefix with an id that can be resolved goes before a header.
        """
        if not value:
            raise Undecodable("no value" if value is None else "empty value")
        limit = self.contract.max_value_bytes
        if limit is not None and len(value) > limit:
            raise TooLarge(f"{len(value)} bytes, expected at most {limit}")
        named = schema_key(headers)
        prefixed = value[0] == 0 and len(value) > _PREFIX_BYTES
        schema_id = int.from_bytes(value[1:_PREFIX_BYTES], "big")
        if prefixed and (named is None or self._is_readable(schema_id)):
            return schema_id, value
        if named is not None:
            return named, prefix(0) + value
        expected = "a zero byte, four of a schema id and a record, or a header with the schema"
        raise Undecodable(f"{len(value)} bytes without a schema, expected {expected}")

    def _is_readable(self, schema_id: int) -> bool:
        try:
            self._writer(schema_id)
        except UnknownSchema:
            return False
        return True

    def _writer(self, key: int | UUID) -> Writer:
        if key not in self._writers:
            self._writers[key] = plan(self.contract, self._registry.schema(key))
        return self._writers[key]

    def _frame(self, records: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
        return pl.DataFrame(records, schema=self.contract.columns, orient="row")

    def _joined(self, found: _Findings) -> Decoded:
        if not found.frames:
            return Decoded(self._frame([]), np.empty(0, np.int64), found.rejected)
        if len(found.frames) == 1:
            return Decoded(found.frames[0], found.indexes[0], found.rejected)
        index = np.concatenate(found.indexes)
        order = np.argsort(index)
        return Decoded(pl.concat(found.frames)[order], index[order], found.rejected)

    def _checked(self, decoded: Decoded, append_times_ms: Sequence[int] | Index) -> Decoded:
        """Move rows that break the contract, or lie in the future, to the rejected ones."""
        problems: dict[int, RecordError] = dict(self._future(decoded, append_times_ms))
        problems |= self._checks.violations(decoded.frame)
        if not problems and not decoded.rejected:
            return decoded
        found = _Findings(rejected=decoded.rejected)
        for row, problem in problems.items():
            found.reject(decoded.index[row], problem)
        keep = np.ones(len(decoded.index), bool)
        keep[list(problems)] = False
        rejected = sorted(found.rejected, key=lambda rejected: rejected.index)
        return Decoded(decoded.frame.filter(keep), decoded.index[keep], rejected)

    def _future(
        self, decoded: Decoded, append_times_ms: Sequence[int] | Index
    ) -> dict[int, FutureTime]:
        if "event_time" not in self.contract.columns or not len(append_times_ms):
            return {}
        appended = np.asarray(append_times_ms, np.int64)[decoded.index]
        ahead = decoded.frame.get_column("event_time").to_numpy() - appended
        rows = np.flatnonzero((ahead > FUTURE_ALLOWANCE_MS) & (appended > 0))
        name = f"{self.contract.name}.event_time"
        problem = f"expected at most {FUTURE_ALLOWANCE_MS}"
        return {
            int(row): FutureTime(f"{name}: {ahead[row]} ms after its arrival, {problem}")
            for row in rows
        }


def _try_read(writer: Writer, values: Sequence[bytes | None]) -> pa.RecordBatch | None:
    """Return the columns of values with a prefix; None where the columnar reader refuses one."""
    if writer.framed is None:
        return None
    try:
        data = [value + _END for value in values]  # type: ignore[operator]
        batch = pyruhvro.deserialize_array(data, writer.framed)
    except (ValueError, TypeError):
        return None
    return batch if all(_is_text(array) for array in batch.columns) else None


def _lacks_values(array: pa.Array, avro_type: Any) -> bool:
    """Whether a value is null, at any depth, where the type has none; the writer would not mind."""
    if isinstance(avro_type, list):
        return False
    if array.null_count:
        return True
    if kind(avro_type) == "record":
        return any(_lacks_values(array.field(f["name"]), f["type"]) for f in avro_type["fields"])
    return kind(avro_type) == "array" and _lacks_values(array.flatten(), avro_type["items"])


def _is_text(array: pa.Array) -> bool:
    """Whether the strings of an array are UTF-8; the columnar reader does not look."""
    if pa.types.is_struct(array.type):
        return all(_is_text(array.field(i)) for i in range(array.type.num_fields))
    if pa.types.is_list(array.type):
        return _is_text(array.values)
    if not pa.types.is_string(array.type):
        return True
    text = array.buffers()[2]
    if text is None or not text.size or np.frombuffer(text, np.uint8).max() < _FIRST_NOT_ASCII:
        return True
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _narrowed(array: pa.Array, fields: Sequence[str]) -> pa.Array:
    """Return an array of records with some of their fields; without fields as it is."""
    if not fields or array.null_count:
        return array
    parts = [array.values.field(name) for name in fields]
    return pa.ListArray.from_arrays(array.offsets, pa.StructArray.from_arrays(parts, fields))


def _rows(writer: Writer, batch: pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    return frame.select(writer.projection)


def _ends(batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """Whether each record ends where its value does, which the sentinel in its place shows."""
    ends = np.frombuffer(_END, "<u8")
    return np.asarray(_bits(batch, END_COLUMN, "<u8") == ends)


def _bits(batch: pa.RecordBatch, column: str, dtype: str) -> npt.NDArray[Any]:
    array = batch.column(column)
    return np.frombuffer(array.buffers()[1], dtype, count=len(array))
