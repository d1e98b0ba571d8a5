"""JSON lines: each line a record of one contract, or a named refusal."""

import json

from streams.sources.jsonl import events_of_lines, read_jsonl

OFFERED = {
    "event_id": "i-1-1",
    "event_time": "2026-09-14T09:00:00+02:00",
    "event_type": "OFFERED",
    "interaction_id": "i-1",
    "channel": "VOICE",
    "direction": "INBOUND",
    "handler": "HUMAN",
    "queue_id": "billing",
}
INVITED = {
    "event_id": "s-1-1",
    "event_time": 1_789_369_200_000,
    "event_type": "INVITED",
    "survey_id": "s-1",
    "interaction_id": "i-1",
}
EVALUATED = {
    "event_id": "e-1",
    "event_time": 1_789_369_200_000,
    "evaluation_id": "e-1",
    "interaction_id": "i-1",
    "agent_id": "amber-01",
    "evaluator_id": "evaluator-1",
    "evaluator_kind": "HUMAN",
    "purpose": "REGULAR",
    "form_id": "service-quality",
    "form_version": 1,
    "status": "SUBMITTED",
    "score_percent": 90,
    "auto_failed": False,
    "items": [],
}


def test_the_contract_of_a_line_is_told_by_its_id():
    """evaluation_id makes an evaluation, survey_id a survey, anything else an interaction."""
    read = events_of_lines(json.dumps(record) for record in (OFFERED, INVITED, EVALUATED))

    assert [] == read.skipped
    assert [("interaction", "i-1"), ("survey", "s-1"), ("evaluation", "e-1")] == [
        (event.contract, event.key) for event in read.events
    ]


def test_instants_may_be_text_and_absent_fields_take_defaults():
    """An RFC 3339 instant becomes milliseconds; leg and version become 1, the others null."""
    (event,) = events_of_lines([json.dumps(OFFERED)]).events

    assert (1_789_369_200_000, 1, 1, None, "line 1") == (
        event.event_time_ms,
        event.record["leg"],
        event.record["version"],
        event.record["agent_id"],
        event.place,
    )


def test_a_bad_line_is_named_and_the_others_stay(tmp_path):
    """Not JSON, not an object, a field missing, a field unknown: each with its line number."""
    file = tmp_path / "events.jsonl"
    without_queue = {name: value for name, value in OFFERED.items() if name != "queue_id"}
    lines = ["{", "[]", json.dumps(without_queue), "", json.dumps(INVITED)]
    file.write_text("\n".join(lines))
    read = read_jsonl(file)

    assert ["line 1", "line 2", "line 3"] == [skipped.place for skipped in read.skipped]
    assert "interaction.queue_id: absent, expected a value" == read.skipped[2].problem
    assert ["line 5"] == [event.place for event in read.events]
