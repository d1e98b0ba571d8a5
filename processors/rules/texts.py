"""Titles and reasons: templates filled with the figures of a decision."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from processors.kpis import Kpi
from processors.rules.definition import Evidence, Firing, Named

_PLACE: Final = re.compile(r"\{([^{}]*)\}")
_MOST_NAMES: Final = 5
_UNITS: Final = {"percent": " %", "seconds": " s"}
_DURATIONS: Final = (
    (86_400_000, 2 * 86_400_000, "d"),
    (3_600_000, 3_600_000, "h"),
    (60_000, 60_000, "min"),
    (1_000, 1_000, "s"),
)

COUNTS: Final = ("members", "population", "window")
"""Names of a template besides columns and figures: keys that meet the condition, keys with data."""


def duration_text(milliseconds: int) -> str:
    """Return a duration in the largest unit that it is a whole number of; days from two on.

    >>> duration_text(5_400_000), duration_text(86_400_000)
    ('90 min', '24 h')
    """
    for size, least, unit in _DURATIONS:
        if milliseconds >= least and milliseconds % size == 0:
            return f"{milliseconds // size} {unit}"
    return f"{milliseconds} ms"


def places_of(template: str) -> list[str]:
    """Return the names in a template.

    >>> places_of("{csat} % of {csat_n}")
    ['csat', 'csat_n']
    """
    return _PLACE.findall(template)


def names_of(columns: Iterable[str], kpis: Iterable[Kpi]) -> frozenset[str]:
    """Return the names that a template over these key columns and KPIs may use."""
    figures = (name for kpi in kpis for name in _figure_names(kpi))
    return frozenset((*columns, *COUNTS, *figures))


def _figure_names(kpi: Kpi) -> Iterator[str]:
    yield from (kpi.id, f"{kpi.id}_n")
    if kpi.unit == "percent":
        yield from (f"{kpi.id}_lower", f"{kpi.id}_upper")
    if kpi.target is not None:
        yield f"{kpi.id}_target"


def fill(template: str, names: Mapping[str, str]) -> str:
    """Return the template with every ``{name}`` replaced; raises KeyError for an unknown name.

    >>> fill("{team_id}: {csat}", {"team_id": "T1", "csat": "61.0 %"})
    'T1: 61.0 %'
    """
    return _PLACE.sub(lambda match: names[match[1]], template)


def names_of_firing(firing: Firing) -> Mapping[str, str]:
    """Return what each name of a rule's templates stands for in one firing."""
    keys = dict.fromkeys(e.key for e in firing.evidence)
    names = {
        "members": str(len(keys)),
        "population": str(firing.population),
        "window": duration_text(firing.rule.window_ms),
    }
    for i, column in enumerate(firing.rule.scope.key):
        names[column] = _listed([key[i][1] for key in keys])
    return {**names, **dict(firing.subject), **dict(_figures(firing.evidence))}


def _listed(values: Sequence[str]) -> str:
    distinct = sorted(set(values))
    more = len(distinct) - _MOST_NAMES
    return ", ".join(distinct[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _figures(evidence: Sequence[Evidence]) -> Iterator[tuple[str, str]]:
    for kpi in {e.kpi.id: e.kpi for e in evidence}.values():
        own = [e for e in evidence if e.kpi.id == kpi.id]
        unit = _UNITS.get(kpi.unit, "")
        yield kpi.id, _range([e.value for e in own], unit)
        yield f"{kpi.id}_n", _range([float(e.n) for e in own], "", digits=0)
        yield f"{kpi.id}_lower", _range([e.lower_bound for e in own], unit)
        yield f"{kpi.id}_upper", _range([e.upper_bound for e in own], unit)
        yield f"{kpi.id}_target", _range([kpi.target], unit)


def _range(numbers: Sequence[float | None], unit: str, digits: int = 1) -> str:
    texts = [f"{number:.{digits}f}" for number in sorted(n for n in numbers if n is not None)]
    if not texts:
        return ""
    ends = texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"
    return ends + unit


def names_of_row(columns: Iterable[str], row: Mapping[str, object]) -> Named:
    """Return columns of one event with their values as text; a null is empty."""
    return tuple((c, "" if row[c] is None else str(row[c])) for c in columns)
