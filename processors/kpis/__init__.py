"""The KPI registry: measures, scopes and KPIs as data, compiled and type-checked at load."""

from processors.kpis.computation import KPI_STATES, KpiColumns
from processors.kpis.definitions import (
    Aggregate,
    Kpi,
    Measure,
    Parameter,
    Registry,
    Sample,
    Scope,
    Source,
    WindowSpec,
)
from processors.kpis.durations import parse_duration_ms, parse_window
from processors.kpis.expressions import ExpressionError, compile_condition
from processors.kpis.faults import Fault, RegistryError
from processors.kpis.load import load_registry

__all__ = [
    "KPI_STATES",
    "Aggregate",
    "ExpressionError",
    "Fault",
    "Kpi",
    "KpiColumns",
    "Measure",
    "Parameter",
    "Registry",
    "RegistryError",
    "Sample",
    "Scope",
    "Source",
    "WindowSpec",
    "compile_condition",
    "load_registry",
    "parse_duration_ms",
    "parse_window",
]
