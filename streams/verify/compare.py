"""The recomputed against the published, field by field."""

# ruff: noqa: S608 - every name in the SQL comes from the contracts and the registry.

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from streams.verify.definitions import SOURCE_CONTRACTS, Kpi, Measure, Scope, Window
from streams.verify.ledger import OUTCOMES, Input, Ledger, sql_name, sql_text
from streams.verify.recompute import Expected, units_per_one
from streams.verify.report import Compared, Difference, Findings

RELATIVE_TOLERANCE = 1e-9
"""Two values are equal if they differ by at most this share of the greater."""

NEVER_MS = -(2**62)
"""A bound before every window's end: nothing is final."""

_FIRST = 20


@dataclass(frozen=True, slots=True)
class _Check:
    """One field of a record: SQL for both sides, and the latest window end at which it is final."""

    what: str
    expected: str
    found: str
    differs: str
    bound_ms: int


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
    """Compares the records of one scope and window with those found."""

    def __init__(
        self,
        expected: Expected,
        measures: Mapping[str, Measure],
        times: Mapping[str, SourceTime],
    ) -> None:
        self._expected = expected
        self._measures = measures
        self._times = times

    def run(self, ledger: Ledger) -> tuple[Compared, Findings]:
        """Return the counts and the first differences."""
        checks = list(self._checks())
        scope, window = self._expected.scope, self._expected.window
        ledger.sql.execute(f"CREATE TABLE joined AS {self._joined(checks)}")
        totals = "count(*), " + ", ".join(
            f"count(*) FILTER ({column})"
            for column in ("end_ms <= all_final_ms", "final_differs", "provisional_differs")
        )
        row = ledger.sql.execute(f"SELECT {totals} FROM joined").fetchone()
        assert row is not None
        records, final_records, final, provisional = row
        first = list(self._details(ledger, checks)) if final or provisional else []
        ledger.sql.execute("DROP TABLE joined")
        compared = Compared(
            scope.id,
            window_name(window),
            records,
            final_records,
            self._final_kpis(ledger),
            final,
            provisional,
        )
        return compared, Findings(final, provisional, tuple(first))

    def _final_kpis(self, ledger: Ledger) -> int:
        ends = ledger.sql.execute(
            f"SELECT end_ms, count(*) FROM {self._expected.table} GROUP BY end_ms"
        ).fetchall()
        bounds = [self._bound(kpi.measures) for kpi in self._expected.scope.kpis]
        return sum(count * sum(end <= bound for bound in bounds) for end, count in ends)

    def _bound(self, names: Iterable[str]) -> int:
        contracts = {SOURCE_CONTRACTS[self._measures[name].source] for name in names}
        scope = {SOURCE_CONTRACTS[source] for source in self._expected.scope.sources}
        return final_until(contracts, scope, self._times)

    def _checks(self) -> Iterator[_Check]:
        scope = self._expected.scope
        for measure in scope.sums:
            yield self._measure_check(measure)
        for kpi in scope.kpis:
            yield from self._kpi_checks(kpi)
        end = "expected.end_ms IS DISTINCT FROM found.end_ms"
        always = -NEVER_MS
        yield _Check("window.end_time", "expected.end_ms", "found.end_ms", end, always)
        key, found = _record_key(scope, self._expected.window), "url_decode(found.record_key)"
        yield _Check("record key", key, found, f"{key} IS DISTINCT FROM {found}", always)
        yield self._status_check("status", "found.status", self._all_final())

    def _measure_check(self, measure: Measure) -> _Check:
        expected = f"expected.{sql_name(measure.id)} / {float(units_per_one(measure))!r}"
        found = _listed("measure_names", "measure_values", measure.id)
        differs = _differs(expected, found)
        return _Check(f"measures.{measure.id}", expected, found, differs, self._bound([measure.id]))

    def _kpi_checks(self, kpi: Kpi) -> Iterator[_Check]:
        bound = self._bound(kpi.measures)

        def check(field: str, expected: str, column: str, *, is_number: bool = False) -> _Check:
            found = _listed("kpi_ids", column, kpi.id)
            differs = (
                _differs(expected, found)
                if is_number
                else f"({expected}) IS DISTINCT FROM ({found})"
            )
            return _Check(f"kpis.{kpi.id}.{field}", expected, found, differs, bound)

        yield check("value", f"expected.{sql_name('v:' + kpi.id)}", "kpi_values", is_number=True)
        yield check("n", f"expected.{sql_name('n:' + kpi.id)}", "kpi_ns")
        yield check("state", f"expected.{sql_name('s:' + kpi.id)}", "kpi_states")
        yield check("definition_version", str(kpi.version), "kpi_versions")
        status = _listed("kpi_ids", "kpi_statuses", kpi.id)
        yield self._status_check(f"kpis.{kpi.id}.status", status, bound)

    def _all_final(self) -> int:
        """Return the latest end of a window all of whose KPIs are final."""
        kpis = self._expected.scope.kpis
        return min((self._bound(kpi.measures) for kpi in kpis), default=NEVER_MS)

    @staticmethod
    def _status_check(what: str, found: str, bound: int) -> _Check:
        final = f"expected.end_ms <= {bound}"
        wanted = f"CASE WHEN {final} THEN 'FINAL' ELSE 'PROVISIONAL' END"
        # What was final and changed all the same is called REVISED.
        differs = f"(({found}) IN ('FINAL', 'REVISED')) IS DISTINCT FROM ({final})"
        return _Check(what, wanted, found, differs, bound)

    def _joined(self, checks: Sequence[_Check]) -> str:
        """Return the SQL of all records of either side, with whether they differ."""
        scope, window = self._expected.scope, self._expected.window
        values = ", ".join(f"expected.k{i}" for i in range(len(scope.key)))
        last = max((self._bound(kpi.measures) for kpi in scope.kpis), default=NEVER_MS)
        end = "coalesce(expected.end_ms, found.end_ms)"
        absent = "(found.record_key IS NULL OR expected.start_ms IS NULL)"
        final = " OR ".join(f"({end} <= {c.bound_ms} AND {c.differs})" for c in checks)
        provisional = " OR ".join(f"({end} > {c.bound_ms} AND {c.differs})" for c in checks)
        return f"""
        SELECT expected, found, {end} AS end_ms, {self._all_final()} AS all_final_ms,
            ({absent} AND {end} <= {last}) OR (NOT {absent} AND ({final})) AS final_differs,
            ({absent} AND {end} > {last}) OR (NOT {absent} AND ({provisional}))
                AS provisional_differs
        FROM {self._expected.table} AS expected
        FULL JOIN (
            SELECT * FROM found WHERE scope = {sql_text(scope.id)}
            AND kind = {sql_text(window.kind)} AND size_ms = {window.size_ms}
        ) AS found
        ON [{values}]::VARCHAR[] = found.key_values AND expected.start_ms = found.start_ms
        """

    def _details(self, ledger: Ledger, checks: Sequence[_Check]) -> Iterator[Difference]:
        """Yield the fields that differ in the first differing records."""
        scope, window = self._expected.scope, self._expected.window
        key = ", ".join(f"expected.k{i}" for i in range(len(scope.key)))
        fields = ", ".join(
            f"{{'what': {sql_text(c.what)}, 'found': CAST({c.found} AS VARCHAR),"
            f" 'expected': CAST({c.expected} AS VARCHAR), 'differs': {c.differs},"
            f" 'final': end_ms <= {c.bound_ms}}}"
            for c in checks
        )
        rows = ledger.sql.execute(f"""
            SELECT coalesce(found.key_values, [{key}]::VARCHAR[]),
                coalesce(expected.start_ms, found.start_ms) AS start_ms, final_differs,
                found.record_key IS NULL, expected.start_ms IS NULL,
                list_filter([{fields}], lambda each: each.differs)
            FROM joined WHERE final_differs OR provisional_differs
            ORDER BY final_differs DESC, 2, 1 LIMIT {_FIRST}
        """).fetchall()
        for values, start, final, is_missing, is_surplus, differing in rows:
            where = (scope.id, ",".join(values), f"{window_name(window)}:{start}")
            if is_missing:
                yield Difference(*where, "record", "none", "a record", final)
            elif is_surplus:
                yield Difference(*where, "record", "a record", "none", final)
            else:
                for each in differing:
                    sides = (str(each["found"]), str(each["expected"]))
                    yield Difference(*where, each["what"], *sides, each["final"])


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
            WHERE times IS DISTINCT FROM 1 OR found.reason IS DISTINCT FROM expected.reason
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


def _listed(names: str, values: str, name: str) -> str:
    """Return the SQL for the value that stands where the name stands in a list of names."""
    return f"found.{values}[list_position(found.{names}, {sql_text(name)})]"


def _differs(expected: str, found: str) -> str:
    return (
        f"(CASE WHEN ({expected}) IS NULL OR ({found}) IS NULL"
        f" THEN (({expected}) IS NULL) <> (({found}) IS NULL)"
        f" ELSE abs(({expected}) - ({found})) > {RELATIVE_TOLERANCE!r}"
        f" * greatest(abs({expected}), abs({found})) END)"
    )


def _record_key(scope: Scope, window: Window) -> str:
    """Return the SQL of the record key, before characters of the values are percent-encoded."""
    values = " || ',' || ".join(f"expected.k{i}" for i in range(len(scope.key))) or "''"
    head, tail = sql_text(scope.id + "|"), sql_text(f"|{window_name(window)}|")
    return f"{head} || {values} || {tail} || expected.start_ms"
