"""Contracts evolve as their topics promise: the newest version against every released one."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse

from schemas.catalogue import COMPATIBILITIES, load_catalogue
from schemas.contract import contract_names, load_contract, wire

RELEASED = Path(__file__).parents[2] / "schemas" / "released"


def reads(reader: Any, writer: Any) -> list[str]:
    """Return why the reader cannot read the writer's records; nothing if it can."""
    checker = ReaderWriterCompatibilityChecker()
    result = checker.get_compatibility(parse(json.dumps(reader)), parse(json.dumps(writer)))
    if result.compatibility == SchemaCompatibilityType.compatible:
        return []
    return sorted(result.messages)


def breaks(compatibility: str, newest: Any, released: list[Any]) -> list[str]:
    """Return what the newest version breaks of its promise towards released ones, oldest first."""
    mode = compatibility.removesuffix("_TRANSITIVE")
    towards = released if mode != compatibility else released[-1:]
    backward = [p for old in towards if mode in ("BACKWARD", "FULL") for p in reads(newest, old)]
    forward = [p for old in towards if mode in ("FORWARD", "FULL") for p in reads(old, newest)]
    return backward + forward


PROMISES = [(t.contract, t.compatibility) for t in load_catalogue() if t.contract]


@pytest.mark.parametrize(("contract", "compatibility"), PROMISES)
def test_the_newest_version_keeps_its_topics_promise(contract, compatibility):
    """Inputs read every older record; KPI and action records are read by every older reader too."""
    files = sorted((RELEASED / contract).glob("*.avsc"), key=lambda path: int(path.stem))
    released = [wire(json.loads(path.read_text())) for path in files]

    assert [] == breaks(compatibility, wire(load_contract(contract).schema), released)


def test_every_contract_has_a_topic_and_a_promise():
    """No contract is left without a topic that says how it may evolve."""
    assert set(contract_names()) == {contract for contract, _ in PROMISES}
    assert {c for _, c in PROMISES} <= set(COMPATIBILITIES)
    assert {"BACKWARD_TRANSITIVE"} == {t.compatibility for t in load_catalogue().inputs}


def test_released_versions_are_numbered_from_one_without_gaps():
    """A released version is never taken away."""
    for directory in RELEASED.iterdir():
        numbers = sorted(int(path.stem) for path in directory.glob("*.avsc"))

        assert list(range(1, len(numbers) + 1)) == numbers


SURVEY = wire(load_contract("survey").schema)


def changed(**by_field: dict[str, Any] | None) -> dict[str, Any]:
    """Return the survey contract with fields added or changed; None takes one away."""
    schema = copy.deepcopy(SURVEY)
    fields = {f["name"]: f for f in schema["fields"]} | {
        name: change and {"name": name, **change} for name, change in by_field.items()
    }
    return schema | {"fields": [f for f in fields.values() if f]}


CHANGES = {
    "a new field with a default": (
        changed(language={"type": ["null", "string"], "default": None}),
        {"BACKWARD", "FORWARD", "FULL"},
    ),
    "a new field without a default": (changed(language={"type": "string"}), {"FORWARD"}),
    "a field taken away that had a default": (changed(csat=None), {"BACKWARD", "FORWARD", "FULL"}),
    "a field taken away that had none": (changed(survey_id=None), {"BACKWARD"}),
    "a field renamed": (changed(survey_id=None, form_id={"type": "string"}), set()),
    "a wider type": (
        changed(csat={"type": ["null", "long"], "default": None}),
        {"BACKWARD"},
    ),
    "a field that may now be null": (
        changed(interaction_id={"type": ["null", "string"], "default": None}),
        {"BACKWARD"},
    ),
    "a new enum symbol": (
        changed(
            event_type={
                "type": {
                    "type": "enum",
                    "name": "SurveyEventType",
                    "symbols": ["INVITED", "ANSWERED", "REMINDED"],
                }
            }
        ),
        {"BACKWARD"},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_allowed_exactly_where_readers_survive_it(name):
    """The check that guards our contracts tells harmless changes from harmful ones."""
    newest, allowed = CHANGES[name]

    kept = {m for m in ("BACKWARD", "FORWARD", "FULL") if not breaks(m, newest, [SURVEY])}

    assert allowed == kept


def test_a_transitive_promise_looks_at_every_released_version():
    """A field that came and went may not come back as another type."""
    older = changed(language={"type": ["null", "string"], "default": None})
    newest = changed(language={"type": ["null", "int"], "default": None})

    assert [] == breaks("BACKWARD", newest, [older, SURVEY])
    assert [] != breaks("BACKWARD_TRANSITIVE", newest, [older, SURVEY])
