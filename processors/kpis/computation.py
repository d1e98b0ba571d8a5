"""KPI values from sums, for many keys at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from processors.histogram import SparseCounts
from processors.kpis.arithmetic import Linear

if TYPE_CHECKING:
    from processors.kpis.definitions import Kpi, Measure

KPI_STATES: Final = ("OK", "WARNING", "CRITICAL", "TOO_FEW", "NO_DATA")
"""What a KPI's state can be; ``KpiColumns.states`` holds indices into it."""

_WARNING, _CRITICAL, _TOO_FEW, _NO_DATA = range(1, 5)
_ONE: Final = Linear("1", (), 1)

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class KpiColumns:
    """KPIs of many keys, arrays [rows, kpis]: values (NaN is null), n, indices of KPI_STATES."""

    values: Floats
    n: Integers
    states: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Quantile:
    row: int
    q: float
    scale: float
    counts_itself: bool


class Computation:
    """The KPIs of one scope, laid out once so that a call costs a few array operations.

    Inside, arrays are [kpis, rows]: a formula then reads and writes contiguous memory.
    """

    def __init__(
        self, kpis: Sequence["Kpi"], sums: Sequence[str], measures: Mapping[str, "Measure"]
    ) -> None:
        self._forms: dict[Linear, int] = {}
        self._positions = {name: i for i, name in enumerate(sums)}
        self._numerators = self._indices([k.numerator or _ONE for k in kpis])
        self._denominators = self._indices([k.denominator or _ONE for k in kpis])
        self._n = self._indices([k.n or _ONE for k in kpis])
        factors = [_factor(k, measures) for k in kpis]
        self._multiply = _column([f.numerator for f in factors])
        self._divide = _column([f.denominator for f in factors])
        self._quantiles = _quantiles_by_histogram(kpis)
        # Turned round for KPIs where lower is better, so that "worse" is always "below".
        self._sign = _column([-1.0 if k.direction == "lower" else 1.0 for k in kpis])
        self._warning = self._sign * _column([_nan(k.warning) for k in kpis])
        self._critical = self._sign * _column([_nan(k.critical) for k in kpis])
        self._minimum_n = np.array([[k.minimum_n] for k in kpis], np.int64).reshape(-1, 1)

    def _indices(self, forms: Sequence[Linear]) -> npt.NDArray[np.intp]:
        return np.array(
            [self._forms.setdefault(form, len(self._forms)) for form in forms], dtype=np.intp
        )

    def run(self, sums: Integers, histograms: Mapping[str, SparseCounts]) -> KpiColumns:
        """Compute all KPIs from sums [rows, measures] and the rows of histograms by id.

        KPIs of a histogram that is not given have no data.
        """
        results = self._linear(np.ascontiguousarray(sums.T))
        n = results[self._n]
        denominators = results[self._denominators].astype(np.float64)
        # A base that is not positive has no rate.
        denominators[denominators <= 0] = np.nan
        values = results[self._numerators] * self._multiply / (denominators * self._divide)
        for histogram, wanted in self._quantiles.items():
            counts = histograms.get(histogram) or SparseCounts.of([], len(sums))
            for k in wanted:
                values[k.row] = counts.quantile(k.q) * k.scale
                if k.counts_itself:
                    n[k.row] = counts.totals()
        # A base below 0 (abandons without their offers) rests on nothing.
        n = np.maximum(n, 0)
        states = self._states(values, n)
        return KpiColumns(
            values=np.ascontiguousarray(values.T),
            n=np.ascontiguousarray(n.T),
            states=np.ascontiguousarray(states.T),
        )

    def _linear(self, columns: Integers) -> Integers:
        results = np.empty((len(self._forms), columns.shape[1]), np.int64)
        for result, form in zip(results, self._forms, strict=True):
            result[:] = form.constant
            for name, coefficient in form.terms:
                column = columns[self._positions[name]]
                result += column if coefficient == 1 else coefficient * column
        return results

    def _states(self, values: Floats, n: Integers) -> npt.NDArray[np.uint8]:
        signed = self._sign * values
        # The codes grow with what they take precedence over.
        states = (signed < self._warning).view(np.uint8) * np.uint8(_WARNING)
        for code, holds in (
            (_CRITICAL, signed < self._critical),
            (_TOO_FEW, n < self._minimum_n),
            (_NO_DATA, np.isnan(values)),
        ):
            np.maximum(states, holds.view(np.uint8) * np.uint8(code), out=states)
        return states


def _quantiles_by_histogram(kpis: Sequence["Kpi"]) -> dict[str, list[_Quantile]]:
    wanted: dict[str, list[_Quantile]] = {}
    for row, k in enumerate(kpis):
        if k.of is not None and k.quantile is not None:
            wanted.setdefault(k.of, []).append(_Quantile(row, k.quantile, k.scale, k.n is None))
    return wanted


def _factor(kpi: "Kpi", measures: Mapping[str, "Measure"]) -> Fraction:
    # A whole fraction: 140000 ms / 7 x 0.001 would not be exactly 20 s.
    scale = Fraction(str(kpi.scale))
    return scale * _units(kpi.denominator, measures) / _units(kpi.numerator, measures)


def _units(form: Linear | None, measures: Mapping[str, "Measure"]) -> int:
    names = form.measures if form else ()
    return max((measures[name].units_per_one for name in names), default=1)


def _column(values: Sequence[float]) -> Floats:
    return np.array(values, np.float64).reshape(-1, 1)


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
