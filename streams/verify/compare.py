"""The recomputed against the published, field by field."""

# ruff: noqa: S608 - every name in the SQL comes from the contracts and the registry.

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from streams.verify.definitions import SOURCE_CONTRACTS, Measure, Scope, Window
from streams.verify.ledger import OUTCOMES, Input, Ledger, sql_name, sql_text
from streams.verify.recompute import Expected, units_per_one
from streams.verify.report import Compared, Difference, Findings

RELATIVE_TOLERANCE = 1e-9
"""Two values are equal if they differ by at most this share of the greater."""

NEVER_MS = -(2**62)
"""A bound before every window's end: nothing is final."""

_FIRST = 20


# What was final and changed all the same is called REVISED.
_FINALITY = "CASE each WHEN 'REVISED' THEN 'FINAL' ELSE each END"


@dataclass(frozen=True, slots=True)
class _Check:
    """One field of a record: SQL of what is expected, and until which window end it is final."""

    what: str
    expected: str
    bound_ms: int
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class SourceTime:
    """When windows are final for one contract.

    ``watermark_ms`` is the least over its partitions that have any records or advances, None if
    none has; ``late_ms`` is how long after a window's end its records may still count.
    """

    watermark_ms: int | None
    late_ms: int


def source_times(ledger: Ledger, inputs: Sequence[Input]) -> dict[str, SourceTime]:
    """Return the times of every input contract."""
    return {
        each.contract: SourceTime(
            ledger.combined_watermark(each.contract), each.grace_ms + each.reach_ms
        )
        for each in inputs
    }


def final_until(
    contracts: Iterable[str], scope: Iterable[str], times: Mapping[str, SourceTime]
) -> int:
    """Return the latest end of a window at which what is counted from the contracts is final.

    A contract without any records holds nothing back: the others of its scope decide then.
    """
    known = (times[each].watermark_ms for each in scope)
    others = min((each for each in known if each is not None), default=NEVER_MS)
    ends = []
    for each in contracts:
        own = times[each].watermark_ms
        ends.append((others if own is None else own) - times[each].late_ms)
    return min(ends, default=NEVER_MS)


class Comparison:
    """Compares the records of one scope and window with those found.

    Both sides are brought into lists in the order of the definitions and compared element by
    element: two passes, however many measures and KPIs there are.
    """

    def __init__(
        self,
        expected: Expected,
        measures: Mapping[str, Measure],
        times: Mapping[str, SourceTime],
    ) -> None:
        self._scope = expected.scope
        self._window = expected.window
        self._table = expected.table
        self._measures = measures
        self._times = times
        self._kpi_bounds = [self._bound(kpi.measures) for kpi in expected.scope.kpis]

    def run(self, ledger: Ledger) -> tuple[Compared, Findings]:
        """Return the counts and the first differences."""
        ledger.sql.execute(f"CREATE TABLE joined AS {self._joined()}")
        ledger.sql.execute(f"CREATE TABLE differing AS {self._differing()}")
        row = ledger.sql.execute(f"""
            SELECT (SELECT count(*) FROM joined),
                (SELECT count(*) FROM joined
                 WHERE end_ms <= {min(self._kpi_bounds, default=NEVER_MS)}),
                count(DISTINCT record) FILTER (final), count(DISTINCT record) FILTER (NOT final)
            FROM differing
        """).fetchone()
        assert row is not None
        records, final_records, final, provisional = row
        findings = Findings(final, provisional, tuple(self._first(ledger)))
        final_kpis = self._final_kpis(ledger)
        ledger.sql.execute("DROP TABLE joined")
        ledger.sql.execute("DROP TABLE differing")
        counts = (records, final_records, final_kpis, final, provisional)
        return Compared(self._scope.id, window_name(self._window), *counts), findings

    def _bound(self, names: Iterable[str]) -> int:
        contracts = {SOURCE_CONTRACTS[self._measures[name].source] for name in names}
        scope = {SOURCE_CONTRACTS[source] for source in self._scope.sources}
        return final_until(contracts, scope, self._times)

    def _final_kpis(self, ledger: Ledger) -> int:
        ends = ledger.sql.execute(
            f"SELECT end_ms, count(*) FROM {self._table} GROUP BY end_ms"
        ).fetchall()
        return sum(count * sum(end <= bound for bound in self._kpi_bounds) for end, count in ends)

    def _joined(self) -> str:
        """Return the SQL of all records of either side, their fields as lists in one order."""
        scope, window = self._scope, self._window
        keys = ", ".join(f"expected.k{i}" for i in range(len(scope.key)))
        key = f"[{keys}]::VARCHAR[]"
        numbers, texts = list(self._numbers()), list(self._texts())
        return f"""
        SELECT row_number() OVER () AS record,
            coalesce(expected.start_ms, found.start_ms) AS start_ms,
            coalesce(expected.end_ms, found.end_ms) AS end_ms,
            CASE WHEN expected.start_ms IS NULL THEN found.key_values ELSE {key} END AS key_values,
            found.record_key IS NULL AS is_missing, expected.start_ms IS NULL AS is_surplus,
            [{", ".join(each.expected for each in numbers)}]::DOUBLE[] AS expected_numbers,
            {_aligned("measure_names", "measure_values", [m.id for m in scope.sums])}
            || {self._of_kpis("kpi_values")} || {self._of_kpis("kpi_ns")}::DOUBLE[]
                AS found_numbers,
            [{", ".join(each.expected for each in texts)}]::VARCHAR[] AS expected_texts,
            {self._of_kpis("kpi_states")} || {self._of_kpis("kpi_versions")}::VARCHAR[]
            || list_transform({self._of_kpis("kpi_statuses")}, lambda each: {_FINALITY})
            || [CASE found.status WHEN 'REVISED' THEN 'FINAL' ELSE found.status END,
                CAST(found.end_ms AS VARCHAR), url_decode(found.record_key)]::VARCHAR[]
                AS found_texts
        FROM {self._table} AS expected
        FULL JOIN (
            SELECT * FROM found WHERE scope = {sql_text(scope.id)}
            AND kind = {sql_text(window.kind)} AND size_ms = {window.size_ms}
        ) AS found
        ON {key} = found.key_values AND expected.start_ms = found.start_ms
        """

    def _of_kpis(self, values: str) -> str:
        return _aligned("kpi_ids", values, [kpi.id for kpi in self._scope.kpis])

    def _numbers(self) -> Iterator[_Check]:
        for measure in self._scope.sums:
            unit = float(units_per_one(measure))
            value = f"expected.{sql_name(measure.id)} / {unit!r}"
            tolerance = 0.0 if measure.precision is None else RELATIVE_TOLERANCE
            bound = self._bound([measure.id])
            yield _Check(f"measures.{measure.id}", value, bound, tolerance)
        kpis = list(zip(self._scope.kpis, self._kpi_bounds, strict=True))
        for field, column, tolerance in (("value", "v", RELATIVE_TOLERANCE), ("n", "n", 0.0)):
            for kpi, bound in kpis:
                value = f"expected.{sql_name(f'{column}:{kpi.id}')}"
                yield _Check(f"kpis.{kpi.id}.{field}", value, bound, tolerance)

    def _texts(self) -> Iterator[_Check]:
        kpis = list(zip(self._scope.kpis, self._kpi_bounds, strict=True))
        for kpi, bound in kpis:
            yield _Check(f"kpis.{kpi.id}.state", f"expected.{sql_name('s:' + kpi.id)}", bound)
        for kpi, bound in kpis:
            version = sql_text(str(kpi.version))
            yield _Check(f"kpis.{kpi.id}.definition_version", version, bound)
        for kpi, bound in kpis:
            yield _Check(f"kpis.{kpi.id}.status", _status(bound), bound)
        whole = min(self._kpi_bounds, default=NEVER_MS)
        yield _Check("status", _status(whole), whole)
        yield _Check("window.end_time", "CAST(expected.end_ms AS VARCHAR)", -NEVER_MS)
        yield _Check("record key", _record_key(self._scope, self._window), -NEVER_MS)

    def _differing(self) -> str:
        """Return the SQL of all fields that differ: record, what, both sides, whether final."""
        last = max(self._kpi_bounds, default=NEVER_MS)
        numbers, texts = list(self._numbers()), list(self._texts())
        tolerances = ", ".join(repr(each.tolerance) for each in numbers)
        return f"""
        SELECT record, 'record' AS what, CASE WHEN is_missing THEN 'none' ELSE 'a record' END
                AS found, CASE WHEN is_missing THEN 'a record' ELSE 'none' END AS expected,
            end_ms <= {last} AS final
        FROM joined WHERE is_missing OR is_surplus
        UNION ALL
        SELECT record, what, CAST(found AS VARCHAR), CAST(expected AS VARCHAR), end_ms <= bound
        FROM (
            SELECT record, end_ms, {_unnested(numbers)}, unnest(found_numbers) AS found,
                unnest(expected_numbers) AS expected,
                unnest([{tolerances}]::DOUBLE[]) AS tolerance
            FROM joined WHERE NOT is_missing AND NOT is_surplus
        ) WHERE (found IS NULL) <> (expected IS NULL)
            OR abs(found - expected) > tolerance * greatest(abs(found), abs(expected))
        UNION ALL
        SELECT record, what, found, expected, end_ms <= bound
        FROM (
            SELECT record, end_ms, {_unnested(texts)}, unnest(found_texts) AS found,
                unnest(expected_texts) AS expected
            FROM joined WHERE NOT is_missing AND NOT is_surplus
        ) WHERE found IS DISTINCT FROM expected
        """

    def _first(self, ledger: Ledger) -> Iterator[Difference]:
        """Yield the first fields that differ: final ones first, sums before KPIs."""
        rows = ledger.sql.execute(f"""
            SELECT key_values, start_ms, what, found, expected, final
            FROM differing JOIN joined USING (record)
            ORDER BY final DESC, start_ms, key_values, what[:8] <> 'measures', what LIMIT {_FIRST}
        """).fetchall()
        for values, start, what, found, expected, final in rows:
            place = (self._scope.id, ",".join(values), f"{window_name(self._window)}:{start}")
            yield Difference(*place, what, str(found), str(expected), final)


def window_name(window: Window) -> str:
    """Return kind and size of a window as record keys write them."""
    return f"{window.kind}:{window.size_ms}"


def unknown_records(ledger: Ledger, made: Sequence[Expected]) -> Findings:
    """Return the records of scopes and windows that no definition names."""
    known = ", ".join(
        f"({sql_text(e.scope.id)}, {sql_text(e.window.kind)}, {e.window.size_ms})" for e in made
    )
    condition = f"(scope, kind, size_ms) NOT IN ({known})" if known else "TRUE"
    rows = ledger.sql.execute(
        f"SELECT scope, key_values, kind || ':' || size_ms || ':' || start_ms, count(*) OVER ()"
        f" FROM found WHERE {condition} ORDER BY ALL LIMIT {_FIRST}"
    ).fetchall()
    first = tuple(
        Difference(scope, ",".join(values), window, "record", "a record", "no such definition")
        for scope, values, window, _ in rows
    )
    return Findings(rows[0][3] if rows else 0, 0, first)


def compare_set_aside(ledger: Ledger, source: Input, late: str, dead: str) -> Iterator[Findings]:
    """Compare what the late and the dead-letter topic hold of an input with what they should."""
    for topic, outcome in ((late, OUTCOMES[2]), (dead, OUTCOMES[3])):
        ledger.sql.execute(f"""
            CREATE OR REPLACE TEMP VIEW set_aside_differences AS
            WITH expected AS (
                SELECT "partition", "position", coalesce(outcome.reason, 'EXPIRED') AS reason,
                    event.digest
                FROM {sql_name(source.contract + "_outcome")} AS outcome
                JOIN {sql_name(source.contract)} AS event USING ("partition", "position")
                WHERE outcome = {sql_text(outcome)}
            ), found AS (
                SELECT "partition", "position", any_value(reason) AS reason,
                    any_value(digest) AS digest, count(*) AS times
                FROM set_aside
                WHERE set_aside = {sql_text(topic)} AND "topic" = {sql_text(source.topic)}
                    AND "position" < coalesce((
                        SELECT max("position") + 1 FROM {sql_name(source.contract)} AS event
                        WHERE event."partition" = set_aside."partition"
                    ), 0)
                GROUP BY "partition", "position"
            )
            SELECT "partition", "position", CASE
                    WHEN times IS NULL THEN 'none'
                    WHEN times > 1 THEN times || ' times'
                    WHEN found.reason = expected.reason THEN 'other bytes'
                    ELSE found.reason END AS found,
                coalesce(expected.reason, 'none') AS expected
            FROM expected FULL JOIN found USING ("partition", "position")
            WHERE coalesce(times, 0) <> 1
                OR found.reason IS DISTINCT FROM expected.reason
                OR found.digest <> expected.digest
        """)
        rows = ledger.sql.execute(
            f"SELECT *, count(*) OVER () FROM set_aside_differences ORDER BY ALL LIMIT {_FIRST}"
        ).fetchall()
        first = tuple(
            Difference(topic, f"{source.topic}-{partition}@{position}", "", "record", found, wanted)
            for partition, position, found, wanted, _ in rows
        )
        yield Findings(rows[0][4] if rows else 0, 0, first)


def _aligned(names: str, values: str, wanted: Sequence[str]) -> str:
    """Return the SQL of a list of values in the order of the wanted names, null for a missing one.

    Records of one scope name the same things in the same order, so there is seldom a search.
    """
    listed = f"[{', '.join(map(sql_text, wanted))}]::VARCHAR[]"
    searched = (
        f"list_transform({listed}, lambda name: found.{values}[list_position(found.{names}, name)])"
    )
    return f"(CASE WHEN found.{names} = {listed} THEN found.{values} ELSE {searched} END)"


def _unnested(checks: Sequence[_Check]) -> str:
    names = ", ".join(sql_text(each.what) for each in checks)
    bounds = ", ".join(str(each.bound_ms) for each in checks)
    return f"unnest([{names}]::VARCHAR[]) AS what, unnest([{bounds}]::BIGINT[]) AS bound"


def _status(bound: int) -> str:
    return f"CASE WHEN expected.end_ms <= {bound} THEN 'FINAL' ELSE 'PROVISIONAL' END"


def _record_key(scope: Scope, window: Window) -> str:
    """Return the SQL of the record key, before characters of the values are percent-encoded."""
    values = " || ',' || ".join(f"expected.k{i}" for i in range(len(scope.key))) or "''"
    head, tail = sql_text(scope.id + "|"), sql_text(f"|{window_name(window)}|")
    return f"{head} || {values} || {tail} || expected.start_ms"
