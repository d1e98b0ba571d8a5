from collections.abc import Iterator, Mapping
from itertools import chain

import polars as pl

from processors.kpis.definitions import Kpi, Measure, Scope, Source, WindowSpec
from processors.kpis.documents import Located, ScopeEntry
from processors.kpis.durations import parse_duration_ms, parse_window
from processors.kpis.faults import Fault
from processors.windows import ZONE_STEP_MS


def link_scope(
    located: Located[ScopeEntry],
    sources: Mapping[str, Source],
    measures: Mapping[str, Measure],
    kpis: Mapping[str, Kpi],
) -> Scope | list[Fault]:
    """Return the scope with the measures and KPIs it has, or what is wrong with its entry."""
    entry = located.entry
    faults: list[Fault] = []
    pane_ms = _duration(located, "pane", entry.pane, faults)
    publish_every_ms = _duration(located, "publish_every", entry.publish_every, faults)
    if ZONE_STEP_MS % pane_ms:
        # Days of some zones begin at a quarter of an hour.
        faults.append(located.fault("pane", f"found {entry.pane}, expected a divisor of 15m"))
    windows = tuple(_windows(located, pane_ms, faults))
    names = _source_names(located, sources)
    faults += _source_faults(located, names, sources)
    if faults:
        return faults
    of_scope = {m.id: m for m in measures.values() if m.source in names}
    sums = tuple(m.id for m in of_scope.values() if m.aggregate == "sum")
    histograms = tuple(m.id for m in of_scope.values() if m.aggregate == "histogram")
    if not entry.histograms:
        histograms = ()
    has = {*sums, *histograms}
    own_kpis = (k for k in kpis.values() if k.measures <= has and _is_meant_for(k, entry.id))
    return Scope(
        id=entry.id,
        key=entry.key,
        attributes=entry.attributes,
        sources=names,
        pane_ms=pane_ms,
        windows=windows,
        publish_every_ms=publish_every_ms,
        sums=sums,
        histograms=histograms,
        kpis=tuple(own_kpis),
    )


def _is_meant_for(kpi: Kpi, scope_id: str) -> bool:
    return kpi.scopes is None or scope_id in kpi.scopes


def _duration(located: Located[ScopeEntry], field: str, text: str, faults: list[Fault]) -> int:
    try:
        return parse_duration_ms(text)
    except ValueError as error:
        faults.append(located.fault(field, str(error)))
        return 1


def _windows(
    located: Located[ScopeEntry], pane_ms: int, faults: list[Fault]
) -> Iterator[WindowSpec]:
    seen = set()
    for text in located.entry.windows:
        try:
            window = parse_window(text)
        except ValueError as error:
            faults.append(located.fault("windows", str(error)))
            continue
        if window in seen:
            faults.append(located.fault("windows", f"found {text} twice"))
        if window.hop_ms % pane_ms:
            expected = f"a multiple of the pane, {located.entry.pane}"
            faults.append(located.fault("windows", f"found {text}, expected {expected}"))
        seen.add(window)
        yield window


def _source_names(located: Located[ScopeEntry], sources: Mapping[str, Source]) -> tuple[str, ...]:
    if located.entry.sources is not None:
        return located.entry.sources
    key = set(located.entry.key)
    return tuple(name for name, source in sources.items() if key <= source.schema.keys())


def _source_faults(
    located: Located[ScopeEntry], names: tuple[str, ...], sources: Mapping[str, Source]
) -> Iterator[Fault]:
    entry = located.entry
    if not names:
        yield located.fault("key", f"found {', '.join(entry.key)}, which no source has together")
    for name in names:
        if name not in sources:
            expected = f"one of {', '.join(sources)}"
            yield located.fault("sources", f"found {name}, expected {expected}")
            continue
        schema = sources[name].schema
        fields = chain(
            (("key", c) for c in entry.key), (("attributes", c) for c in entry.attributes)
        )
        for field, column in fields:
            if schema.get(column) != pl.String:
                yield located.fault(field, f"found {column}, which is no text column of {name}")
    if len({*entry.key, *entry.attributes}) < len(entry.key) + len(entry.attributes):
        yield located.fault("key", "found a column twice in key and attributes")
