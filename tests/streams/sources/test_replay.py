"""Replay: what is sent, when, and what is left out."""

import math

import pytest
from confluent_kafka.admin import AdminClient

from schemas.catalogue import EVALUATIONS, INTERACTIONS, SURVEYS, create_topics, load_catalogue
from schemas.client import read_all
from schemas.codec import Codec
from schemas.headers import cloud_event_headers
from schemas.registry import FileRegistry
from streams.cli.playing import parse_speed
from streams.sources.events import Skipped, SourceEvent, in_order_of_time
from streams.sources.generated_day import generate_day
from streams.sources.replay import Encoder, Pace, Replay, headers_of, shifted_to_now

MINUTE_MS = 60_000


def offered(number: int, event_time_ms: int, **changes: object) -> SourceEvent:
    record = {
        "event_id": f"i-{number}-OFFERED",
        "version": 1,
        "event_time": event_time_ms,
        "event_type": "OFFERED",
        "interaction_id": f"i-{number}",
        "leg": 1,
        "channel": "VOICE",
        "direction": "INBOUND",
        "handler": "HUMAN",
        "queue_id": "billing",
    }
    return SourceEvent("interaction", record | changes, "/tests", f"line {number}")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(load_catalogue(), FileRegistry())


def decoded(codec: Codec, value: bytes, names: set[str]) -> dict:
    record = codec.decode(value)
    return {name: record[name] for name in names}


def test_events_keep_their_order_topic_key_and_content(encoder):
    """Records come out in the order of the events, each for its topic, under its key."""
    events = generate_day()[::40]
    outgoing, skipped = encoder.encode(events)
    topics = {"interaction": INTERACTIONS, "survey": SURVEYS, "evaluation": EVALUATIONS}
    codecs = {name: Codec(name, FileRegistry(), topic) for name, topic in topics.items()}

    assert [] == skipped
    assert [(topics[e.contract], e.key.encode(), e.event_time_ms) for e in events] == [
        (out.topic, out.key, out.event_time_ms) for out in outgoing
    ]
    assert [dict(event.record) for event in events] == [
        decoded(codecs[event.contract], out.value, event.record.keys())
        for event, out in zip(events, outgoing, strict=True)
    ]


def test_headers_are_those_of_cloud_events():
    """Headers written many at a time are the ones of CloudEvents written one by one."""
    events = generate_day()[::400]

    for event, headers in zip(
        events, headers_of(events, [e.event_time_ms for e in events]), strict=True
    ):
        expected = cloud_event_headers(
            event.contract, event.source, event.event_id, event.event_time_ms
        )
        assert expected == [
            (name, value.encode() if isinstance(value, str) else value) for name, value in headers
        ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"queue_wait_ms": -1}, "interaction.queue_wait_ms: -1, expected at least 0"),
        ({"channel": "FAX"}, "interaction.channel: 'FAX', expected one of VOICE, CHAT, EMAIL,"),
        ({"leg": "first"}, "interaction.leg: 'first', expected a 32-bit integer"),
        ({"queue_id": None}, "interaction.queue_id: None, expected a string"),
    ],
)
def test_an_event_that_breaks_its_contract_is_named_and_left_out(encoder, changes, problem):
    """Whatever is broken, the others of the batch are sent and this one is named."""
    events = [offered(1, 0), offered(2, 1, **changes), offered(3, 2)]
    outgoing, skipped = encoder.encode(events)

    assert [b"i-1", b"i-3"] == [out.key for out in outgoing]
    assert ["line 2"] == [one.place for one in skipped]
    assert skipped[0].problem.startswith(problem)


def test_an_event_without_a_place_is_named_by_its_id(encoder):
    """What comes from no file is named by the event's id."""
    broken = SourceEvent("interaction", offered(1, 0, leg=0).record, "/tests")

    assert [Skipped("i-1-OFFERED", "interaction.leg: 0, expected at least 1")] == (
        encoder.encode([broken])[1]
    )


def test_sorting_by_time_keeps_the_order_within_a_millisecond():
    """Events of one instant stay as they came."""
    events = [offered(1, 5), offered(2, 3), offered(3, 5), offered(4, 3)]

    assert ["i-2", "i-4", "i-1", "i-3"] == [event.key for event in in_order_of_time(events)]


def test_pace_divides_event_time_by_the_speed():
    """At speed 60 a minute of events takes a second; at max nothing waits."""
    assert (2.0, 0.0) == (
        Pace(60, first_ms=MINUTE_MS).due_s(3 * MINUTE_MS),
        Pace(math.inf, first_ms=0).due_s(3 * MINUTE_MS),
    )


@pytest.mark.parametrize(
    ("speed", "first_ms", "last_ms"),
    [(1, 0, 600_000), (10, -540_000, 60_000), (math.inf, -600_000, 0)],
)
def test_shifted_events_never_lie_ahead_of_the_clock(speed, first_ms, last_ms):
    """When an event is sent, its time is at most now; the last one is just now.

    speed 1:   |now ......... last|          an event is sent at its own time
    speed 10:  |first ... now ... last|      the clock catches up with the last event
    max:       |first ......... last = now|
    """
    now_ms = 1_000_000_000
    events = [offered(1, 5 * MINUTE_MS), offered(2, 15 * MINUTE_MS, offered_time=14 * MINUTE_MS)]
    first, last = shifted_to_now(events, speed, now_ms)

    assert (first_ms, last_ms, last_ms - MINUTE_MS) == (
        first.event_time_ms - now_ms,
        last.event_time_ms - now_ms,
        last.record["offered_time"] - now_ms,
    )
    assert first.event_id.startswith("i-1-OFFERED+")


@pytest.mark.parametrize(("text", "speed"), [("max", math.inf), ("60", 60.0), ("0.5", 0.5)])
def test_a_speed_is_a_number_or_max(text, speed):
    """Speeds are numbers above 0; `max` waits for nothing."""
    assert speed == parse_speed(text)


@pytest.mark.parametrize("text", ["0", "-1", "fast", "inf", "nan", ""])
def test_any_other_speed_is_refused(text):
    """Nothing but a number above 0 or `max` is a speed."""
    with pytest.raises(Exception, match="expected a number above 0, or max"):
        parse_speed(text)


def test_a_replayed_day_arrives_once_in_order_and_in_its_partitions(clean_kafka, encoder, unique):
    """Every event is delivered once, within a partition in the day's order; keys stay together."""
    catalogue = load_catalogue()
    client = {"bootstrap.servers": clean_kafka}
    create_topics(AdminClient(client), catalogue)
    mark = unique("replay")
    events = [
        SourceEvent(e.contract, {**e.record, "event_id": f"{mark}-{n}"}, f"/{mark}")
        for n, e in enumerate(generate_day()[::10])
    ]
    reached = []
    done = Replay(client, encoder).run(events, progress=lambda *state: reached.append(state))

    assert done.is_whole
    assert len(events) == done.delivered.total()
    assert reached[-1][0] <= len(events)
    seen = {}
    for topic in (INTERACTIONS, SURVEYS, EVALUATIONS):
        partitions: dict[bytes, int] = {}
        last: dict[int, int] = {}
        for message in (m for batch in read_all(client, topic) for m in batch):
            headers = dict(message.headers() or [])
            if headers.get("ce_source") != f"/{mark}".encode():
                continue
            seen[headers["ce_id"].decode()] = seen.get(headers["ce_id"].decode(), 0) + 1
            assert partitions.setdefault(message.key(), message.partition()) == message.partition()
            number = int(headers["ce_id"].decode().rpartition("-")[2])
            assert last.get(message.partition(), -1) < number
            last[message.partition()] = number
    assert {event.event_id: 1 for event in events} == seen
