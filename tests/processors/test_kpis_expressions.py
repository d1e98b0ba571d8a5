"""Measures as SQL: three-valued logic, and the same numbers in Polars and DuckDB."""

from itertools import product

import duckdb
import polars as pl
import pytest

from processors.kpis import Measure, compile_condition, load_registry
from processors.kpis.expressions import compile_expression, compile_sum
from schemas.contract import contract_schemas, load_contract
from tests.processors.kpi_events import REFERENCE_JOB, evaluations, interactions, shipped, surveys

WAITS = (None, 0, 5_000, 5_001, 20_000, 20_001)
EVENT_TYPES = (
    "OFFERED",
    "BLOCKED",
    "ANSWERED",
    "ABANDONED",
    "FLOWED_OUT",
    "MISSED",
    "TRANSFERRED",
    "COMPLETED",
    "LEFT_IVR",
)

FRAMES = {
    "interactions": interactions(
        *(
            {
                "event_type": event_type,
                "handler": handler,
                "queue_wait_ms": wait,
                "talk_ms": talk,
                "hold_ms": wait,
                "after_contact_work_ms": talk,
                "transfer_kind": transfer_kind,
            }
            for event_type, handler, wait, talk, transfer_kind in product(
                EVENT_TYPES, ("HUMAN", "BOT"), WAITS, (None, 0, 700_000), (None, "WARM", "QUEUE")
            )
        )
    ),
    "surveys": surveys(
        *(
            {
                "event_type": event_type,
                "csat": score,
                "nps": score,
                "ces": score,
                "resolved": resolved,
                "contacts_needed": needed,
            }
            for event_type, score, resolved, needed in product(
                ("INVITED", "ANSWERED"),
                (None, *range(11)),
                (None, True, False),
                (None, 1, 2),
            )
        )
    ),
    "evaluations": evaluations(
        *(
            {
                "status": status,
                "purpose": purpose,
                "evaluator_kind": kind,
                "auto_failed": auto_failed,
                "score_percent": score,
                "items": [
                    {
                        "question_id": "q",
                        "score": score / 100,
                        "max_score": maximum,
                        "applicable": auto_failed,
                    }
                    for maximum in (0.7, 1.0)
                ],
            }
            for status, purpose, kind, auto_failed, score in product(
                ("SUBMITTED", "DELETED"),
                ("REGULAR", "CALIBRATION", "SELF"),
                ("HUMAN", "AUTO"),
                (True, False),
                (0.0, 33.3333335, 66.6666665, 100.0),
            )
        )
    ),
}
FRAMES["evaluation_items"] = FRAMES["evaluations"]


def in_duckdb(prepared: pl.DataFrame, measure: Measure) -> list[int | None]:
    value = f"({measure.value})"
    if measure.precision != 1:
        value = f"CAST(round({value} * {measure.units_per_one}) AS BIGINT)"
    if measure.aggregate == "sum":
        value = f"COALESCE(CAST({value} AS BIGINT), 0)"
    with duckdb.connect() as connection:
        connection.register("events", prepared.to_arrow())
        return [row[0] for row in connection.sql(f"SELECT {value} FROM events").fetchall()]


@pytest.mark.parametrize("registry", [shipped(), load_registry(REFERENCE_JOB, contract_schemas())])
def test_every_shipped_measure_gives_the_same_in_polars_and_duckdb(registry):
    """Measures are SQL for two engines: null counts 0, true 1, doubles are rounded alike."""
    for measure in registry.measures.values():
        prepared = registry.prepare(measure.source, FRAMES[measure.source])
        column = prepared.select(measure.expression).to_series()

        assert (measure.id, pl.Int64) == (column.name, column.dtype)
        assert (measure.id, in_duckdb(prepared, measure)) == (measure.id, column.to_list())
        assert column.null_count() < len(column), measure.id
        assert column.drop_nulls().abs().sum() > 0, measure.id


def test_every_shipped_sample_gives_the_same_in_polars_and_duckdb():
    """A condition that is null keeps nothing."""
    for sample in shipped().samples.values():
        prepared = shipped().prepare(sample.source, FRAMES[sample.source])
        with duckdb.connect() as connection:
            connection.register("events", prepared.to_arrow())
            kept = connection.sql(f"SELECT COALESCE({sample.where}, FALSE) FROM events").fetchall()

        assert [row[0] for row in kept] == prepared.select(sample.expression).to_series().to_list()
        assert any(row[0] for row in kept), sample.id


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("talk_ms > 5", [0, 1, 0]),
        ("NOT (talk_ms > 5)", [1, 0, 0]),
        ("talk_ms > 5 OR queue_id = 'a'", [1, 1, 0]),
        ("talk_ms > 5 AND queue_id = 'a'", [0, 0, 0]),
        ("talk_ms <> 5", [0, 1, 0]),
        ("queue_id IN ('a', 'b')", [1, 0, 1]),
        ("queue_id NOT IN ('a', 'b')", [0, 0, 0]),
        ("talk_ms - 7", [-2, 2, 0]),
        ("CASE WHEN talk_ms > 5 THEN 1 ELSE 2 END", [2, 1, 2]),
        ("LEAST(talk_ms, 6)", [5, 6, 6]),
    ],
)
def test_null_follows_sql_and_counts_nothing(sql, expected):
    """What is unknown is neither true nor false, and a sum takes it as 0."""
    frame = interactions(
        {"talk_ms": 5, "queue_id": "a"}, {"talk_ms": 9, "queue_id": None}, {"queue_id": "b"}
    )
    measure = compile_sum(sql, frame.schema, None)

    assert expected == frame.select(measure).to_series().to_list()
    with duckdb.connect() as connection:
        connection.register("events", frame.drop("event_time").to_arrow())
        rows = connection.sql(f"SELECT COALESCE(CAST({sql} AS BIGINT), 0) FROM events").fetchall()
    assert expected == [row[0] for row in rows]


def test_a_number_that_is_none_counts_nothing():
    """Not-a-number and infinity are 0; one strange event must not stop a stream."""
    frame = evaluations(*({"score_percent": s} for s in (float("nan"), float("inf"), 1.25)))
    measure = compile_sum("score_percent", frame.schema, 0.1)

    assert [0, 0, 13] == frame.select(measure).to_series().to_list()


def test_a_condition_is_never_null():
    """What filters events says yes or no to each."""
    frame = surveys({"csat": 1}, {})
    condition = compile_condition("csat < 3", frame.schema)

    assert [True, False] == frame.select(condition).to_series().to_list()


def test_words_in_texts_and_in_casts_are_no_functions():
    """Only what is called is a call."""
    schema = load_contract("interaction").columns
    sql = "CAST(talk_ms AS DOUBLE) > 1 AND queue_id <> 'sum(x)' AND (leg) IN (1, 2)"

    assert pl.Boolean == compile_expression(sql, schema)[1]


def test_an_evaluation_without_items_has_no_item_rows():
    """Items become rows beside their evaluation's columns; other columns stay as they are."""
    item = {"section_id": "s", "question_id": "q", "score": 1.0, "max_score": 2.0}
    frame = evaluations({"items": []}, {"items": [item, item | {"question_id": "r"}]})
    frame = frame.with_columns(index=pl.Series([0, 1]))
    prepared = shipped().prepare("evaluation_items", frame)

    assert [(1, "q", 1.0), (1, "r", 1.0)] == (
        prepared.select("index", "question_id", "score").rows()
    )
    assert "items" not in prepared.columns
