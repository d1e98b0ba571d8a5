"""From definition files to a registry, or to the list of everything that is wrong with them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar
from zoneinfo import available_timezones

import polars as pl

from processors.kpis.computation import Computation
from processors.kpis.definitions import (
    Kpi,
    Measure,
    Parameter,
    Registry,
    Sample,
    Scope,
    Source,
)
from processors.kpis.documents import (
    Documents,
    Entry,
    KpiEntry,
    Located,
    MeasureEntry,
    ParameterEntry,
    SampleEntry,
    ScopeEntry,
    read_directory,
)
from processors.kpis.expressions import (
    ExpressionError,
    compile_condition,
    compile_duration,
    compile_sum,
    suggest,
)
from processors.kpis.faults import Fault, RegistryError
from processors.kpis.fingerprint import fingerprint
from processors.kpis.kpi_entries import link_kpi
from processors.kpis.scope_entries import link_scope

T = TypeVar("T", Parameter, Measure, Sample, Kpi, Scope)
E = TypeVar("E", bound=Entry)

_SOURCES: Final = (
    ("interactions", "contact-centre.interactions.v1", "interaction", None, "event_time"),
    ("surveys", "contact-centre.surveys.v1", "survey", None, "interaction_time"),
    ("evaluations", "contact-centre.evaluations.v1", "evaluation", None, "event_time"),
    ("evaluation_items", "contact-centre.evaluations.v1", "evaluation", "items", "event_time"),
)
_PRECISIONS: Final = tuple(10.0**-digits for digits in range(10))


def load_registry(directory: Path, contracts: Mapping[str, pl.Schema]) -> Registry:
    """Read, check and compile the definitions of a directory.

    ``contracts`` gives the columns of interaction, survey and evaluation as the codec decodes
    them; a source whose contract is not given does not exist. Raises RegistryError with all
    faults.
    """
    loader = _Loader(read_directory(directory), contracts)
    registry = loader.load()
    if loader.faults:
        raise RegistryError(loader.faults)
    return registry


class _Loader:
    """Links entries in the order they build on each other; a fault ends an entry, not the load."""

    def __init__(self, documents: Documents, contracts: Mapping[str, pl.Schema]) -> None:
        self.documents = documents
        self.faults = documents.faults
        self.sources = dict(_sources(contracts))

    def load(self) -> Registry:
        zone = self._zone()
        parameters = self._linked(ParameterEntry, self._parameter)
        self._add_parameter_columns(parameters.values())
        measures = self._linked(MeasureEntry, self._measure)
        self._add_count_times(measures.values())
        samples = self._linked(SampleEntry, self._sample)
        kpis = self._linked(KpiEntry, lambda e: link_kpi(e, measures, self.documents))
        scopes = self._linked(ScopeEntry, lambda e: link_scope(e, self.sources, measures, kpis))
        self._refuse_homeless(kpis, scopes)
        bare_scopes = [replace(scope, kpis=()) for scope in scopes.values()]
        return Registry(
            zone=zone,
            fingerprint=fingerprint(zone, parameters, measures, samples, kpis, scopes),
            state_fingerprint=fingerprint(zone, parameters, measures, samples, bare_scopes),
            sources=self.sources,
            parameters=tuple(parameters.values()),
            scopes=tuple(scopes.values()),
            measures=measures,
            samples=samples,
            kpis=tuple(kpis.values()),
            computations={
                scope.id: Computation(scope.kpis, scope.sums, measures) for scope in scopes.values()
            },
        )

    def _linked(self, kind: type[E], link: Callable[[Located[E]], T | list[Fault]]) -> dict[str, T]:
        linked: dict[str, T] = {}
        first: dict[str, Located[E]] = {}
        for located in self.documents.of(kind):
            earlier = first.setdefault(located.entry.id, located)
            if earlier is not located:
                place = f"{earlier.file.name}:{earlier.line}"
                self.faults.append(located.fault("id", f"defined before, at {place}"))
                continue
            result = link(located)
            if isinstance(result, list):
                self.faults += result
                self.documents.broken[located.section].add(located.entry.id)
            else:
                linked[located.entry.id] = result
        return linked

    def _zone(self) -> str:
        zones = self.documents.zones
        for zone, file, line in zones[1:]:
            self.faults.append(Fault(file, line, f"zone: found {zone}, but it is set before"))
        if not zones:
            return "UTC"
        zone, file, line = zones[0]
        known = available_timezones()
        if zone not in known:
            reason = f"zone: found {zone}, expected a name of the tz database"
            self.faults.append(Fault(file, line, reason + suggest(zone, sorted(known))))
        return zone

    def _parameter(self, located: Located[ParameterEntry]) -> Parameter | list[Fault]:
        entry = located.entry
        faults = []
        if not any(entry.by in source.schema for source in self.sources.values()):
            faults.append(located.fault("by", f"found {entry.by}, which no source has"))
        if any(entry.id in source.schema for source in self.sources.values()):
            faults.append(located.fault("id", "found the name of a column"))
        for key, value in entry.values.items():
            if type(value) is not type(entry.default):
                expected = f"{type(entry.default).__name__}, as the default"
                faults.append(
                    located.fault("values", f"{key}: found {value!r}, expected {expected}")
                )
        return faults or Parameter(entry.id, entry.by, entry.default, dict(entry.values))

    def _add_parameter_columns(self, parameters: Iterable[Parameter]) -> None:
        for name, source in self.sources.items():
            columns = {p.id: p.dtype for p in parameters if p.by in source.schema}
            schema = pl.Schema({**source.schema, **columns})
            self.sources[name] = replace(source, schema=schema)

    def _measure(self, located: Located[MeasureEntry]) -> Measure | list[Fault]:
        entry = located.entry
        source = self.sources.get(entry.source)
        if source is None:
            return [located.fault("source", self._unknown_source(entry.source))]
        count_time = entry.count_time or source.default_count_time
        faults = [*_count_time_faults(located, source), *_precision_faults(located)]
        try:
            if entry.aggregate == "histogram":
                expression = compile_duration(entry.value, source.schema)
            else:
                expression = compile_sum(entry.value, source.schema, entry.precision)
        except ExpressionError as error:
            return [*faults, located.fault("value", str(error))]
        return faults or Measure(
            entry.id,
            entry.source,
            entry.value,
            entry.aggregate,
            count_time,
            entry.precision or 1.0,
            expression.alias(entry.id),
        )

    def _add_count_times(self, measures: Iterable[Measure]) -> None:
        for name, source in self.sources.items():
            times = dict.fromkeys(m.count_time for m in measures if m.source == name)
            self.sources[name] = replace(source, count_times=tuple(times))

    def _sample(self, located: Located[SampleEntry]) -> Sample | list[Fault]:
        entry = located.entry
        source = self.sources.get(entry.source)
        if source is None:
            return [located.fault("source", self._unknown_source(entry.source))]
        try:
            expression = compile_condition(entry.where, source.schema)
        except ExpressionError as error:
            return [located.fault("where", str(error))]
        return Sample(entry.id, entry.source, entry.where, entry.keep, expression.alias(entry.id))

    def _unknown_source(self, name: str) -> str:
        return f"found {name}, expected one of {', '.join(self.sources)}"

    def _refuse_homeless(self, kpis: Mapping[str, Kpi], scopes: Mapping[str, Scope]) -> None:
        if self.documents.broken["scopes"]:
            return
        known = {scope.id for scope in scopes.values()}
        housed = {kpi.id for scope in scopes.values() for kpi in scope.kpis}
        for located in self.documents.of(KpiEntry):
            kpi = kpis.get(located.entry.id)
            if kpi is None:
                continue
            for scope in sorted((kpi.scopes or frozenset()) - known):
                self.faults.append(located.fault("scopes", f"found unknown scope {scope}"))
            if kpi.id not in housed:
                names = ", ".join(sorted(kpi.measures))
                self.faults.append(located.fault("id", f"no scope of it has all of {names}"))


def _sources(contracts: Mapping[str, pl.Schema]) -> Iterator[tuple[str, Source]]:
    for name, topic, contract, explode, default_count_time in _SOURCES:
        if contract in contracts:
            schema = _exploded(contracts[contract], explode)
            yield name, Source(name, topic, contract, explode, default_count_time, schema, ())


def _exploded(schema: pl.Schema, column: str | None) -> pl.Schema:
    if column is None:
        return schema
    items = schema[column]
    assert isinstance(items, pl.List)
    assert isinstance(items.inner, pl.Struct)
    fields = {field.name: field.dtype for field in items.inner.fields}
    others = {name: dtype for name, dtype in schema.items() if name != column}
    return pl.Schema({**others, **fields})


def _count_time_faults(located: Located[MeasureEntry], source: Source) -> Iterator[Fault]:
    name = located.entry.count_time
    instants = [n for n, t in source.schema.items() if n.endswith("_time") and t == pl.Int64]
    if name is not None and name not in instants:
        expected = ", ".join(instants)
        yield located.fault("count_time", f"found {name}, expected an instant: {expected}")


def _precision_faults(located: Located[MeasureEntry]) -> Iterator[Fault]:
    precision = located.entry.precision
    if precision is None:
        return
    if precision not in _PRECISIONS:
        yield located.fault("precision", f"found {precision}, expected 1, 0.1, 0.01 to 0.000000001")
    if located.entry.aggregate == "histogram":
        yield located.fault("precision", "found on a histogram, expected on a sum only")
