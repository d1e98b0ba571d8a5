"""Plain objects, as JSON lines hold them, become whole records or say what is wrong."""

import pytest

from schemas.errors import ContractViolation
from tests.schemas.support import codec, examples

OFFERED = examples("interaction")["offered"]


def test_absent_fields_take_their_defaults():
    """What has a default may be left out."""
    least = {name: value for name, value in OFFERED.items() if name not in ("leg", "customer_id")}

    whole = codec("interaction").record(least)

    assert (1, 1, None) == (whole["leg"], whole["version"], whole["customer_id"])
    assert 34 == len(whole)


@pytest.mark.parametrize(
    ("given", "event_time_ms"),
    [
        (1_772_442_005_000, 1_772_442_005_000),
        ("2026-03-02T09:00:05Z", 1_772_442_005_000),
        ("2026-03-02T10:00:05.250+01:00", 1_772_442_005_250),
        ("2026-03-02T09:00:05.000999Z", 1_772_442_005_000),
    ],
)
def test_instants_are_milliseconds_or_rfc_3339(given, event_time_ms):
    """An instant says its zone, or is an integer; what is finer than a millisecond is cut off."""
    assert (
        event_time_ms == codec("interaction").record(OFFERED | {"event_time": given})["event_time"]
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"queue": "x"}, "interaction.queue: unknown, expected event_id, version, "),
        ({"event_time": "09:00"}, "interaction.event_time: '09:00', expected milliseconds since"),
        (
            {"event_time": "2026-03-02T09:00:05"},
            "interaction.event_time: '2026-03-02T09:00:05', expected milliseconds since 1970 or",
        ),
        ({"event_time": 1.5}, "interaction.event_time: 1.5, expected a 64-bit integer"),
        ({"queue_id": None}, "interaction.queue_id: None, expected a string"),
        ({"queue_id": ""}, "interaction.queue_id: '', expected a non-empty string"),
        ({"leg": True}, "interaction.leg: True, expected a 32-bit integer"),
        ({"leg": 2**31}, "interaction.leg: 2147483648, expected a 32-bit integer"),
        ({"leg": 0}, "interaction.leg: 0, expected at least 1"),
        ({"resolved": "yes"}, "interaction.resolved: 'yes', expected true or false"),
        ({"channel": "FAX"}, "interaction.channel: 'FAX', expected one of VOICE, CHAT, "),
        (
            {"event_type": "ANSWERED"},
            "interaction.queue_wait_ms: None, expected a duration with ANSWERED",
        ),
        (
            {"offered_time": "2026-03-02T09:00:06Z"},
            "interaction.offered_time: 1772442006000, expected not after event_time",
        ),
    ],
)
def test_a_wrong_field_is_named_with_what_was_found_and_expected(changes, problem):
    """A violation says where, what was found, and what was expected."""
    with pytest.raises(ContractViolation) as raised:
        codec("interaction").record(OFFERED | changes)

    assert str(raised.value).startswith(problem)


@pytest.mark.parametrize("value", [[], "x", 1, None])
def test_only_an_object_is_a_record(value):
    """A line of JSON that is no object is no record."""
    with pytest.raises(ContractViolation, match="expected an object"):
        codec("interaction").record(value)


def test_a_missing_field_without_default_is_named():
    """What has no default must be there."""
    without = {name: value for name, value in OFFERED.items() if name != "queue_id"}

    with pytest.raises(ContractViolation, match=r"interaction\.queue_id: absent, expected a value"):
        codec("interaction").record(without)


def test_a_fault_inside_an_array_is_named_with_its_place():
    """Elements of arrays are checked like records, their place is part of the name."""
    example = examples("evaluation")["submitted"]
    items = [example["items"][0], example["items"][1] | {"root_cause": "LUCK"}]

    with pytest.raises(ContractViolation, match=r"evaluation\.items\[1\]\.root_cause: 'LUCK'"):
        codec("evaluation").record(example | {"items": items})
