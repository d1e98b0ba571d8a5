"""Every KPI record that the input implies, recomputed in SQL from the records that count.

Nothing is kept in panes here: each window is one aggregation over all rows.
For each scope and window there is a table ``expected_<i>`` with the key columns ``k0, k1, ...``,
``start_ms, end_ms``, one BIGINT a sum, and ``v:<kpi>``, ``n:<kpi>``, ``s:<kpi>`` for value, n and
state of each KPI.
"""

# ruff: noqa: S608 - every name in the SQL comes from the contracts and the registry.

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import pyarrow as pa

from streams.verify.definitions import (
    EXPLODED,
    SOURCE_CONTRACTS,
    Definitions,
    Kpi,
    Measure,
    Parameter,
    Scalar,
    Scope,
    Window,
)
from streams.verify.ledger import Ledger, sql_name, sql_text
from streams.verify.sample import Sample

SMALLEST_MS = 100
"""Durations below this fall into a histogram's bucket 0, which stands for 0 ms."""

LARGEST_MS = 30 * 86_400_000
"""Nothing longer than this has a bucket of its own."""

RELATIVE_ERROR = 0.01
"""Of one point of a histogram's bucket, against everything in it."""

_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Expected:
    """The recomputed records of one scope and window."""

    scope: Scope
    window: Window
    table: str


def recompute(
    ledger: Ledger, definitions: Definitions, sample: Sample | None = None
) -> list[Expected]:
    """Create the tables of expected records in the ledger's database and say where they are.

    With a sample they hold the records of its keys.
    """
    _create_buckets(ledger)
    sample = sample or Sample()
    scopes = [scope for scope in definitions.scopes if scope.sums]
    used = {each.source for scope in scopes for each in (*scope.sums, *scope.histograms)}
    for source in SOURCE_CONTRACTS:
        if source in used:
            ledger.sql.execute(_rows(source, definitions))
    made: list[Expected] = []
    for scope in scopes:
        for window in scope.windows:
            made.append(Expected(scope, window, f"expected_{len(made)}"))
            _create_expected(ledger, definitions, made[-1], sample.sql(scope))
    return made


def bucket_bounds() -> list[tuple[int, int, float]]:
    """Return (bucket, its first whole ms, the ms it stands for) of every bucket.

    DDSketch (Masson, Rim and Lee, VLDB 2019) with relative error 1 %: bucket b from 1 on begins
    at ``SMALLEST_MS * gamma ** (b - 1)``, with ``gamma = (1 + 0.01) / (1 - 0.01)``.
    """
    gamma = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
    bounds = [(0, -(2**62), 0.0)]
    floor = float(SMALLEST_MS)
    while math.ceil(floor) <= LARGEST_MS:
        bounds.append((len(bounds), math.ceil(floor), floor * (1 + RELATIVE_ERROR)))
        floor = SMALLEST_MS * gamma ** len(bounds[1:])
    return bounds


def formula(text: str) -> str:
    """Return integer arithmetic over measures as SQL.

    >>> formula("offered - 2 * short")
    '"offered" - 2 * "short"'
    """
    return _NAME.sub(lambda match: sql_name(match[0]), text)


def _create_buckets(ledger: Ledger) -> None:
    ledger.sql.execute("CREATE TABLE buckets (bucket BIGINT, from_ms BIGINT, stands_for DOUBLE)")
    columns = zip(
        ("bucket", "from_ms", "stands_for"), zip(*bucket_bounds(), strict=True), strict=True
    )
    ledger.add("buckets", pa.table(dict(columns)))


def _rows(source: str, definitions: Definitions) -> str:
    """Return the SQL of ``<source>_rows``: a row of key columns, count times and measures.

    What was restated has nothing to add; its record is there all the same.
    """
    keys = dict.fromkeys(
        column for scope in definitions.scopes if source in scope.sources for column in scope.key
    )
    measures = [each for each in definitions.measures.values() if each.source == source]
    times = dict.fromkeys(each.count_time for each in measures)
    columns = [
        *(f"coalesce(CAST({sql_name(k)} AS VARCHAR), '') AS {sql_name('key:' + k)}" for k in keys),
        *(f"coalesce({sql_name(t)}, event_time) AS {sql_name('at:' + t)}" for t in times),
        *(
            f"{_day_start(f'coalesce({sql_name(t)}, event_time)', definitions.zone)}"
            f" AS {sql_name('day:' + t)}"
            for t in times
        ),
        *(f"{_if_it_counts(each)} AS {sql_name(each.id)}" for each in measures),
    ]
    outcomes = sql_name(SOURCE_CONTRACTS[source] + "_outcome")
    counting = f"""SELECT "partition", "position", counts AS is_counted FROM {outcomes}
        WHERE outcome = 'applied'"""
    return (
        f"CREATE TABLE {sql_name(source + '_rows')} AS"
        f" SELECT {', '.join(columns)} FROM ({prepared(source, definitions, counting)})"
    )


def _if_it_counts(measure: Measure) -> str:
    nothing = "NULL" if measure.is_histogram else "0"
    return f"CASE WHEN is_counted THEN {measure_value(measure)} ELSE {nothing} END"


def prepared(source: str, definitions: Definitions, records: str) -> str:
    """Return the SQL of a source's columns with its parameters.

    ``records`` is SQL of the records' "partition" and "position", and of columns to put beside.
    """
    contract = SOURCE_CONTRACTS[source]
    exploded = EXPLODED.get(source)
    columns = "* EXCLUDE (append_time, digest, fault)"
    if exploded:
        columns = (
            f"* EXCLUDE (append_time, digest, fault, {sql_name(exploded)}),"
            f" unnest({sql_name(exploded)}, max_depth := 2)"
        )
    events = (
        f"SELECT {columns} FROM {sql_name(contract)}"
        f' JOIN ({records}) USING ("partition", "position")'
    )
    parameters = "".join(f", {_lookup(each)}" for each in definitions.parameters_of(source))
    return f"SELECT *{parameters} FROM ({events})"


def _lookup(parameter: Parameter) -> str:
    cases = "".join(
        f" WHEN {sql_text(value)} THEN {_literal(result)}"
        for value, result in parameter.values.items()
    )
    default = _literal(parameter.default)
    value = f"CASE {sql_name(parameter.by)}{cases} ELSE {default} END" if cases else default
    return f"{value} AS {sql_name(parameter.id)}"


def _literal(value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, str):
        return sql_text(value)
    return f"CAST({value!r} AS {'BIGINT' if isinstance(value, int) else 'DOUBLE'})"


def measure_value(measure: Measure) -> str:
    """Return the SQL of a measure: whole units, 0 for null; of a histogram ms or null."""
    if measure.is_histogram:
        return f"CAST(({measure.value}) AS BIGINT)"
    if measure.precision is None:
        return f"coalesce(CAST(({measure.value}) AS BIGINT), 0)"
    units = f"round(CAST(({measure.value}) AS DOUBLE) * {units_per_one(measure)})"
    return f"coalesce(TRY_CAST({units} AS BIGINT), 0)"


def units_per_one(measure: Measure) -> int:
    """Return how many of the summed units make 1."""
    return 1 if measure.precision is None else round(1 / measure.precision)


def _day_start(instant: str, zone: str) -> str:
    """Return the SQL for the first ms of the zone's calendar day that holds the instant."""
    at = f"make_timestamptz(({instant}) * 1000)"
    local = f"date_trunc('day', timezone({sql_text(zone)}, {at}))"
    return f"epoch_ms(timezone({sql_text(zone)}, {local}))"


def _end(window: Window, zone: str) -> str:
    if window.kind != "DAY":
        return f"start_ms + {window.size_ms}"
    local = f"timezone({sql_text(zone)}, make_timestamptz(start_ms * 1000))"
    return f"epoch_ms(timezone({sql_text(zone)}, date_trunc('day', {local}) + INTERVAL 1 DAY))"


def _starts(window: Window, count_time: str) -> str:
    """Return the SQL for the starts of the windows that hold the count time: one, or a list."""
    at = sql_name("at:" + count_time)
    match window.kind:
        case "DAY":
            return sql_name("day:" + count_time)
        case "TUMBLING":
            return f"{floored(at, window.size_ms)}"
        case _:
            # The first start after `at - size`, and every hop from there up to `at`.
            first = f"{floored(f'({at} - {window.size_ms})', window.hop_ms)} + {window.hop_ms}"
            return f"unnest(range({first}, {at} + 1, {window.hop_ms}))"


def floored(instant: str, size_ms: int) -> str:
    """Return the SQL of the start of the stretch of this size that holds an instant."""
    return f"({instant} - (({instant} % {size_ms}) + {size_ms}) % {size_ms})"


def _create_expected(ledger: Ledger, definitions: Definitions, made: Expected, judged: str) -> None:
    scope, window = made.scope, made.window
    ledger.sql.execute(f"CREATE TABLE sums AS {_sums(scope, window, definitions.zone, judged)}")
    for each in scope.histograms:
        counts = _cumulated(scope, window, each, judged)
        ledger.sql.execute(f"CREATE TABLE {sql_name('counts:' + each.id)} AS {counts}")
    ledger.sql.execute(f"CREATE TABLE {made.table} AS {_with_kpis(scope, definitions.measures)}")
    for name in ("sums", *("counts:" + each.id for each in scope.histograms)):
        ledger.sql.execute(f"DROP TABLE {sql_name(name)}")


def _keys(scope: Scope) -> list[str]:
    return [f"k{i}" for i in range(len(scope.key))]


def _counted(
    scope: Scope, window: Window, source: str, count_time: str, columns: str, judged: str
) -> str:
    keys = "".join(f"{sql_name('key:' + name)} AS k{i}, " for i, name in enumerate(scope.key))
    return (
        f"SELECT {keys}{_starts(window, count_time)} AS start_ms, {columns}"
        f" FROM {sql_name(source + '_rows')} WHERE {judged}"
    )


def _sums(scope: Scope, window: Window, zone: str, judged: str) -> str:
    """Return the SQL of all sums of a scope by key and window.

    A source with several count times is read once for each of them.
    """
    groups = ", ".join([*_keys(scope), "start_ms"])
    parts = []
    for source, count_time, measures in _by_count_time(scope):
        names = ", ".join(sql_name(each.id) for each in measures)
        totals = ", ".join(f"sum({sql_name(m.id)}) AS {sql_name(m.id)}" for m in measures)
        rows = _counted(scope, window, source, count_time, names, judged)
        parts.append(f"SELECT {groups}, {totals} FROM ({rows}) GROUP BY {groups}")
    totals = ", ".join(
        f"CAST(coalesce(sum({sql_name(m.id)}), 0) AS BIGINT) AS {sql_name(m.id)}"
        for m in scope.sums
    )
    return (
        f"SELECT {groups}, {_end(window, zone)} AS end_ms, {totals}"
        f" FROM ({' UNION ALL BY NAME '.join(parts)}) GROUP BY {groups}"
    )


def _by_count_time(scope: Scope) -> Iterator[tuple[str, str, list[Measure]]]:
    for source in scope.sources:
        measures = [each for each in scope.sums if each.source == source]
        for count_time in dict.fromkeys(each.count_time for each in measures):
            yield source, count_time, [m for m in measures if m.count_time == count_time]


def _cumulated(scope: Scope, window: Window, measure: Measure, judged: str) -> str:
    """Return the SQL of a histogram: by key, window and bucket the count up to it, and of all."""
    keys = _keys(scope)
    groups = ", ".join([*keys, "start_ms"])
    name = sql_name(measure.id)
    rows = _counted(scope, window, measure.source, measure.count_time, name, judged)
    return f"""
    WITH counted AS (
        SELECT {groups}, bucket, any_value(stands_for) AS stands_for, count(*) AS occurrences
        FROM ({rows}) AS durations
        ASOF JOIN buckets ON durations.{sql_name(measure.id)} >= buckets.from_ms
        WHERE {sql_name(measure.id)} IS NOT NULL
        GROUP BY {groups}, bucket
    )
    SELECT *, sum(occurrences) OVER (PARTITION BY {groups} ORDER BY bucket) AS up_to,
        sum(occurrences) OVER (PARTITION BY {groups}) AS total
    FROM counted
    """


def _with_kpis(scope: Scope, measures: Mapping[str, Measure]) -> str:
    columns = []
    for kpi in scope.kpis:
        if kpi.of is None:
            value, n = quotient(kpi, measures), formula(kpi.n or "1")
        else:
            counts = sql_name("q:" + kpi.of)
            value = f"{counts}.{sql_name(kpi.id)} * {kpi.scale!r}"
            n = formula(kpi.n) if kpi.n else f"coalesce({counts}.total, 0)"
        columns.append(f"{value} AS {sql_name('v:' + kpi.id)}")
        columns.append(f"CAST({n} AS BIGINT) AS {sql_name('n:' + kpi.id)}")
    joins = (_quantiles_join(scope, each) for each in scope.histograms)
    states = (f"{_state(kpi)} AS {sql_name('s:' + kpi.id)}" for kpi in scope.kpis)
    computed = f"SELECT {', '.join(['sums.*', *columns])} FROM sums {' '.join(joins)}"
    return f"SELECT {', '.join(['*', *states])} FROM ({computed})"


def quotient(kpi: Kpi, measures: Mapping[str, Measure]) -> str:
    """Return the SQL of scale x numerator / denominator; null where that is not positive.

    The scale and the units are one fraction of whole numbers, so that a value which lies on a
    limit is not moved off it by a factor such as 0.001.
    """
    factor = Fraction(str(kpi.scale)) * _units(kpi.denominator, measures)
    factor /= _units(kpi.numerator, measures)
    base = f"CAST({formula(kpi.denominator or '1')} AS DOUBLE)"
    numerator = f"CAST({formula(kpi.numerator or '1')} AS DOUBLE) * {factor.numerator}"
    return f"CASE WHEN {base} > 0 THEN {numerator} / ({base} * {factor.denominator}) END"


def _units(text: str | None, measures: Mapping[str, Measure]) -> int:
    return max((units_per_one(measures[name]) for name in _NAME.findall(text or "")), default=1)


def _quantiles_join(scope: Scope, histogram: Measure) -> str:
    """Return the SQL join of a histogram's quantiles, by KPI, and of its total.

    A quantile is what the first bucket stands for that at least its share of the values reach.
    """
    keys = [*_keys(scope), "start_ms"]
    alias = sql_name("q:" + histogram.id)
    quantiles = "".join(
        f", arg_min(stands_for, bucket) FILTER (up_to >= {_rank(kpi)}) AS {sql_name(kpi.id)}"
        for kpi in scope.kpis
        if kpi.of == histogram.id
    )
    match = " AND ".join(f"sums.{key} = {alias}.{key}" for key in keys)
    return (
        f"LEFT JOIN (SELECT {', '.join(keys)}, any_value(total) AS total{quantiles}"
        f" FROM {sql_name('counts:' + histogram.id)} GROUP BY {', '.join(keys)})"
        f" AS {alias} ON {match}"
    )


def _rank(kpi: Kpi) -> str:
    # Decimals: 0.07 * 100 must ask for the seventh value, and floats make it a hair more.
    share = f"CAST({sql_text(repr(kpi.quantile))} AS DECIMAL(18, 9))"
    return f"greatest(ceil({share} * CAST(total AS DECIMAL(18, 0))), 1)"


def _state(kpi: Kpi) -> str:
    """Return the SQL of a KPI's state: no data, too few, worse than a limit, or well."""
    value, n = sql_name("v:" + kpi.id), sql_name("n:" + kpi.id)
    worse = ">" if kpi.direction == "lower" else "<"
    limits = ((kpi.critical, "CRITICAL"), (kpi.warning, "WARNING"))
    cases = "".join(
        f" WHEN {value} {worse} {limit!r} THEN '{state}'"
        for limit, state in limits
        if limit is not None
    )
    return (
        f"CASE WHEN {value} IS NULL THEN 'NO_DATA' WHEN {n} < {kpi.minimum_n} THEN 'TOO_FEW'"
        f"{cases} ELSE 'OK' END"
    )
