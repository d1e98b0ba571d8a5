"""The figures that a decision quotes."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from processors.rules.cel import Condition
from processors.rules.definition import Evidence, GuardResult, Key, Rule, Samples
from processors.rules.figures import Figures, Part, Variable

MOST_KEYS: Final = 100
"""So that an action stays far below the size limit of a record."""

_SIDES: Final = {Part.VALUE: "", Part.LOWER: "lower_bound ", Part.UPPER: "upper_bound "}


def quote(
    rule: Rule, figures: Figures, keys: Sequence[Key], rows: Sequence[int], samples: Samples
) -> tuple[Evidence, ...]:
    """Return one entry per row and KPI of the condition, for the first 100 rows."""
    return tuple(
        _entry(rule, figures, keys[row], row, kpi, samples)
        for row in islice(rows, MOST_KEYS)
        for kpi in rule.when.kpis
    )


def _entry(
    rule: Rule, figures: Figures, key: Key, row: int, kpi: int, samples: Samples
) -> Evidence:
    definition = figures.kpis[kpi]
    comparator, threshold = _comparison(rule.when, kpi)
    is_percent = definition.unit == "percent"
    lower, upper = figures.bounds(kpi) if is_percent else (None, None)
    sample = rule.samples.get(definition.id)
    return Evidence(
        key=tuple(zip(rule.scope.key, key, strict=True)),
        kpi=definition,
        value=float(figures.values[row, kpi]),
        n=int(figures.n[row, kpi]),
        comparator=comparator,
        threshold=threshold,
        lower_bound=None if lower is None else float(lower[row]),
        upper_bound=None if upper is None else float(upper[row]),
        samples=tuple(samples(key, sample)) if sample is not None else (),
    )


def _comparison(condition: Condition, kpi: int) -> tuple[str | None, float | None]:
    for comparison in condition.comparisons:
        variable = comparison.variable
        if variable.kpi == kpi and variable.part in _SIDES:
            return _SIDES[variable.part] + comparison.comparator, comparison.threshold
    return None, None


def quote_guards(
    guards: Sequence[Condition], figures: Figures, rows: Sequence[int]
) -> tuple[GuardResult, ...]:
    """Return each guard with the figures of the first key that fails it, or of the first key."""
    return tuple(_guard(guard, figures, rows) for guard in guards)


def _guard(guard: Condition, figures: Figures, rows: Sequence[int]) -> GuardResult:
    failed = next((row for row in rows if not guard.holds(figures, row)), None)
    row = rows[0] if failed is None else failed
    value = ", ".join(_figures(guard.variables, figures, row))
    return GuardResult(guard.text, value, held=failed is None)


def _figures(variables: Sequence[Variable], figures: Figures, row: int) -> Iterator[str]:
    for name, number in figures.numbers(row, variables).items():
        yield f"{name} {number:.6g}"
