"""The importer of the recorded month: each published number, and each trap in the rows."""

import os
from collections import Counter
from pathlib import Path

import pytest

from streams.sources.anonymous_bank import events_of_rows, generated_feedback, read_calls
from streams.sources.events import SourceEvent

MONTH = Path(__file__).parents[3] / "../shared/data/anonymous_bank_feb1999.tsv.gz"

ROW = {
    "vru+line": "AA0101", "call_id": "7", "customer_id": "23317894", "priority": "2", "type": "PS",
    "date": "990201", "vru_entry": "8:09:16", "vru_exit": "8:09:22", "vru_time": "6",
    "q_start": "8:09:22", "q_exit": "8:09:27", "q_time": "5", "outcome": "AGENT",
    "ser_start": "8:09:28", "ser_exit": "8:11:28", "ser_time": "120", "server": "DORIT",
}  # fmt: skip
MIDNIGHT_MS = 917_827_200_000  # 1999-02-01T00:00:00Z


def at(clock: str, days: int = 0) -> int:
    hours, minutes, seconds = map(int, clock.split(":"))
    return MIDNIGHT_MS + (((24 * days + hours) * 60 + minutes) * 60 + seconds) * 1000


def records(**changes: str) -> list[dict]:
    return [dict(event.record) for event in events_of_rows([ROW | changes]).events]


def steps(**changes: str) -> list[tuple]:
    fields = ("event_type", "event_time", "queue_wait_ms", "talk_ms")
    return [tuple(record.get(field) for field in fields) for record in records(**changes)]


@pytest.fixture(scope="module")
def month() -> list[SourceEvent]:
    if not MONTH.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{MONTH} is absent, and CI must not skip it")
        pytest.skip(f"the recorded month is not published with the project: {MONTH} is absent")
    return read_calls(MONTH).events


def test_the_month_has_every_published_total(month):
    """Counts, sums and service levels of the whole month, taken from the events themselves."""
    by_type = Counter(event.record["event_type"] for event in month)
    answered = [e.record["queue_wait_ms"] for e in month if e.record["event_type"] == "ANSWERED"]
    lost = [e.record["queue_wait_ms"] for e in month if e.record["event_type"] == "ABANDONED"]
    talks = [e.record["talk_ms"] for e in month if e.record.get("talk_ms") is not None]
    in_time = sum(wait <= 20_000 for wait in answered)
    lost_early = sum(wait <= 20_000 for wait in lost)
    offered = by_type["OFFERED"]

    assert {
        "contacts": 33_066,
        "by_type": {
            "OFFERED": 31_125,
            "ANSWERED": 27_162,
            "COMPLETED": 27_162,
            "ABANDONED": 3_963,
            "LEFT_IVR": 1_941,
        },
        "abandonment": 12.7325,
        "waits_s": 1_107_512,
        "asa_s": 40.7743,
        "talks": 27_112,
        "talk_s": 4_790_100,
        "aht_s": 176.6782,
        "in_time": 16_209,
        "exactly_in_time": 130,
        "lost_early": 1_257,
        "of_offered": 52.0771,
        "of_answered": 59.6753,
        "without_short": 54.2688,
        "short_as_positive": 56.1157,
    } == {
        "contacts": len({event.record["interaction_id"] for event in month}),
        "by_type": dict(by_type),
        "abandonment": round(100 * by_type["ABANDONED"] / offered, 4),
        "waits_s": sum(answered) / 1000,
        "asa_s": round(sum(answered) / len(answered) / 1000, 4),
        "talks": len(talks),
        "talk_s": sum(talks) / 1000,
        "aht_s": round(sum(talks) / len(talks) / 1000, 4),
        "in_time": in_time,
        "exactly_in_time": sum(wait == 20_000 for wait in answered),
        "lost_early": lost_early,
        "of_offered": round(100 * in_time / offered, 4),
        "of_answered": round(100 * in_time / by_type["ANSWERED"], 4),
        "without_short": round(100 * in_time / (offered - lost_early), 4),
        "short_as_positive": round(100 * (in_time + lost_early) / offered, 4),
    }


def test_event_ids_of_the_month_are_unique(month):
    """A call number repeats across lines; an event id does not."""
    assert len(month) == len({event.event_id for event in month})


def test_the_traps_of_the_month_are_counted(month):
    """Calls without an agent's name, without service times and with none to speak of stay."""
    answered = [e.record for e in month if e.record["event_type"] == "ANSWERED"]
    completed = [e.record for e in month if e.record["event_type"] == "COMPLETED"]

    assert (491, 50, 35) == (
        sum(record["agent_id"] is None for record in answered),
        sum(record["talk_ms"] is None for record in completed),
        sum(record["talk_ms"] == 0 for record in completed),
    )


def test_an_answered_call_is_offered_answered_and_completed():
    """A queued call is offered when its queue starts and answered when its service does."""
    assert [
        ("OFFERED", at("8:09:22"), None, None),
        ("ANSWERED", at("8:09:28"), 5_000, None),
        ("COMPLETED", at("8:11:28"), None, 120_000),
    ] == steps()


def test_an_event_says_who_where_and_which():
    """Ids come from date, line and call; the caller is named by id alone."""
    assert {
        "event_id": "990201-AA0101-7-ANSWERED",
        "version": 1,
        "event_time": at("8:09:28"),
        "event_type": "ANSWERED",
        "interaction_id": "990201-AA0101-7",
        "leg": 1,
        "channel": "VOICE",
        "direction": "INBOUND",
        "handler": "HUMAN",
        "queue_id": "PS",
        "customer_id": "23317894",
        "priority": 2,
        "queue_wait_ms": 5_000,
        "offered_time": at("8:09:22"),
        "answered_time": at("8:09:28"),
        "agent_id": "DORIT",
    } == records()[1]


def test_unknown_agents_and_customers_are_null():
    """NO_SERVER is no agent, and customer 0 is nobody."""
    answered = records(server="NO_SERVER", customer_id="0")[1]

    assert (None, None) == (answered["agent_id"], answered["customer_id"])


def test_a_call_that_never_queued_is_offered_when_it_leaves_the_ivr():
    """Without a queue the wait is 0, and the IVR's end is the offer."""
    assert [
        ("OFFERED", at("8:09:22"), None, None),
        ("ANSWERED", at("8:09:28"), 0, None),
        ("COMPLETED", at("8:11:28"), None, 120_000),
    ] == steps(q_start="0:00:00", q_exit="0:00:00", q_time="0")


def test_an_answer_never_quotes_an_offer_later_than_itself():
    """Where the service's clock runs ahead of the IVR's, the answer quotes its own time."""
    offered, answered, _ = records(
        q_start="0:00:00", q_exit="0:00:00", q_time="0", ser_start="8:09:21"
    )

    assert (at("8:09:22"), at("8:09:21"), at("8:09:21")) == (
        offered["event_time"],
        answered["event_time"],
        answered["offered_time"],
    )


def test_a_call_without_service_times_ends_when_it_is_answered():
    """An answer without service times is taken at the queue's end, its talk is unknown."""
    assert [
        ("OFFERED", at("8:09:22"), None, None),
        ("ANSWERED", at("8:09:27"), 5_000, None),
        ("COMPLETED", at("8:09:27"), None, None),
    ] == steps(ser_start="0:00:00", ser_exit="0:00:00", ser_time="0")


def test_a_hang_up_in_the_queue_is_abandoned_even_with_service_times():
    """What counts for a hang-up is that it queued, not the service times beside it."""
    assert [
        ("OFFERED", at("8:09:22"), None, None),
        ("ABANDONED", at("8:09:27"), 5_000, None),
    ] == steps(outcome="HANG")


def test_a_hang_up_before_any_queue_left_the_ivr():
    """A hang-up that never queued was never offered."""
    assert [("LEFT_IVR", at("8:09:22"), None, None)] == steps(
        outcome="HANG", q_start="0:00:00", q_exit="0:00:00", q_time="0"
    )


def test_a_phantom_is_no_call():
    """PHANTOM rows give no event."""
    assert [] == steps(outcome="PHANTOM")


def test_a_clock_past_midnight_belongs_to_the_next_day():
    """A time more than 12 h before the call's entry is the next day's; midnight itself included."""
    assert [
        ("OFFERED", at("23:59:58"), None, None),
        ("ANSWERED", at("0:00:00", days=1), 2_000, None),
        ("COMPLETED", at("0:02:00", days=1), None, 120_000),
    ] == steps(
        vru_entry="23:59:50", vru_exit="23:59:58", q_start="23:59:58", q_exit="0:00:00",
        q_time="2", ser_start="0:00:00", ser_exit="0:02:00",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"date": "19990201"}, "line 2: date: '19990201', expected YYMMDD"),
        ({"q_exit": "8:09"}, "line 2: q_exit: '8:09', expected H:MM:SS"),
        ({"ser_time": "-5"}, "line 2: ser_time: '-5', expected a whole number"),
        ({"outcome": "LOST"}, "line 2: outcome: 'LOST', expected AGENT, HANG or PHANTOM"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_and_skipped(changes, message):
    """A broken row is named with its line, its column and what the format wants; others stay."""
    read = events_of_rows([ROW | changes, ROW])

    assert ([message], {"line 3"}) == (
        [str(skipped) for skipped in read.skipped],
        {event.place for event in read.events},
    )


def test_a_file_of_another_format_is_refused(tmp_path):
    """The header tells the format; another one is refused before any row is read."""
    other = tmp_path / "calls.tsv"
    other.write_text("a\tb\n1\t2\n")

    with pytest.raises(ValueError, match=r"calls\.tsv: header \['a', 'b'\], expected"):
        read_calls(other)


def test_feedback_on_recorded_calls_is_marked_as_generated():
    """Surveys and evaluations laid upon recorded calls carry the mark in source and id."""
    rows = [ROW | {"call_id": str(number)} for number in range(200)]
    feedback = generated_feedback(events_of_rows(rows).events, seed=7)

    assert {"survey", "evaluation"} == {event.contract for event in feedback}
    assert {"/andon/sources/anonymous-bank/generated"} == {event.source for event in feedback}
    assert {True} == {event.key.startswith("generated-990201-") for event in feedback}
    assert feedback == generated_feedback(events_of_rows(rows).events, seed=7)


def test_an_unknown_agent_is_surveyed_but_not_evaluated():
    """An evaluation needs an agent; a survey does not."""
    rows = [ROW | {"call_id": str(number), "server": "NO_SERVER"} for number in range(200)]
    feedback = generated_feedback(events_of_rows(rows).events, seed=7)

    assert {"survey"} == {event.contract for event in feedback}
