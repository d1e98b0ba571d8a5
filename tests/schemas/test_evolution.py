"""Records of older and newer writers, read as the newest version of their contract."""

import copy
import io
import json
from uuid import UUID

import fastavro
import pytest

from schemas.codec import Codec
from schemas.contract import load_contract
from schemas.errors import Reason, UnknownSchema
from schemas.headers import prefix
from tests.schemas.support import TOPIC_OF, codec, record


class OneForeignSchema:
    """A registry that knows our newest versions and one other schema, under id 7."""

    def __init__(self, foreign):
        self._foreign = json.dumps(foreign)

    def schema_id(self, contract: str, topic: str) -> int:
        return 1

    def schema(self, key: int | UUID) -> str:
        if key != 7:
            raise UnknownSchema(f"schema {key}: unknown")
        return self._foreign


def schema(contract, drop=(), **types):
    """Return a contract's schema without some fields and with other types for others."""
    changed = copy.deepcopy(load_contract(contract).schema)
    changed["fields"] = [
        {"name": f["name"], "type": types[f["name"]]} if f["name"] in types else f
        for f in changed["fields"]
        if f["name"] not in drop
    ]
    return changed


def read(contract, foreign, *records):
    """Return what a batch gives: one record of ours between those of the foreign writer."""
    reader = Codec(contract, OneForeignSchema(foreign), TOPIC_OF[contract])
    example = {"interaction": "answered", "evaluation": "submitted"}[contract]
    ours = prefix(1) + codec(contract).encode(record(contract, example))[5:]
    values = [ours]
    for value in records:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema(copy.deepcopy(foreign)), value)
        values.append(prefix(7) + out.getvalue())
    decoded = reader.columns([*values, ours], [])
    if not decoded.rejected:
        assert [record(contract, example)] * 2 == decoded.frame[[0, -1]].to_dicts()
        assert [reader.decode(v) for v in values[1:]] == decoded.frame[1:-1].to_dicts()
    return decoded


def test_fields_that_an_older_writer_lacked_take_their_defaults():
    """A reader fills in what was added since, an array with a default too."""
    older = schema("evaluation", drop=("version", "items", "restated_time", "team_id"))
    sound = record("evaluation", "submitted")

    decoded = read("evaluation", older, sound)

    filled = sound | {"version": 1, "items": [], "restated_time": None, "team_id": None}
    assert filled == decoded.frame.row(1, named=True)


def test_fields_that_a_newer_writer_added_are_passed_over():
    """An older reader reads newer records as far as it knows them."""
    newer = schema("interaction")
    newer["fields"].insert(0, {"name": "language", "type": "string"})

    decoded = read("interaction", newer, record("interaction", "answered") | {"language": "pt"})

    assert record("interaction", "answered") == decoded.frame.row(1, named=True)


def test_a_narrower_type_of_an_older_writer_is_widened():
    """An int where a double is read today, and a value that could not yet be null."""
    older = schema("evaluation", score_percent="int", team_id="string")

    decoded = read("evaluation", older, record("evaluation", "submitted", score_percent=70))

    assert record("evaluation", "submitted") == decoded.frame.row(1, named=True)


def test_items_of_an_older_form_are_resolved_one_by_one():
    """Where elements of an array differ, records are read singly, with the same result."""
    older = schema("evaluation")
    items = next(f for f in older["fields"] if f["name"] == "items")["type"]["items"]
    items["fields"] = [f for f in items["fields"] if f["name"] != "root_cause"]
    sound = record("evaluation", "submitted")

    decoded = read("evaluation", older, sound)

    bare = [item | {"root_cause": None} for item in sound["items"]]
    assert sound | {"items": bare} == decoded.frame.row(1, named=True)


def test_a_symbol_that_we_do_not_know_is_undecodable_and_its_neighbours_are_not():
    """A newer writer's enum may hold more; only records that use it are set aside."""
    symbols = {"type": "enum", "name": "Handler", "symbols": ["HUMAN", "BOT", "PARTNER"]}
    newer = schema("interaction", handler=symbols)
    sound = record("interaction", "answered")

    decoded = read("interaction", newer, sound, sound | {"handler": "PARTNER"})

    assert [0, 1, 3] == decoded.index.tolist()
    assert [(2, Reason.UNDECODABLE)] == [(r.index, r.reason) for r in decoded.rejected]


@pytest.mark.parametrize(
    ("foreign", "problem"),
    [
        (schema("survey"), "schema of Survey, expected of Interaction"),
        (schema("interaction", drop=("queue_id",)), "schema without interaction.queue_id"),
        ("string", "schema of another form than interaction"),
        ({"type": "record"}, "schema of another form than interaction"),
    ],
)
def test_a_schema_that_cannot_be_read_as_the_contract_is_unknown(foreign, problem):
    """A registry may hold schemas that are none of ours."""
    reader = Codec("interaction", OneForeignSchema(foreign), TOPIC_OF["interaction"])

    decoded = reader.columns([prefix(7) + b"1234"], [])

    assert [Reason.UNKNOWN_SCHEMA] == [r.reason for r in decoded.rejected]
    assert decoded.rejected[0].message.startswith(problem)


def test_a_batch_of_one_older_writer_keeps_its_order():
    """A codec that meets an older writer keeps reading it, alone or beside the newest."""
    older = schema("interaction", drop=("recording_ref",))
    sound = [record("interaction", "answered") | {"leg": leg} for leg in (3, 1, 2)]

    decoded = read("interaction", older, *sound)

    assert [1, 3, 1, 2, 1] == decoded.frame["leg"].to_list()
