"""The KPIs of one tick as the variables that conditions name."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from processors.kpis import Kpi
from processors.rules.statistics import Floats, wilson_bounds


class Part(StrEnum):
    """What a variable says of its KPI; the value is the suffix of its name."""

    VALUE = ""
    N = "_n"
    LOWER = "_lower"
    UPPER = "_upper"
    TARGET = "_target"


@dataclass(frozen=True, slots=True)
class Variable:
    """A name of the condition language; ``kpi`` is a position in the scope's KPIs."""

    name: str
    kpi: int
    part: Part


def variables_of(kpis: Sequence[Kpi]) -> Mapping[str, Variable]:
    """Return all variables of a scope by name: each KPI, its n, and its bounds and target if any.

    A KPI whose own id looks like another's variable wins.
    """
    variables = {}
    for kpi, definition in enumerate(kpis):
        parts = [Part.N]
        if definition.unit == "percent":
            parts += [Part.LOWER, Part.UPPER]
        if definition.target is not None:
            parts.append(Part.TARGET)
        for part in parts:
            name = definition.id + part
            variables[name] = Variable(name, kpi, part)
    for kpi, definition in enumerate(kpis):
        variables[definition.id] = Variable(definition.id, kpi, Part.VALUE)
    return variables


@dataclass(slots=True)
class Figures:
    """Values (NaN is null) and n of many keys at one tick, arrays [keys, kpis]."""

    kpis: Sequence[Kpi]
    values: Floats
    n: npt.NDArray[np.int64]
    _bounds: dict[int, tuple[Floats, Floats]] = field(default_factory=dict)
    _columns: dict[str, Floats] = field(default_factory=dict)

    def column(self, variable: Variable) -> Floats:
        """Return one variable for all keys."""
        if variable.name not in self._columns:
            self._columns[variable.name] = self._column(variable)
        return self._columns[variable.name]

    def _column(self, variable: Variable) -> Floats:
        match variable.part:
            case Part.VALUE:
                return self.values[:, variable.kpi]
            case Part.N:
                return self.n[:, variable.kpi].astype(np.float64)
            case Part.TARGET:
                target = self.kpis[variable.kpi].target
                return np.full(len(self.values), np.nan if target is None else target)
            case Part.LOWER:
                return self.bounds(variable.kpi)[0]
            case Part.UPPER:
                return self.bounds(variable.kpi)[1]

    def bounds(self, kpi: int) -> tuple[Floats, Floats]:
        """Return lower and upper Wilson bound of one KPI for all keys."""
        if kpi not in self._bounds:
            self._bounds[kpi] = wilson_bounds(self.values[:, kpi], self.n[:, kpi])
        return self._bounds[kpi]

    def numbers(self, row: int, variables: Iterable[Variable]) -> dict[str, float]:
        """Return the variables of one key by name."""
        return {v.name: float(self.column(v)[row]) for v in variables}

    def known(self, kpis: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Return for which keys all of these KPIs have a value."""
        return np.asarray(~np.isnan(self.values[:, list(kpis)]).any(axis=1))

    def enough(self, minimum_n: Mapping[int, int]) -> npt.NDArray[np.bool_]:
        """Return for which keys each of these KPIs rests on at least its minimum."""
        minima = np.array(list(minimum_n.values()), np.int64)
        return np.asarray((self.n[:, list(minimum_n)] >= minima).all(axis=1))
