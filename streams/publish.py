"""KPI records: what changed in a merge, as columns, encoded at once.

A record of thirty measures and twenty-five KPIs costs some microseconds this way. Names, units,
targets and versions are the same in every record of a scope: they are laid out once and sliced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from processors.histogram import BUCKETS, SparseCounts
from processors.keys import KEY_SEPARATOR, printable_key
from processors.kpis import KPI_STATES, Registry, Scope
from processors.merge import Changed
from schemas.catalogue import KPIS
from schemas.codec import Codec
from streams.records import Record

#: So many records are laid out at once: what is the same in all of them is held so many times.
PIECE_ROWS = 4_096

_STATES = pa.array(list(KPI_STATES))
_STATUSES = pa.array(["PROVISIONAL", "REVISED", "FINAL"])
_PROVISIONAL, _REVISED, _FINAL = range(3)

Statuses = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Publication:
    """Changed rows of one merge partition, with the version and vector that they belong to."""

    partition: int
    version: int
    as_of_id: int
    changed: Changed


class KpiRecords:
    """Makes the records of one scope."""

    def __init__(self, registry: Registry, scope: Scope, codec: Codec) -> None:
        self._registry = registry
        self._scope = scope
        self._codec = codec
        self._units = np.array([registry.measures[name].units_per_one for name in scope.sums])
        self._laid_out = 0
        self._constants: dict[str, pa.Array] = {}

    def records(self, publications: Sequence[Publication], computed_ms: int) -> list[Record]:
        """Return one record for each changed row."""
        return [
            record
            for some in _pieces(publications)
            for record in self._records_of(some, computed_ms)
        ]

    def _records_of(self, publications: Sequence[Publication], computed_ms: int) -> list[Record]:
        counts = [len(p.changed.rows) for p in publications]
        rows = sum(counts)
        self._lay_out(rows)
        batch = self._batch(publications, np.array(counts), computed_ms)
        keys = [key for publication in publications for key in self._kafka_keys(publication)]
        partitions = np.repeat([p.partition for p in publications], counts).tolist()
        return [
            Record(KPIS, partition, key, value)
            for partition, key, value in zip(
                partitions, keys, self._codec.encode_columns(batch), strict=True
            )
        ]

    def _batch(
        self, publications: Sequence[Publication], counts: NDArray[np.int64], computed_ms: int
    ) -> pa.RecordBatch:
        rows = int(counts.sum())
        sums = np.concatenate([p.changed.segment.sums[p.changed.rows] for p in publications])
        kpis = self._registry.evaluate(self._scope, sums, self._histograms(publications))
        statuses, of_record = self._statuses(publications, counts)
        keys = [key for p in publications for key in p.changed.keys]
        watermarks = [p.changed.watermark_ms for p in publications]
        columns: dict[str, pa.Array] = {
            "scope": self._constants["scope"][:rows],
            "key": self._key_parts(keys, self._scope.key),
            "attributes": self._attributes(publications, rows),
            "window": self._windows(publications, counts),
            "status": _STATUSES.take(pa.array(of_record)),
            "version": pa.array(np.repeat([p.version for p in publications], counts)),
            "watermark": pa.array(watermarks, pa.int64()).take(_indices(counts)),
            "computed_time": pa.array(np.full(rows, computed_ms, np.int64)),
            "measures": self._measures(sums, rows),
            "kpis": self._kpis(kpis.values, kpis.n, kpis.states, statuses, of_record),
            "as_of_id": pa.array(np.repeat([p.as_of_id for p in publications], counts)),
        }
        return pa.RecordBatch.from_pydict(columns)

    def _histograms(self, publications: Sequence[Publication]) -> Mapping[str, SparseCounts]:
        if not self._scope.histograms:
            return {}
        found, first = [], 0
        for publication in publications:
            changed = publication.changed
            counts = changed.segment.counts_of(changed.rows)
            counts[:, 0] += first
            found.append(counts)
            first += len(changed.rows)
        together = np.concatenate(found)
        of = together[:, 1] // BUCKETS
        together[:, 1] %= BUCKETS
        # Segments give them in the order of their rows and places, and so they are in order here.
        row, bucket, count = together.T
        return {
            name: SparseCounts(row[of == index], bucket[of == index], count[of == index], first)
            for index, name in enumerate(self._scope.histograms)
        }

    def _statuses(
        self, publications: Sequence[Publication], counts: NDArray[np.int64]
    ) -> tuple[Statuses, Statuses]:
        """Return the status of each KPI [rows, kpis] and of each record [rows], as indices."""
        kpis = self._scope.kpis
        final = np.array(
            [[p.changed.final.issuperset(kpi.sources) for kpi in kpis] for p in publications]
        ).reshape(len(publications), len(kpis))
        revised = np.concatenate([p.changed.segment.revised[p.changed.rows] for p in publications])
        statuses = np.where(final, _FINAL, _PROVISIONAL).astype(np.int8)[_repeats(counts)]
        statuses[revised] = np.where(statuses[revised] == _FINAL, _REVISED, _PROVISIONAL)
        whole = [len(p.changed.final) == len(self._scope.sources) for p in publications]
        of_record = np.where(whole, _FINAL, _PROVISIONAL).astype(np.int8)[_repeats(counts)]
        of_record[revised & (of_record == _FINAL)] = _REVISED
        return statuses, of_record

    def _windows(self, publications: Sequence[Publication], counts: NDArray[np.int64]) -> pa.Array:
        windows = [p.changed.window for p in publications]
        segments = [p.changed.segment for p in publications]
        few = pa.StructArray.from_arrays(
            [
                pa.array([window.kind for window in windows]),
                pa.array([window.size_ms for window in windows], pa.int64()),
                pa.array([segment.start_ms for segment in segments], pa.int64()),
                pa.array([segment.end_ms for segment in segments], pa.int64()),
                pa.array([self._registry.zone] * len(windows)),
            ],
            ["kind", "size_ms", "start_time", "end_time", "zone"],
        )
        return few.take(_indices(counts))

    def _key_parts(self, keys: Sequence[str], names: Sequence[str]) -> pa.Array:
        values = [part for key in keys for part in key.split(KEY_SEPARATOR)] if names else []
        parts = pa.StructArray.from_arrays(
            [pa.array(list(names) * len(keys), pa.string()), pa.array(values, pa.string())],
            ["name", "value"],
        )
        return _lists(parts, len(keys), len(names))

    def _attributes(self, publications: Sequence[Publication], rows: int) -> pa.Array:
        names = self._scope.attributes
        nothing = KEY_SEPARATOR * (len(names) - 1)
        if not names:
            return self._key_parts([""] * rows, ())
        known = [
            value
            for p in publications
            for value in p.changed.segment.attributes_of(p.changed.rows, nothing)
        ]
        return self._key_parts(known, names)

    def _measures(self, sums: NDArray[np.int64], rows: int) -> pa.Array:
        width = len(self._scope.sums)
        names = self._constants["measures"][: rows * width]
        values = pa.array((sums / self._units).reshape(-1))
        return _lists(pa.StructArray.from_arrays([names, values], ["name", "value"]), rows, width)

    def _kpis(
        self,
        values: NDArray[np.float64],
        n: NDArray[np.int64],
        states: NDArray[np.uint8],
        statuses: Statuses,
        of_record: Statuses,
    ) -> pa.Array:
        rows, width = values.shape
        flat = values.reshape(-1)
        same = (statuses == of_record[:, None]).reshape(-1)
        differing = pa.array(statuses.reshape(-1), mask=same)
        constant = {name: self._constants[name][: rows * width] for name in _KPI_CONSTANTS}
        columns = {
            "kpi_id": constant["kpi_id"],
            "definition_version": constant["definition_version"],
            "value": pa.array(flat, mask=np.isnan(flat)),
            "n": pa.array(n.reshape(-1)),
            "unit": constant["unit"],
            "target": constant["target"],
            "state": _STATES.take(pa.array(states.reshape(-1))),
            "status": _STATUSES.take(differing),
        }
        return _lists(
            pa.StructArray.from_arrays(list(columns.values()), list(columns)), rows, width
        )

    def _lay_out(self, rows: int) -> None:
        if rows <= self._laid_out:
            return
        self._laid_out = rows = max(rows, 2 * self._laid_out)
        kpis = self._scope.kpis
        self._constants = {
            "scope": pa.array([self._scope.id] * rows),
            "measures": pa.array(list(self._scope.sums) * rows, pa.string()),
            "kpi_id": pa.array([kpi.id for kpi in kpis] * rows, pa.string()),
            "definition_version": pa.array([kpi.version for kpi in kpis] * rows, pa.int64()),
            "unit": pa.array([kpi.unit for kpi in kpis] * rows, pa.string()),
            "target": pa.array([kpi.target for kpi in kpis] * rows, pa.float64()),
        }

    def _kafka_keys(self, publication: Publication) -> list[bytes]:
        changed = publication.changed
        window = f"{changed.window.kind}:{changed.window.size_ms}|{changed.segment.start_ms}"
        return [f"{self._scope.id}|{printable_key(key)}|{window}".encode() for key in changed.keys]


def _pieces(publications: Sequence[Publication]) -> Iterator[list[Publication]]:
    """Cut publications into pieces of about PIECE_ROWS rows."""
    piece: list[Publication] = []
    room = PIECE_ROWS
    for publication in publications:
        changed = publication.changed
        for start in range(0, len(changed.rows), PIECE_ROWS):
            cut = slice(start, start + PIECE_ROWS)
            rows = changed.rows[cut]
            if len(rows) > room:
                yield piece
                piece, room = [], PIECE_ROWS
            some = replace(changed, rows=rows, keys=changed.keys[cut])
            piece.append(replace(publication, changed=some))
            room -= len(rows)
    if piece:
        yield piece


_KPI_CONSTANTS = ("kpi_id", "definition_version", "unit", "target")


def _repeats(counts: NDArray[np.int64]) -> NDArray[np.intp]:
    return np.repeat(np.arange(len(counts)), counts)


def _indices(counts: NDArray[np.int64]) -> pa.Array:
    return pa.array(_repeats(counts))


def _lists(items: pa.Array, rows: int, width: int) -> pa.Array:
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, items)
