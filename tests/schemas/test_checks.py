"""Predicates mean the same to polars, which decides, and to DuckDB, which verifies."""

import duckdb
import polars as pl
import pytest

from schemas.checks import Checks
from schemas.contract import contract_names, load_contract
from tests.schemas.support import codec, examples, record


def broken_in_duckdb(contract: str, frame: pl.DataFrame) -> set[int]:
    """Return the rows that break a predicate, as DuckDB sees it."""
    con = duckdb.connect()
    con.register("records", frame.with_row_index("row").to_arrow())
    found = set()
    for check in load_contract(contract).checks:
        source = "records"
        if check.each:
            source = (
                f'(SELECT row, e.* FROM (SELECT row, unnest("{check.each}") AS e FROM records))'
            )
        query = f"SELECT DISTINCT row FROM {source} WHERE NOT ({check.check})"
        found |= {row for (row,) in con.execute(query).fetchall()}
    return found


def frame_of(contract: str, records: list[dict]) -> pl.DataFrame:
    return pl.DataFrame(records, schema=load_contract(contract).columns, orient="row")


@pytest.mark.parametrize("contract", contract_names())
def test_examples_keep_every_predicate_in_both_engines(contract):
    """What polars lets pass, DuckDB lets pass."""
    frame = frame_of(contract, [codec(contract).record(e) for e in examples(contract).values()])

    assert {} == Checks(load_contract(contract)).violations(frame)
    assert set() == broken_in_duckdb(contract, frame)


NAN = float("nan")
ITEM = record("evaluation", "submitted")["items"][0]
BROKEN = {
    "interaction": (
        "answered",
        [
            *({"event_id": ""}, {"leg": 0}, {"queue_wait_ms": -1}, {"queue_wait_ms": None}),
            *({"hold_count": -1}, {"offered_time": 4_000_000_000_000}, {"agent_id": ""}),
        ],
    ),
    "survey": (
        "answered",
        [{"csat": 0}, {"csat": 6}, {"nps": -1}, {"nps": 11}, {"ces": 8}, {"contacts_needed": 0}],
    ),
    "evaluation": (
        "submitted",
        [{"score_percent": 100.5}, {"score_percent": NAN}, {"form_version": 0}]
        + [{"items": [ITEM, ITEM | change]} for change in ({"score": -1.0}, {"weight": NAN})]
        + [{"items": [ITEM | {"question_id": ""}]}],
    ),
}


@pytest.mark.parametrize("contract", BROKEN)
def test_both_engines_find_the_same_broken_rows(contract):
    """Each of these breaks one predicate, between rows that break none."""
    name, changes = BROKEN[contract]
    rows = [record(contract, name, **c) for change in changes for c in ({}, change)]
    frame = frame_of(contract, rows)

    broken = set(range(1, len(rows), 2))
    assert broken == Checks(load_contract(contract)).violations(frame).keys()
    assert broken == broken_in_duckdb(contract, frame)
