"""KPI records: what changed in a merge, as columns, encoded at once.

A record of thirty measures and twenty-five KPIs costs some microseconds this way. Names, units,
targets and versions are the same in every record of a scope: they are encoded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processors.histogram import SparseCounts
from processors.keys import KEY_SEPARATOR, printable_key
from processors.kpis import KPI_STATES, Registry, Scope
from processors.merge import Changed
from schemas.catalogue import KPIS
from schemas.codec import Codec
from schemas.headers import prefix
from schemas.layout import Items, Part, Texts, require_fields
from streams.records import Record

#: So many records are laid out at once: their arrays still fit into a processor's cache.
PIECE_ROWS = 2_048

_STATUSES = ("PROVISIONAL", "REVISED", "FINAL")
_PROVISIONAL, _REVISED, _FINAL = range(3)
_SAME = -1

_NAMED = ("scope", "key", "attributes")
_TIMED = ("window", "status", "version", "watermark", "computed_time")

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
        """Raise ContractViolation where the contract of KPI records has another shape."""
        self._registry = registry
        self._scope = scope
        self._codec = codec
        self._units = np.array([registry.measures[name].units_per_one for name in scope.sums])
        contract = codec.contract
        require_fields(contract, (*_NAMED, *_TIMED, "measures", "kpis", "as_of_id"))
        self._named = Part(contract, ("scope",)).encode({"scope": scope.id})
        self._key = Texts(contract, "key", scope.key)
        self._attributed = Texts(contract, "attributes", scope.attributes)
        self._timed = Part(contract, _TIMED)
        as_of = Part(contract, ("as_of_id",))
        self._measures = Items(contract, "measures", {"name": scope.sums}, {})
        constants: dict[str, list[Any]] = {
            "kpi_id": [kpi.id for kpi in scope.kpis],
            "definition_version": [kpi.version for kpi in scope.kpis],
            "unit": [kpi.unit for kpi in scope.kpis],
            "target": [kpi.target for kpi in scope.kpis],
        }
        symbols = {"state": KPI_STATES, "status": _STATUSES}
        self._kpis = Items(contract, "kpis", constants, symbols)
        self._begin = lru_cache(1 << 17)(self._begun)
        self._end = lru_cache(64)(lambda as_of_id: as_of.encode({"as_of_id": as_of_id}))

    def records(self, publications: Sequence[Publication], computed_ms: int) -> list[Record]:
        """Return one record for each changed row."""
        return [
            record
            for some in _pieces(publications)
            for record in self._records_of(some, computed_ms)
        ]

    def _records_of(self, publications: Sequence[Publication], computed_ms: int) -> list[Record]:
        sums = np.concatenate([p.changed.segment.sums[p.changed.rows] for p in publications])
        kpis = self._registry.evaluate(self._scope, sums, self._histograms(publications))
        measures = iter(self._measures.encode({"value": sums / self._units}))
        columns: dict[str, NDArray[Any]] = {
            "value": kpis.values,
            "n": kpis.n,
            "state": kpis.states,
            "status": self._statuses(publications),
        }
        of_kpis = iter(self._kpis.encode(columns))
        records: list[Record] = []
        for publication in publications:
            window = self._window_of_key(publication)
            end = self._end(publication.as_of_id)
            begun = map(self._begin, publication.changed.keys, self._attributes(publication))
            # The iterators of numbers go on from one publication to the next.
            whole = zip(  # noqa: B905
                begun, self._times(publication, computed_ms), measures, of_kpis
            )
            records += [
                Record(
                    KPIS,
                    publication.partition,
                    key + window,
                    b"".join((first, time, of_measures, of_kpi, end)),
                )
                for (key, first), time, of_measures, of_kpi in whole
            ]
        return records

    def _histograms(self, publications: Sequence[Publication]) -> Mapping[str, SparseCounts]:
        names = self._scope.histograms
        if not names:
            return {}
        found = [p.changed.segment.stretches_of(p.changed.rows) for p in publications]
        return dict(zip(names, SparseCounts.joined(found), strict=True))

    def _statuses(self, publications: Sequence[Publication]) -> Statuses:
        """Return the status of each KPI [rows, kpis], as an index, where it is not the record's."""
        kpis = self._scope.kpis
        several = {p.changed.final for p in publications}
        of_kpis = {final: [final.issuperset(kpi.sources) for kpi in kpis] for final in several}
        final = np.array([of_kpis[p.changed.final] for p in publications], np.bool_)
        whole = np.array([self._is_whole(p) for p in publications])
        differing = np.where(final, _FINAL, _PROVISIONAL).astype(np.int8)
        differing[final == whole[:, None]] = _SAME
        statuses = np.repeat(differing, [len(p.changed.rows) for p in publications], axis=0)
        if (differing == _FINAL).any():
            revised = np.concatenate([_revised(p) for p in publications])
            statuses[revised[:, None] & (statuses == _FINAL)] = _REVISED
        return statuses

    def _is_whole(self, publication: Publication) -> bool:
        return len(publication.changed.final) == len(self._scope.sources)

    def _times(self, publication: Publication, computed_ms: int) -> Sequence[bytes]:
        """Return what each record says of its window, status, version and times."""
        if not self._is_whole(publication):
            provisional = self._time(publication, _PROVISIONAL, computed_ms)
            return [provisional] * len(publication.changed.rows)
        final = self._time(publication, _FINAL, computed_ms)
        revised = self._time(publication, _REVISED, computed_ms)
        return [revised if is_revised else final for is_revised in _revised(publication).tolist()]

    def _time(self, publication: Publication, status: int, computed_ms: int) -> bytes:
        changed = publication.changed
        window = {
            "kind": changed.window.kind,
            "size_ms": changed.window.size_ms,
            "start_time": changed.segment.start_ms,
            "end_time": changed.segment.end_ms,
            "zone": self._registry.zone,
        }
        return self._timed.encode(
            {
                "window": window,
                "status": _STATUSES[status],
                "version": publication.version,
                "watermark": changed.watermark_ms,
                "computed_time": computed_ms,
            }
        )

    def _attributes(self, publication: Publication) -> Sequence[str] | repeat[str]:
        names = self._scope.attributes
        if not names:
            return repeat("")
        nothing = KEY_SEPARATOR * (len(names) - 1)
        return publication.changed.segment.attributes_of(publication.changed.rows, nothing)

    def _begun(self, key: str, attributes: str) -> tuple[bytes, bytes]:
        """Return what the Kafka key and the value of a key's records begin with."""
        value = self._key.encode(_parts(self._scope.key, key)) + self._attributed.encode(
            _parts(self._scope.attributes, attributes)
        )
        begun = f"{self._scope.id}|{printable_key(key)}|".encode()
        return begun, prefix(self._codec.schema_id) + self._named + value

    @staticmethod
    def _window_of_key(publication: Publication) -> bytes:
        window = publication.changed.window
        return f"{window.kind}:{window.size_ms}|{publication.changed.segment.start_ms}".encode()


def _parts(names: Sequence[str], joined: str) -> list[str]:
    return joined.split(KEY_SEPARATOR) if names else []


def _revised(publication: Publication) -> NDArray[np.bool_]:
    return publication.changed.segment.revised[publication.changed.rows]


def _pieces(publications: Sequence[Publication]) -> Iterator[list[Publication]]:
    """Cut publications into pieces of about PIECE_ROWS rows."""
    piece: list[Publication] = []
    room = PIECE_ROWS
    for publication in publications:
        for some in _cut(publication):
            count = len(some.changed.rows)
            if count > room:
                yield piece
                piece, room = [], PIECE_ROWS
            piece.append(some)
            room -= count
    if piece:
        yield piece


def _cut(publication: Publication) -> Iterator[Publication]:
    changed = publication.changed
    if len(changed.rows) <= PIECE_ROWS:
        yield publication
        return
    for start in range(0, len(changed.rows), PIECE_ROWS):
        cut = slice(start, start + PIECE_ROWS)
        some = replace(changed, rows=changed.rows[cut], keys=changed.keys[cut])
        yield replace(publication, changed=some)
