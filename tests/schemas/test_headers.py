"""Headers: CloudEvents attributes, schema ids, and what a dead letter carries."""

from uuid import UUID

import pytest

from schemas.errors import Reason
from schemas.headers import (
    VALUE_SCHEMA_ID,
    cloud_event_headers,
    dead_letter_headers,
    guid_header,
    items,
    prefix,
    schema_key,
)

GUID = UUID("01020304-0506-0708-090a-0b0c0d0e0f10")


def test_cloud_events_attributes_travel_as_ce_headers():
    """Kafka's binary mode: every attribute is a header with the prefix `ce_`."""
    assert [
        ("ce_specversion", b"1.0"),
        ("ce_type", b"interaction"),
        ("ce_source", b"/acd/lisbon"),
        ("ce_id", b"i-1"),
        ("ce_time", b"2026-03-02T09:00:05.250Z"),
    ] == cloud_event_headers("interaction", "/acd/lisbon", "i-1", 1_772_442_005_250)


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        (None, None),
        ([], None),
        ([("ce_id", b"1")], None),
        ([(VALUE_SCHEMA_ID, prefix(7))], 7),
        ([("ce_id", b"1"), guid_header(GUID)], GUID),
        ({VALUE_SCHEMA_ID: prefix(7)}, 7),
        ([(VALUE_SCHEMA_ID, None)], None),
        ([(VALUE_SCHEMA_ID, b"\x01short")], None),
        ([(VALUE_SCHEMA_ID, b"\x02" + GUID.bytes)], None),
    ],
)
def test_a_header_names_the_schema_by_id_or_guid(headers, key):
    """Magic 0 and four bytes, or magic 1 and sixteen; anything else names nothing."""
    assert key == schema_key(headers)


def test_a_dead_letter_keeps_its_headers_and_says_where_it_lay_and_why():
    """The original headers come first and unchanged, ours after them."""
    headers = dead_letter_headers(
        {"ce_id": b"1"},
        topic="t",
        partition=3,
        offset=44,
        reason=Reason.CONTRACT,
        exception="ContractViolation",
        message="interaction.leg: 0, expected at least 1",
    )

    assert [
        ("ce_id", b"1"),
        ("__streams.errors.topic", b"t"),
        ("__streams.errors.partition", b"3"),
        ("__streams.errors.offset", b"44"),
        ("__streams.errors.exception", b"ContractViolation"),
        ("__streams.errors.message", b"interaction.leg: 0, expected at least 1"),
        ("__streams.errors.stacktrace", b""),
        ("andon.reason", b"CONTRACT"),
    ] == headers


def test_headers_of_every_client_are_pairs():
    """Faust has mappings, aiokafka tuples, librdkafka lists or nothing."""
    assert [] == items(None)
    assert [("a", b"1")] == items({"a": b"1"})
    assert [("a", b"1"), ("a", b"2")] == items((("a", b"1"), ("a", b"2")))
