"""Bytes to columns: what is kept, what is set aside, and with which reason."""

import io
import json
from typing import Any
from uuid import UUID

import fastavro
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import Decoded, Rejected
from schemas.contract import load_contract
from schemas.errors import ContractViolation, Reason, Undecodable, UnknownSchema
from schemas.headers import VALUE_SCHEMA_ID, guid_header, prefix
from schemas.registry import fingerprint
from tests.schemas.support import codec, new_codec, record

INTERACTIONS = codec("interaction")
GOOD = INTERACTIONS.encode(record("interaction", "answered"))
EVENT_TIME_MS = record("interaction", "answered")["event_time"]


def outcome(decoded: Decoded) -> tuple[list[int], list[Rejected]]:
    return decoded.index.tolist(), decoded.rejected


def read_singly(contract: str, value: bytes) -> list[Any]:
    """Return the one record, or the reason against it."""
    try:
        return [codec(contract).decode(value)]
    except (ContractViolation, Undecodable) as problem:
        return [problem.reason]


def test_an_empty_batch_has_all_columns_and_no_rows():
    """No values give an empty frame of the contract's columns."""
    decoded = INTERACTIONS.columns([], [])

    assert ([], []) == outcome(decoded)
    assert load_contract("interaction").columns == decoded.frame.schema


BAD = {
    "null": (None, Reason.UNDECODABLE, "Undecodable", "no value"),
    "empty": (b"", Reason.UNDECODABLE, "Undecodable", "empty value"),
    "unframed": (
        b'{"event_id": "1"}',
        Reason.UNDECODABLE,
        "Undecodable",
        "17 bytes without a schema, expected a zero byte, four of a schema id and a record, "
        "or a header with the schema",
    ),
    "only a prefix": (
        GOOD[:5],
        Reason.UNDECODABLE,
        "Undecodable",
        "5 bytes without a schema, expected a zero byte, four of a schema id and a record, "
        "or a header with the schema",
    ),
    "unknown id": (
        prefix(1) + GOOD[5:],
        Reason.UNKNOWN_SCHEMA,
        "UnknownSchema",
        "schema 1: not among the schema files",
    ),
    "another contract's id": (
        codec("survey").encode(record("survey", "answered")),
        Reason.UNKNOWN_SCHEMA,
        "UnknownSchema",
        "schema of Survey, expected of Interaction",
    ),
    "cut off": (GOOD[:-3], Reason.UNDECODABLE, "Undecodable", "EOFError: "),
    "left over": (
        GOOD + b"\0",
        Reason.UNDECODABLE,
        "Undecodable",
        "bytes left over after the record",
    ),
    "a record and its repetition": (
        GOOD + GOOD[5:],
        Reason.UNDECODABLE,
        "Undecodable",
        "bytes left over after the record",
    ),
    "negative wait": (
        INTERACTIONS.encode(record("interaction", "answered", queue_wait_ms=-1)),
        Reason.CONTRACT,
        "ContractViolation",
        "interaction.queue_wait_ms: -1, expected at least 0",
    ),
    "no id": (
        INTERACTIONS.encode(record("interaction", "answered", event_id="")),
        Reason.CONTRACT,
        "ContractViolation",
        "interaction.event_id: '', expected a non-empty string",
    ),
    "future": (
        INTERACTIONS.encode(record("interaction", "answered", event_time=EVENT_TIME_MS + 300_001)),
        Reason.FUTURE_TIME,
        "FutureTime",
        "interaction.event_time: 300001 ms after its arrival, expected at most 300000",
    ),
    "too large": (
        INTERACTIONS.encode(record("interaction", "answered", recording_ref="r" * 300_000)),
        Reason.TOO_LARGE,
        "TooLarge",
        "300121 bytes, expected at most 262144",
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("neighbours", [0, 1, 40])
def test_a_bad_record_is_set_aside_with_its_reason_and_its_neighbours_stay(name, neighbours):
    """One bad record costs its batch that record, whatever the place and the number of others."""
    value, *reason = BAD[name]
    values = [GOOD] * neighbours + [value] + [GOOD] * neighbours

    decoded = new_codec("interaction").columns(values, [EVENT_TIME_MS] * len(values))

    kept = [i for i in range(len(values)) if i != neighbours]
    assert (kept, [Rejected(neighbours, *reason)]) == outcome(decoded)
    assert [record("interaction", "answered")] * len(kept) == decoded.frame.to_dicts()


def test_many_bad_records_of_all_kinds_leave_the_good_ones_in_order():
    """Rows keep the order of the batch, and each value is a row or a rejection."""
    values = [v for value, *_ in BAD.values() for v in (GOOD, value)]

    decoded = new_codec("interaction").columns(values, [EVENT_TIME_MS] * len(values))

    assert list(range(0, len(values), 2)) == decoded.index.tolist()
    assert [Rejected(2 * i + 1, *b[1:]) for i, b in enumerate(BAD.values())] == decoded.rejected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["good", *BAD]), max_size=8), st.integers(0, 8))
def test_what_came_of_some_values_is_as_if_there_had_been_no_others(names, cut):
    """Several partitions are decoded at once, and each is told of its own records alone."""
    values = [GOOD if name == "good" else BAD[name][0] for name in names]
    cut = min(cut, len(values))
    together = INTERACTIONS.columns(values, [])

    for start, stop in ((0, cut), (cut, len(values))):
        part, alone = together.of(start, stop), INTERACTIONS.columns(values[start:stop], [])
        assert alone.index.tolist() == part.index.tolist()
        assert alone.frame.equals(part.frame)
        # How a text words what it found may depend on the neighbours.
        assert [(r.index, r.reason) for r in alone.rejected] == [
            (r.index, r.reason) for r in part.rejected
        ]


def test_a_broker_without_append_times_limits_no_event_time():
    """Where the append time is unknown, nothing is in the future."""
    far = INTERACTIONS.encode(record("interaction", "answered", event_time=4_000_000_000_000))

    assert ([0], []) == outcome(INTERACTIONS.columns([far], [-1]))
    assert ([0], []) == outcome(INTERACTIONS.columns([far], []))


def test_an_int_beyond_32_bits_breaks_the_contract_instead_of_wrapping_around():
    """Avro's int has 32 bits; a longer one on the wire is no other number."""
    out = io.BytesIO()
    schema = json.loads(load_contract("interaction").text)
    version = next(f for f in schema["fields"] if f["name"] == "version")
    version["type"] = "long"
    wide = record("interaction", "answered", event_time=0, version=2**40)
    wide["offered_time"] = None
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), wide)

    decoded = INTERACTIONS.columns([GOOD[:5] + out.getvalue()], [])

    problem = "interaction.version: 1099511627776, expected a 32-bit integer"
    assert [Rejected(0, Reason.CONTRACT, "ContractViolation", problem)] == decoded.rejected


def test_an_unknown_enum_symbol_is_undecodable():
    """An enum is a number on the wire; one without a symbol cannot be read."""
    place = GOOD.index(b"\x04", 5 + len(record("interaction", "answered")["event_id"]))
    answered = GOOD[:place] + b"\x7e" + GOOD[place + 1 :]

    decoded = INTERACTIONS.columns([GOOD, answered], [])

    assert [0] == decoded.index.tolist()
    assert [(1, Reason.UNDECODABLE)] == [(r.index, r.reason) for r in decoded.rejected]


def test_a_broken_item_breaks_its_evaluation():
    """A predicate over the elements of an array is the record's."""
    sound = record("evaluation", "submitted")
    items = [sound["items"][0], sound["items"][1] | {"score": 6.0}]
    values = [codec("evaluation").encode(sound | changes) for changes in ({}, {"items": items})]

    decoded = codec("evaluation").columns(values, [])

    problem = "evaluation.items.score: 6.0, expected from 0 to max_score"
    assert ([0], [Rejected(1, Reason.CONTRACT, "ContractViolation", problem)]) == outcome(decoded)


def test_a_value_without_prefix_is_read_by_the_header_that_names_its_schema():
    """Confluent's header framing: magic 1 and a guid, or magic 0 and an id, beside a bare body."""
    guid = UUID(bytes=fingerprint(load_contract("interaction").text)[:16])
    by_id = (VALUE_SCHEMA_ID, GOOD[:5])
    headers = [[guid_header(guid)], {by_id[0]: by_id[1]}, [("ce_id", b"1")], None]

    decoded = INTERACTIONS.columns([GOOD[5:], GOOD[5:], GOOD, GOOD], [], headers)

    assert ([0, 1, 2, 3], []) == outcome(decoded)
    assert [record("interaction", "answered")] * 4 == decoded.frame.to_dicts()
    assert record("interaction", "answered") == INTERACTIONS.decode(GOOD[5:], [guid_header(guid)])


def test_an_unknown_guid_is_an_unknown_schema():
    """A header may name what the registry does not know."""
    with pytest.raises(UnknownSchema, match="not among the schema files"):
        INTERACTIONS.decode(GOOD[5:], [guid_header(UUID(int=7))])


@pytest.mark.parametrize("name", ["null", "empty", "unframed", "cut off", "unknown id"])
def test_one_record_fails_with_the_reason_of_its_batch(name):
    """`decode` raises what `columns` reports."""
    value, reason, _, message = BAD[name]

    with pytest.raises((Undecodable, UnknownSchema)) as raised:
        INTERACTIONS.decode(value)

    assert (reason, message) == (raised.value.reason, str(raised.value))


def test_reading_without_checks_shows_what_broke_the_contract():
    """`read` returns the record that `decode` refuses, so that it can be mended."""
    value = BAD["negative wait"][0]

    assert record("interaction", "answered", queue_wait_ms=-1) == INTERACTIONS.read(value)
    with pytest.raises(ContractViolation, match="queue_wait_ms: -1, expected at least 0"):
        INTERACTIONS.decode(value)


def test_encoding_names_the_field_that_is_wrong():
    """What cannot be written says where, what was found and what was expected."""
    with pytest.raises(
        ContractViolation, match=r"interaction\.leg: 'one', expected a 32-bit integer"
    ):
        INTERACTIONS.encode(record("interaction", "answered", leg="one"))
    with pytest.raises(ContractViolation, match=r"interaction\.wait: unknown, expected event_id, "):
        INTERACTIONS.encode(record("interaction", "answered", wait=1))


def test_columns_to_write_may_lack_what_has_a_default():
    """Absent columns take their default, 64-bit integers and timestamps fit, others are refused."""
    frame = INTERACTIONS.columns([GOOD], []).frame
    batch = frame.drop("version", "recording_ref").to_arrow().to_batches()[0]

    assert [GOOD] == INTERACTIONS.encode_columns(batch)
    for wrong, message in (
        (frame.with_columns(wait=1), "interaction.wait: unknown column"),
        (frame.drop("event_id"), "interaction.event_id: absent, expected a column"),
        (frame.with_columns(event_id=None), "interaction.event_id: null, expected a value"),
    ):
        with pytest.raises(ContractViolation, match=message):
            INTERACTIONS.encode_columns(wrong.to_arrow().to_batches()[0])


def test_a_null_inside_an_array_is_not_written_as_something_else():
    """The columnar writer has no eye for nulls where there may be none; we have."""
    sound = record("evaluation", "submitted")
    broken = sound | {"items": [sound["items"][0] | {"weight": None}]}
    frame = pl.DataFrame([sound, broken], schema=load_contract("evaluation").columns)

    with pytest.raises(ContractViolation, match=r"evaluation\.items: null, expected a value"):
        codec("evaluation").encode_columns(frame.to_arrow().to_batches()[0])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=6), st.booleans())
def test_any_bytes_are_a_row_or_a_rejection(bodies, framed):
    """Nothing that arrives can stop the batch it arrives in."""
    values = [GOOD[:5] + b if framed else b for b in bodies]

    decoded = INTERACTIONS.columns([*values, GOOD], [])

    rejected = [r.index for r in decoded.rejected]
    assert list(range(len(values) + 1)) == sorted([*decoded.index.tolist(), *rejected])
    assert len(values) == decoded.index[-1]


EXAMPLE = {"interaction": "completed", "evaluation": "submitted", "kpi-record": "provisional"}


def damaged(contract: str, place: int, byte: int) -> bytes:
    """Return an encoded example with one byte changed, behind the prefix."""
    sound = codec(contract).encode(record(contract, EXAMPLE[contract]))
    place = 5 + place % (len(sound) - 5)
    return sound[:place] + bytes([byte]) + sound[place + 1 :]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(EXAMPLE)), st.integers(0, 400), st.integers(0, 255))
def test_columns_agree_with_records_on_damaged_bytes(contract, place, byte):
    """One changed byte is read the same way, or refused with the same reason, by both readers."""
    value = damaged(contract, place, byte)

    decoded = codec(contract).columns([value], [])

    assert read_singly(contract, value) == decoded.frame.to_dicts() + [
        rejected.reason for rejected in decoded.rejected
    ]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(EXAMPLE)), st.integers(0, 400), st.integers(0, 255))
def test_a_record_is_judged_by_columns_that_nobody_wants(contract, place, byte):
    """Whoever wants some columns gets the rows and reasons of one who wants all."""
    values = [damaged(contract, place, byte)] * 2
    values.append(codec(contract).encode(record(contract, EXAMPLE[contract])))
    wanted = load_contract(contract).columns.names()[2:4]

    decoded = codec(contract).columns(values, [], None, wanted)

    whole = codec(contract).columns(values, [])
    assert outcome(whole) == outcome(decoded)
    assert whole.frame.select(wanted).equals(decoded.frame)


def test_an_event_of_the_future_is_refused_whoever_wants_to_know_its_time():
    """The limit of the event time holds for all readers."""
    decoded = INTERACTIONS.columns([GOOD, GOOD], [EVENT_TIME_MS, 1], None, ["event_id"])

    assert [(1, Reason.FUTURE_TIME)] == [(r.index, r.reason) for r in decoded.rejected]
    assert ["event_id"] == decoded.frame.columns
