from collections.abc import Iterator, Mapping
from typing import Final

from processors.kpis.arithmetic import Linear, parse_linear
from processors.kpis.definitions import Kpi, Measure
from processors.kpis.documents import Documents, KpiEntry, Located
from processors.kpis.expressions import suggest
from processors.kpis.faults import Fault

_SCALES: Final = {"percent": 100.0, "seconds": 0.001, "count": 1.0, "score": 1.0}


def link_kpi(
    located: Located[KpiEntry], measures: Mapping[str, Measure], documents: Documents
) -> Kpi | list[Fault]:
    """Return the KPI over known measures, or what is wrong with its entry.

    The list is empty if only a measure it names is at fault.
    """
    entry = located.entry
    faults = [*_threshold_faults(located), *_kind_faults(located)]
    forms: dict[str, Linear] = {}
    for field in ("numerator", "denominator", "n"):
        text = getattr(entry, field)
        if text is not None:
            forms |= _form(located, field, text, faults)
    named = frozenset().union(*(form.measures for form in forms.values()))
    named |= {entry.of} if entry.of else frozenset()
    faults += _name_faults(located, forms, measures, documents)
    if faults or not named <= measures.keys():
        return faults
    n = forms.get("n", forms.get("denominator", forms.get("numerator")))
    faults += _precision_faults(located, forms, n, measures)
    return faults or Kpi(
        id=entry.id,
        version=entry.version,
        title=entry.title,
        description=entry.description,
        unit=entry.unit,
        scale=_SCALES[entry.unit] if entry.scale is None else entry.scale,
        numerator=forms.get("numerator"),
        denominator=forms.get("denominator"),
        n=n,
        quantile=entry.quantile,
        of=entry.of,
        direction=entry.direction,
        target=entry.target,
        warning=entry.warning,
        critical=entry.critical,
        minimum_n=entry.minimum_n,
        counted_at=entry.counted_at,
        measures=named,
        sources=tuple(dict.fromkeys(measures[name].source for name in sorted(named))),
        scopes=None if entry.scopes is None else frozenset(entry.scopes),
    )


def _kind_faults(located: Located[KpiEntry]) -> Iterator[Fault]:
    entry = located.entry
    if (entry.quantile is None) != (entry.of is None):
        yield located.fault("quantile", "found one of quantile and of, expected both")
    elif (entry.numerator is None) == (entry.of is None):
        yield located.fault("numerator", "expected either a numerator or a quantile of a histogram")
    if entry.denominator is not None and entry.of is not None:
        yield located.fault("denominator", "found with a quantile, which has none")


def _threshold_faults(located: Located[KpiEntry]) -> Iterator[Fault]:
    entry = located.entry
    warning, critical = entry.warning, entry.critical
    if entry.direction is None:
        if warning is not None or critical is not None:
            yield located.fault("direction", "missing, expected higher or lower (which is better)")
    elif warning is not None and critical is not None:
        sign = 1 if entry.direction == "higher" else -1
        if sign * critical > sign * warning:
            expected = f"one no better than warning, {warning:g}"
            yield located.fault("critical", f"found {critical:g}, expected {expected}")


def _form(
    located: Located[KpiEntry], field: str, text: str, faults: list[Fault]
) -> dict[str, Linear]:
    try:
        return {field: parse_linear(text)}
    except ValueError as error:
        faults.append(located.fault(field, str(error)))
        return {}


def _name_faults(
    located: Located[KpiEntry],
    forms: Mapping[str, Linear],
    measures: Mapping[str, Measure],
    documents: Documents,
) -> Iterator[Fault]:
    wanted = [
        (field, name, "sum") for field, form in forms.items() for name in sorted(form.measures)
    ]
    if located.entry.of is not None:
        wanted.append(("of", located.entry.of, "histogram"))
    kpis = {other.entry.id for other in documents.of(KpiEntry)}
    known = [*measures, *sorted(documents.broken["measures"])]
    for field, name, aggregate in wanted:
        if name in documents.broken["measures"]:
            continue
        if name in measures:
            found = measures[name].aggregate
            if found != aggregate:
                yield located.fault(field, f"found {name}, a {found}, expected a {aggregate}")
        elif name in kpis:
            # Ratios do not add up, and a KPI of KPIs could go in circles.
            yield located.fault(field, f"found {name}, which is a KPI, expected a measure")
        else:
            hint = suggest(name, known)
            yield located.fault(field, f"found unknown measure {name}{hint}")


def _precision_faults(
    located: Located[KpiEntry],
    forms: Mapping[str, Linear],
    n: Linear | None,
    measures: Mapping[str, Measure],
) -> Iterator[Fault]:
    for field, form in forms.items():
        units = {measures[name].units_per_one for name, _ in form.terms}
        units |= {1} if form.constant else set()
        if len(units) > 1:
            yield located.fault(field, f"found measures of different precision in {form.text!r}")
    if n is not None and any(measures[name].units_per_one != 1 for name in n.measures):
        yield located.fault("n", "found a sum of doubles, expected a count of events")
