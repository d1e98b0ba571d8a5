"""What rules saw: the figures of a key and window as they were at given input positions, in SQL.

Rules see less than KPI records do. An event is in a figure if it came before the watermark of its
own partition had passed the pane that holds it, and before the position that the figure names; one
that was restated later is taken back under the same condition.
"""

# ruff: noqa: S608 - every name in the SQL comes from the contracts and the registry.

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from streams.verify.definitions import (
    SOURCE_CONTRACTS,
    Definitions,
    Kpi,
    RuleText,
    Scope,
)
from streams.verify.ledger import Input, Ledger, sql_name, sql_text
from streams.verify.recompute import floored, formula, measure_value, prepared, quotient

_BEFORE_ALL_MS = -(2**62)
_IDS = ("event_id", "event_time", "interaction_id", "evaluation_id")
_TEXT = re.compile(r"k\d+|topic|.+_id")
_TOLD = ("event_type", "queue_id", "agent_id", "team_id", "question_id", "score", "max_score")


@dataclass(frozen=True, slots=True)
class Position:
    """A place of the input up to which question ``number`` looks, exclusive.

    Events from before ``from_ms`` are not looked at.
    """

    number: int
    topic: str
    partition: int
    position: int
    from_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A KPI of one key of a scope in ``[start_ms, end_ms)``, and events to be found there.

    ``number`` is that of the positions up to which it looks.
    """

    number: int
    scope: Scope
    kpi: Kpi
    key: tuple[str, ...]
    start_ms: int
    end_ms: int
    interaction_ids: tuple[str, ...] = ()
    evaluation_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the input: where it lies, its ids and time, and what else may be told of it."""

    topic: str
    partition: int
    position: int
    event_id: str
    event_time: int
    interaction_id: str
    evaluation_id: str | None
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """Value (None where there is none) and n of a KPI, and the events that were found."""

    value: float | None
    n: int
    events: tuple[Event, ...]


class FiguresOfRules:
    """Answers questions from a decided ledger; each table is made once, whatever is asked."""

    def __init__(self, ledger: Ledger, definitions: Definitions) -> None:
        self._sql = ledger.sql
        self._definitions = definitions
        self._inputs = {each.contract: each for each in ledger.inputs}
        for each in ledger.inputs:
            self._sql.execute(_seen(each))

    def answers(self, questions: Sequence[Question], positions: Iterable[Position]) -> list[Answer]:
        """Return the answer to each question, in their order."""
        self._create_positions(positions)
        answers: dict[int, Answer] = {}
        for scope in {question.scope.id: question.scope for question in questions}.values():
            asked = [i for i, question in enumerate(questions) if question.scope.id == scope.id]
            answers |= self._of_scope(scope, questions, asked)
        return [answers[i] for i in range(len(questions))]

    def matching(self, rule: RuleText, places: Sequence[Position]) -> list[Event]:
        """Return the rows just before the positions that were counted and meet a rule's condition.

        Raises ValueError for a rule over windows.
        """
        if rule.source is None or rule.where is None:
            raise ValueError("rule: no source and condition, expected a rule over single events")
        contract = SOURCE_CONTRACTS[rule.source]
        topic = self._inputs[contract].topic
        before = [(p.partition, p.position - 1) for p in places if p.topic == topic]
        _create(self._sql, "before", ("partition", "position"), before)
        records = f"""
            SELECT "partition", "position", "position" AS counted_at
            FROM {sql_name(contract + "_outcome")}
            SEMI JOIN before USING ("partition", "position") WHERE outcome = 'applied'
        """
        columns = self._event_columns(rule.source)
        rows = self._sql.execute(
            f"SELECT {columns} FROM ({prepared(rule.source, self._definitions, records)}) AS event"
            f" WHERE ({rule.where}) ORDER BY ALL"
        ).fetchall()
        self._sql.execute("DROP TABLE before")
        return [self._event(rule.source, row) for row in rows]

    def _create_positions(self, positions: Iterable[Position]) -> None:
        rows = [(p.number, p.topic, p.partition, p.position, p.from_ms) for p in positions]
        names = ("number", "topic", "partition", "position", "from_ms")
        _create(self._sql, "positions", names, rows)

    def _of_scope(
        self, scope: Scope, questions: Sequence[Question], asked: Sequence[int]
    ) -> dict[int, Answer]:
        rows = [(i, q.number, q.start_ms, q.end_ms, *q.key) for i in asked for q in [questions[i]]]
        keys = [f"k{i}" for i in range(len(scope.key))]
        _create(self._sql, "asked", ("question", "number", "start_ms", "end_ms", *keys), rows)
        kpis = {questions[i].kpi.id: questions[i].kpi for i in asked}
        for source in scope.sources:
            self._create_matched(scope, source, kpis.values())
        values = self._values(scope, kpis)
        events = self._events(scope, questions, asked)
        for source in scope.sources:
            self._sql.execute(f"DROP TABLE {sql_name('matched:' + source)}")
        return {i: Answer(*values[i][questions[i].kpi.id], tuple(events[i])) for i in asked}

    def _create_matched(self, scope: Scope, source: str, kpis: Iterable[Kpi]) -> None:
        """Create the table of a source's rows that each question sees, with its measures."""
        contract = SOURCE_CONTRACTS[source]
        topic = self._inputs[contract].topic
        counted = {name for kpi in kpis for name in kpi.measures}
        measures = [m for m in scope.sums if m.source == source and m.id in counted]
        names = "".join(f", {sql_name(each.id)}" for each in measures)
        sums = "".join(f", {measure_value(each)} AS {sql_name(each.id)}" for each in measures)
        pane = floored("event_time", scope.pane_ms)
        records = (
            'SELECT "partition", of_position AS "position", "position" AS counted_at, sign,'
            f" before_ms FROM {sql_name(contract + '_seen')}"
        )
        keys = "".join(
            f" AND coalesce(CAST(event.{sql_name(name)} AS VARCHAR), '') = asked.k{i}"
            for i, name in enumerate(scope.key)
        )
        self._sql.execute(f"""
            CREATE TABLE {sql_name("matched:" + source)} AS
            SELECT question, sign, {self._event_columns(source)}{names}
            FROM (SELECT *{sums} FROM ({prepared(source, self._definitions, records)})) AS event
            JOIN asked ON event_time >= start_ms AND event_time < end_ms{keys}
            JOIN positions ON positions.number = asked.number
                AND positions."topic" = {sql_text(topic)}
                AND positions."partition" = event."partition" AND counted_at < positions."position"
            WHERE before_ms < {pane} + {scope.pane_ms}
                AND {pane} >= coalesce(from_ms, {_BEFORE_ALL_MS})
        """)

    def _event_columns(self, source: str) -> str:
        known = self._definitions.columns[source]
        ids = [f"event.{name}" if name in known else f"NULL AS {name}" for name in _IDS]
        told = [f"event.{name}" for name in _TOLD if name in known]
        return ", ".join(['event."partition"', "event.counted_at", *ids, *told])

    def _values(
        self, scope: Scope, kpis: Mapping[str, Kpi]
    ) -> dict[int, dict[str, tuple[float | None, int]]]:
        measures = self._definitions.measures
        names = [m.id for m in scope.sums if any(m.id in kpi.measures for kpi in kpis.values())]
        parts = []
        for source in scope.sources:
            own = [name for name in names if measures[name].source == source]
            sums = "".join(f", sum(sign * {sql_name(n)}) AS {sql_name(n)}" for n in own)
            table = sql_name("matched:" + source)
            parts.append(f"SELECT question{sums} FROM {table} GROUP BY question")
        totals = "".join(
            f", CAST(coalesce(sum({sql_name(n)}), 0) AS BIGINT) AS {sql_name(n)}" for n in names
        )
        columns = [
            f"{quotient(kpi, measures)}, CAST({formula(kpi.n or '1')} AS BIGINT)"
            for kpi in kpis.values()
        ]
        rows = self._sql.execute(f"""
            SELECT question, {", ".join(columns)} FROM (
                SELECT question{totals}
                FROM asked LEFT JOIN ({" UNION ALL BY NAME ".join(parts)}) USING (question)
                GROUP BY question
            )
        """).fetchall()
        return {
            question: {kpi: (figures[2 * i], figures[2 * i + 1]) for i, kpi in enumerate(kpis)}
            for question, *figures in rows
        }

    def _events(
        self, scope: Scope, questions: Sequence[Question], asked: Sequence[int]
    ) -> dict[int, list[Event]]:
        """Return the events that the questions name, as far as the questions see them.

        They are looked for among the events that the KPI counts, then among the others.
        """
        ids = [(i, each) for i in asked for each in questions[i].interaction_ids]
        _create(self._sql, "named_interaction", ("question", "interaction_id"), ids)
        ids = [(i, each) for i in asked for each in questions[i].evaluation_ids]
        _create(self._sql, "named_evaluation", ("question", "evaluation_id"), ids)
        found: dict[int, dict[str, list[Event]]] = {i: {} for i in asked}
        for source in scope.sources:
            for question, *row in self._named(source):
                found[question].setdefault(source, []).append(self._event(source, row))
        return {i: _chosen(questions[i], by_source) for i, by_source in found.items()}

    def _named(self, source: str) -> list[tuple[Any, ...]]:
        own = (
            "evaluation" if "evaluation_id" in self._definitions.columns[source] else "interaction"
        )
        return self._sql.execute(f"""
            SELECT question, {self._event_columns(source)}
            FROM {sql_name("matched:" + source)} AS event
            SEMI JOIN named_{own} USING (question, {own}_id)
            WHERE sign > 0 ORDER BY event_time, "partition", counted_at
        """).fetchall()

    def _event(self, source: str, row: Sequence[Any]) -> Event:
        known = self._definitions.columns[source]
        told = [name for name in _TOLD if name in known]
        topic = self._inputs[SOURCE_CONTRACTS[source]].topic
        partition, position, event_id, event_time, interaction_id, evaluation_id, *fields = row
        ids = (event_id, event_time, interaction_id, evaluation_id)
        return Event(topic, partition, position, *ids, dict(zip(told, fields, strict=True)))


def _chosen(question: Question, by_source: Mapping[str, list[Event]]) -> list[Event]:
    own = {m.source for m in question.scope.sums if m.id in question.kpi.measures}
    chosen: list[Event] = []
    for source in sorted(by_source, key=lambda source: source not in own):
        known = {event.interaction_id for event in chosen}
        chosen += [event for event in by_source[source] if event.interaction_id not in known]
    return chosen


def _seen(source: Input) -> str:
    """Return the SQL of what counted, and of what was taken back: one row each, with its sign.

    `before_ms` is the watermark of the partition just before the record that did either.
    """
    timed, outcome = sql_name(source.contract + "_timed"), sql_name(source.contract + "_outcome")
    taken_back = """
        UNION ALL
        SELECT "partition", "position", earlier, -1, before_ms
        FROM applied WHERE earlier IS NOT NULL
    """
    return f"""
    CREATE TABLE {sql_name(source.contract + "_seen")} AS
    WITH timed AS (
        SELECT *, coalesce(max(CASE WHEN reason IS NULL THEN event_time END) OVER (
            PARTITION BY "partition" ORDER BY "position", is_record
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) - {source.disorder_ms}, {_BEFORE_ALL_MS}) AS before_ms
        FROM {timed}
    ), applied AS (
        SELECT "partition", "position", before_ms, lag("position") OVER (
            PARTITION BY "partition", event_id ORDER BY "position"
        ) AS earlier
        FROM timed SEMI JOIN (SELECT * FROM {outcome} WHERE outcome = 'applied') AS applied
            USING ("partition", "position")
        WHERE is_record
    )
    SELECT "partition", "position", "position" AS of_position, 1 AS sign, before_ms FROM applied
    {taken_back if source.restates else ""}
    """


def _create(sql: Any, table: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Create a table of whole numbers and, by their names, of texts; or replace it."""
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    made = pa.table(
        {
            name: pa.array(values, pa.string() if _TEXT.fullmatch(name) else pa.int64())
            for name, values in zip(names, columns, strict=True)
        }
    )
    sql.register("made", made)
    sql.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT * FROM made")
    sql.unregister("made")
