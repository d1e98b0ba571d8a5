"""The oracle's own reading of the registry files: definitions as data, formulas as SQL text.

Nothing of ``processors`` is used here: a fault in the pipeline's reader must not be repeated
by the judge.
The files are trusted to be free of faults, because the worker refuses to start with a bad one;
what this reader cannot understand it still refuses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

import schemas

SOURCE_CONTRACTS: Mapping[str, str] = {
    "interactions": "interaction",
    "surveys": "survey",
    "evaluations": "evaluation",
    "evaluation_items": "evaluation",
}
"""Contract behind each source of the registry."""

EXPLODED: Mapping[str, str] = {"evaluation_items": "items"}
"""Array field whose elements are the rows of a source."""

DEFAULT_COUNT_TIME: Mapping[str, str] = {"surveys": "interaction_time"}
"""Instant at which a source counts where it is present; ``event_time`` elsewhere."""

UNIT_SCALES: Mapping[str, float] = {"percent": 100.0, "seconds": 0.001}
"""Factor from the quotient of the measures to the unit; 1 for every other unit."""

Scalar = bool | int | float | str

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\d+)\s*(ms|s|m|h|d)")
_NAME = re.compile(r"[A-Za-z_]\w*")


class DefinitionError(ValueError):
    """A registry file says something that the oracle cannot read."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A column looked up by another column: ``values[by]``, else ``default``."""

    id: str
    by: str
    default: Scalar
    values: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class Measure:
    """A sum or a histogram over the rows of one source; ``value`` is SQL."""

    id: str
    source: str
    value: str
    is_histogram: bool
    count_time: str
    precision: float | None


@dataclass(frozen=True, slots=True)
class Window:
    """Kind and size of a window; ``hop_ms`` equals ``size_ms`` unless it hops."""

    kind: str
    size_ms: int
    hop_ms: int


@dataclass(frozen=True, slots=True)
class Kpi:
    """A formula over measures; the texts are integer arithmetic over measure names.

    ``n`` is None for a quantile that rests on the count of its histogram.
    """

    id: str
    version: int
    scale: float
    numerator: str | None
    denominator: str | None
    n: str | None
    quantile: float | None
    of: str | None
    direction: str | None
    warning: float | None
    critical: float | None
    minimum_n: int
    scopes: tuple[str, ...] | None

    @property
    def measures(self) -> frozenset[str]:
        """Ids of all measures that the KPI is computed from."""
        texts = (self.numerator, self.denominator, self.n, self.of)
        return frozenset(name for text in texts if text for name in _NAME.findall(text))


@dataclass(frozen=True, slots=True)
class Scope:
    """What is counted together, in which windows, and by which measures and KPIs."""

    id: str
    key: tuple[str, ...]
    pane_ms: int
    sources: tuple[str, ...]
    windows: tuple[Window, ...]
    sums: tuple[Measure, ...]
    histograms: tuple[Measure, ...]
    kpis: tuple[Kpi, ...]


@dataclass(frozen=True, slots=True)
class Definitions:
    """Everything of the registry that decides a number."""

    zone: str
    parameters: tuple[Parameter, ...]
    measures: Mapping[str, Measure]
    scopes: tuple[Scope, ...]
    columns: Mapping[str, tuple[str, ...]]

    def parameters_of(self, source: str) -> tuple[Parameter, ...]:
        """Parameters that become columns of the source: those whose ``by`` column it has."""
        return tuple(each for each in self.parameters if each.by in self.columns[source])


def duration_ms(text: str) -> int:
    """Return the milliseconds of a duration such as ``10s``, ``15m`` or ``3d``.

    >>> duration_ms("15m")
    900000
    """
    match = _DURATION.fullmatch(str(text).strip())
    if match is None:
        raise DefinitionError(f"duration: found {text!r}, expected a number and ms, s, m, h or d")
    return int(match[1]) * _UNITS_MS[match[2]]


def window(text: str) -> Window:
    """Return the window that a registry file names.

    >>> window("5m/1m")
    Window(kind='HOPPING', size_ms=300000, hop_ms=60000)
    """
    if text == "day":
        return Window("DAY", _UNITS_MS["d"], _UNITS_MS["d"])
    size, _, hop = str(text).partition("/")
    size_ms = duration_ms(size)
    return (
        Window("HOPPING", size_ms, duration_ms(hop))
        if hop
        else Window("TUMBLING", size_ms, size_ms)
    )


@cache
def contract_fields(contract: str) -> list[dict[str, Any]]:
    """Return the Avro fields of a contract, in order."""
    path = Path(schemas.__file__).parent / "avro" / f"{contract}.avsc"
    fields: list[dict[str, Any]] = json.loads(path.read_text())["fields"]
    return fields


def source_columns(source: str, parameters: Iterable[Parameter]) -> tuple[str, ...]:
    """Return the columns of a source: the contract's, an exploded array's, the parameters'."""
    fields = contract_fields(SOURCE_CONTRACTS[source])
    exploded = EXPLODED.get(source)
    names = [field["name"] for field in fields if field["name"] != exploded]
    for field in fields:
        if field["name"] == exploded:
            names += [item["name"] for item in field["type"]["items"]["fields"]]
    return (*names, *(each.id for each in parameters if each.by in names))


def read_definitions(directory: Path) -> Definitions:
    """Read every YAML file of a registry directory, in the order of their names.

    Raises:
        DefinitionError: a file is missing or holds what cannot be understood.

    """
    files = [*sorted(directory.glob("*.yaml")), *sorted(directory.glob("*.yml"))]
    if not files:
        raise DefinitionError(f"{directory}: found no YAML file, expected the KPI registry")
    yaml = YAML(typ="safe", pure=True)
    return definitions([yaml.load(path.read_text()) or {} for path in files])


def definitions(documents: Sequence[Mapping[str, Any]]) -> Definitions:
    """Merge the documents of a registry and resolve what each scope counts."""

    def every(section: str) -> Iterable[Mapping[str, Any]]:
        return (item for document in documents for item in document.get(section) or ())

    zones = [str(document["zone"]) for document in documents if "zone" in document]
    measures = {item["id"]: _measure(item) for item in every("measures")}
    kpis = [_kpi(item) for item in every("kpis")]
    parameters = tuple(_parameter(item) for item in every("parameters"))
    columns = {source: source_columns(source, parameters) for source in SOURCE_CONTRACTS}
    return Definitions(
        zone=zones[0] if zones else "UTC",
        parameters=parameters,
        measures=measures,
        scopes=tuple(_scope(item, measures, kpis, columns) for item in every("scopes")),
        columns=columns,
    )


@dataclass(frozen=True, slots=True)
class RuleText:
    """What a rule file says of where its figures come from.

    A rule over windows names a ``scope``; one over single events a ``source``, in ``where`` which
    of its events, and in ``subject`` the columns of whom each is about.
    """

    version: int
    scope: str | None
    source: str | None
    where: str | None
    subject: tuple[str, ...] = ()


def read_rules(directory: Path) -> dict[str, RuleText]:
    """Return the rules of a directory by id.

    Raises:
        DefinitionError: there is no rule file.

    """
    files = [path for path in directory.glob("*.yaml") if not path.name.endswith(".test.yaml")]
    if not files:
        raise DefinitionError(f"{directory}: found no YAML file, expected rules")
    yaml = YAML(typ="safe", pure=True)
    items = [yaml.load(path.read_text()) for path in files]
    return {
        item["id"]: RuleText(
            int(item.get("version", 1)),
            item.get("scope"),
            item.get("source"),
            item.get("where"),
            tuple(item.get("subject") or ()),
        )
        for item in items
    }


def _parameter(item: Mapping[str, Any]) -> Parameter:
    values = {str(key): value for key, value in (item.get("values") or {}).items()}
    return Parameter(item["id"], item["by"], item["default"], values)


def _measure(item: Mapping[str, Any]) -> Measure:
    source = item["source"]
    if source not in SOURCE_CONTRACTS:
        raise DefinitionError(
            f"measures.{item['id']}.source: found {source!r}, expected {sorted(SOURCE_CONTRACTS)}"
        )
    precision = item.get("precision")
    return Measure(
        id=item["id"],
        source=source,
        value=str(item["value"]),
        is_histogram=item.get("aggregate", "sum") == "histogram",
        count_time=item.get("count_time") or DEFAULT_COUNT_TIME.get(source, "event_time"),
        precision=None if precision is None else float(precision),
    )


def _kpi(item: Mapping[str, Any]) -> Kpi:
    def text(name: str) -> str | None:
        return None if item.get(name) is None else str(item[name])

    def number(name: str) -> float | None:
        return None if item.get(name) is None else float(item[name])

    scale = number("scale")
    scopes = item.get("scopes")
    return Kpi(
        id=item["id"],
        version=int(item.get("version", 1)),
        scale=UNIT_SCALES.get(item.get("unit", ""), 1.0) if scale is None else scale,
        numerator=text("numerator"),
        denominator=text("denominator"),
        n=text("n") or text("denominator") or text("numerator"),
        quantile=number("quantile"),
        of=text("of"),
        direction=text("direction"),
        warning=number("warning"),
        critical=number("critical"),
        minimum_n=int(item.get("minimum_n", 0)),
        scopes=None if scopes is None else tuple(scopes),
    )


def _scope(
    item: Mapping[str, Any],
    measures: Mapping[str, Measure],
    kpis: Sequence[Kpi],
    columns: Mapping[str, tuple[str, ...]],
) -> Scope:
    key = tuple(item.get("key") or ())
    named = item.get("sources")
    sources = tuple(
        source
        for source in SOURCE_CONTRACTS
        if set(key) <= set(columns[source]) and (named is None or source in named)
    )
    own = [each for each in measures.values() if each.source in sources]
    sums = tuple(each for each in own if not each.is_histogram)
    histograms = tuple(each for each in own if each.is_histogram and item.get("histograms"))
    counted = {each.id for each in (*sums, *histograms)}
    return Scope(
        id=item["id"],
        key=key,
        pane_ms=duration_ms(item.get("pane", "1ms")),
        sources=sources,
        windows=tuple(window(text) for text in item["windows"]),
        sums=sums,
        histograms=histograms,
        kpis=tuple(
            kpi
            for kpi in kpis
            if kpi.measures <= counted and (kpi.scopes is None or item["id"] in kpi.scopes)
        ),
    )
