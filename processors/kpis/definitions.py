"""What a loaded registry holds; everything here is checked and compiled."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from processors.histogram import SparseCounts
from processors.kpis.arithmetic import Linear
from processors.kpis.computation import Computation, KpiColumns

DAY_MS: Final = 86_400_000

Aggregate = Literal["sum", "histogram"]
WindowKind = Literal["TUMBLING", "HOPPING", "DAY"]
Direction = Literal["higher", "lower"]
Scalar = int | float | str | bool


@dataclass(frozen=True, slots=True)
class Source:
    """Events that measures are taken from.

    ``explode`` names the array whose items become rows of their own. ``schema`` is that of the
    prepared frame: the contract's columns, the item's, the parameters'. ``count_times`` are the
    columns by which measures of this source are counted; ``default_count_time`` is one that may
    be null, and then event_time stands in.
    """

    name: str
    topic: str
    contract: str
    explode: str | None
    default_count_time: str
    schema: pl.Schema
    count_times: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A setting by the value of a column; it becomes a column of every source that has ``by``."""

    id: str
    by: str
    default: Scalar
    values: Mapping[str, Scalar]

    @property
    def expression(self) -> pl.Expr:
        """The parameter's column; a null or unlisted ``by`` takes the default."""
        column = pl.lit(self.default, dtype=self.dtype)
        if self.values:
            column = pl.col(self.by).replace_strict(
                dict(self.values), default=self.default, return_dtype=self.dtype
            )
        return column.alias(self.id)

    @property
    def dtype(self) -> pl.DataType:
        """Boolean, Int64, Float64 or String, as the default."""
        match self.default:
            case bool():
                return pl.Boolean()
            case int():
                return pl.Int64()
            case float():
                return pl.Float64()
            case _:
                return pl.String()


@dataclass(frozen=True, slots=True)
class Measure:
    """A number per event that adds up.

    ``value`` is SQL over the source's prepared columns, ``expression`` the same compiled and named
    ``id``: for a sum Int64 without nulls (true counts 1, null 0, a double is rounded to whole
    ``precision``, halves away from zero), for a histogram Int64 milliseconds or null.
    ``count_time`` names the instant that decides its window; where it is null, event_time does.
    """

    id: str
    source: str
    value: str
    aggregate: Aggregate
    count_time: str
    precision: float
    expression: pl.Expr = field(compare=False, repr=False)

    @property
    def units_per_one(self) -> int:
        """How many of the summed units make 1: 1, or 1_000_000 for millionths."""
        return round(1 / self.precision)


@dataclass(frozen=True, slots=True)
class Sample:
    """Ids of the newest ``keep`` events for which ``where`` holds, kept as evidence."""

    id: str
    source: str
    where: str
    keep: int
    expression: pl.Expr = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """A kind of window; for TUMBLING and DAY the hop is the size, of a day of 24 hours."""

    kind: WindowKind
    size_ms: int
    hop_ms: int


@dataclass(frozen=True, slots=True)
class Kpi:
    """A KPI: ``scale`` x numerator / denominator, or a quantile of a histogram.

    Without a denominator it is a plain count. The value is null where the denominator is not
    positive: offers and answers of one interaction may lie in two windows, and a rate over a
    negative base says nothing. ``n`` is what the value rests on, at least 0. ``sources`` are those
    whose watermarks make it final. ``scopes``, where given, are the only ones it is computed in.
    """

    id: str
    version: int
    title: str
    description: str
    unit: str
    scale: float
    numerator: Linear | None
    denominator: Linear | None
    n: Linear | None
    quantile: float | None
    of: str | None
    direction: Direction | None
    target: float | None
    warning: float | None
    critical: float | None
    minimum_n: int
    counted_at: str | None
    measures: frozenset[str]
    sources: tuple[str, ...]
    scopes: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Scope:
    """A grouping with its panes and windows, and its sums, histograms and KPIs in order."""

    id: str
    key: tuple[str, ...]
    attributes: tuple[str, ...]
    sources: tuple[str, ...]
    pane_ms: int
    windows: tuple[WindowSpec, ...]
    publish_every_ms: int
    sums: tuple[str, ...]
    histograms: tuple[str, ...]
    kpis: tuple[Kpi, ...]


@dataclass(frozen=True, slots=True)
class Registry:
    """All definitions of a directory.

    ``fingerprint`` is the SHA-256 of all of them, ``state_fingerprint`` of what saved sums depend
    on alone: a new target or KPI changes the first, a measure, parameter or scope both.
    """

    zone: str
    fingerprint: str
    state_fingerprint: str
    sources: Mapping[str, Source]
    parameters: tuple[Parameter, ...]
    scopes: tuple[Scope, ...]
    measures: Mapping[str, Measure]
    samples: Mapping[str, Sample]
    kpis: tuple[Kpi, ...]
    computations: Mapping[str, Computation] = field(compare=False, repr=False)

    def scope(self, scope_id: str) -> Scope:
        """Return the scope of that id; raises KeyError."""
        return {scope.id: scope for scope in self.scopes}[scope_id]

    def prepare(self, source: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the decoded ``frame`` as the expressions of ``source`` expect it.

        Items become rows (an event without items has none) and parameters columns; every other
        column of ``frame`` is kept.
        """
        explode = self.sources[source].explode
        if explode is not None:
            frame = frame.explode(explode, empty_as_null=False, keep_nulls=False).unnest(explode)
        columns = [p.expression for p in self.parameters if p.by in frame.columns]
        return frame.with_columns(columns) if columns else frame

    def evaluate(
        self,
        scope: Scope,
        sums: npt.NDArray[np.int64],
        histograms: Mapping[str, SparseCounts],
    ) -> KpiColumns:
        """Compute the scope's KPIs from sums [rows, sums] and the rows of its histograms."""
        return self.computations[scope.id].run(sums, histograms)
