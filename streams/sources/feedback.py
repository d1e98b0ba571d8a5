"""Generated surveys and evaluations over handled contacts, real or simulated.

None of them was ever given: their ids begin with ``generated-`` and their CloudEvents source ends
in ``/generated``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from streams.sources.centre import CRITICAL_QUESTION, HOUR_MS, MINUTE_MS, QUESTIONS
from streams.sources.events import SourceEvent

GENERATED_PREFIX: Final = "generated-"
POINTS: Final = 5
"""Points an item can bring."""

_SECTIONS: Final[Mapping[str, str]] = {
    "greeting_and_sign_off": "opening_and_closing",
    "first_name": "opening_and_closing",
    "feedback_chance": "opening_and_closing",
    "clear_language": "communication",
    "empathy": "communication",
    "brand_voice": "communication",
    "tone": "communication",
    "resolution": "substance",
    "policy_knowledge": "substance",
    "guidelines": "substance",
}
_WEIGHTS: Final[Mapping[str, float]] = {"resolution": 2.0, "policy_knowledge": 1.5}
_EVALUATORS: Final = ("evaluator-1", "evaluator-2", "evaluator-3", "evaluator-4")


@dataclass(frozen=True, slots=True)
class Handled:
    """A contact that somebody has finished; ``None`` where its source does not say."""

    interaction_id: str
    completed_ms: int
    resolved: bool
    channel: str
    queue_id: str
    agent_id: str | None
    team_id: str | None = None
    issue_id: str | None = None


@dataclass(frozen=True, slots=True)
class Mood:
    """How customers answer surveys: shares of 1 of those who answer and of those content."""

    answers: float = 0.3
    content: float = 0.77


@dataclass(frozen=True, slots=True)
class Marks:
    """How an evaluation comes out: low items with their root cause, all else full, or failed."""

    low: Mapping[str, str] = field(default_factory=dict)
    flawless: bool = False
    failed: bool = False


def surveys(handled: Handled, mood: Mood, source: str, rng: Random) -> list[SourceEvent]:
    """Return the invitation to a survey and, from some customers, the answer, often hours later."""
    if rng.random() >= max(0.55, mood.answers):
        return []
    about = _about(handled, "survey", rng)
    invited = _event("survey", about, "INVITED", handled.completed_ms + 2 * MINUTE_MS, source)
    if rng.random() >= mood.answers / max(0.55, mood.answers):
        return [invited]
    delay_ms = min(round(45 * MINUTE_MS * rng.lognormvariate(0, 1.3)), 8 * HOUR_MS)
    answered_ms = handled.completed_ms + 3 * MINUTE_MS + delay_ms
    answer = about | _answers(handled, mood, rng)
    return [invited, _event("survey", answer, "ANSWERED", answered_ms, source)]


def evaluation(
    handled: Handled, marks: Marks, event_time_ms: int, source: str, rng: Random
) -> SourceEvent:
    """Return a regular evaluation of a handled contact by the ten questions of the form."""
    items = [_item(question, marks, rng) for question in QUESTIONS]
    record = _about(handled, "evaluation", rng) | {
        "version": 1,
        "event_time": event_time_ms,
        "evaluator_id": rng.choice(_EVALUATORS),
        "evaluator_kind": rng.choice(("HUMAN", "HUMAN", "AUTO")),
        "purpose": "REGULAR",
        "form_id": "service-quality",
        "form_version": 1,
        "status": "SUBMITTED",
        "score_percent": 0.0 if marks.failed else score_percent(items),
        "auto_failed": marks.failed,
        "items": items,
    }
    record["event_id"] = record["evaluation_id"]
    del record["interaction_time"]
    return SourceEvent("evaluation", record, source)


def score_percent(items: Sequence[Mapping[str, Any]]) -> float:
    """Return the points reached, of those that could be, weighted, in percent."""
    reached = sum(item["score"] * item["weight"] for item in items)
    possible = sum(item["max_score"] * item["weight"] for item in items)
    return float(round(100 * reached / possible, 2))


def feedback_on(handled: Sequence[Handled], source: str, rng: Random) -> list[SourceEvent]:
    """Return surveys and evaluations over contacts that came without any."""
    events = []
    for one in handled:
        events += surveys(one, Mood(), source, rng)
        if one.agent_id is not None and rng.random() < 0.03:
            later_ms = one.completed_ms + rng.randrange(30 * MINUTE_MS, 6 * HOUR_MS)
            events.append(evaluation(one, Marks(), later_ms, source, rng))
    return events


def _about(handled: Handled, kind: str, rng: Random) -> dict[str, Any]:
    about = handled.interaction_id.removeprefix(GENERATED_PREFIX)
    return {
        # An interaction can be evaluated more than once.
        f"{kind}_id": f"{GENERATED_PREFIX}{about}-{rng.getrandbits(32):08x}",
        "interaction_id": handled.interaction_id,
        "interaction_time": handled.completed_ms,
        "queue_id": handled.queue_id,
        "agent_id": handled.agent_id,
        "team_id": handled.team_id,
        "issue_id": handled.issue_id,
        "channel": handled.channel,
    }


def _event(
    contract: str, about: Mapping[str, Any], event_type: str, event_time_ms: int, source: str
) -> SourceEvent:
    record = {
        **about,
        "event_id": f"{about['survey_id']}-{event_type}",
        "version": 1,
        "event_time": event_time_ms,
        "event_type": event_type,
    }
    return SourceEvent(contract, record, source)


def _answers(handled: Handled, mood: Mood, rng: Random) -> dict[str, Any]:
    content = rng.random() < mood.content
    return {
        "csat": rng.choice((4, 5, 5)) if content else rng.choice((1, 2, 3, 3)),
        "nps": rng.choice((8, 9, 9, 10)) if content else rng.choice((2, 4, 6, 7, 8)),
        "ces": rng.choice((5, 6, 7)) if content else rng.choice((2, 3, 4, 5)),
        "resolved": handled.resolved,
        "contacts_needed": 1 if handled.resolved else rng.choice((2, 2, 3)),
        "customer_sentiment": rng.choice(
            ("POSITIVE", "NEUTRAL") if content else ("NEGATIVE", "NEUTRAL")
        ),
    }


def _item(question: str, marks: Marks, rng: Random) -> dict[str, Any]:
    root_cause = marks.low.get(question)
    if marks.failed and question == CRITICAL_QUESTION:
        score, root_cause = 0, "PERSON"
    elif root_cause is not None:
        score = rng.choice((0, 0, 1))
    else:
        score = POINTS if marks.flawless else rng.choice((5, 5, 5, 5, 5, 4, 4, 4, 3, 3))
    return {
        "section_id": _SECTIONS[question],
        "question_id": question,
        "score": float(score),
        "max_score": float(POINTS),
        "weight": _WEIGHTS.get(question, 1.0),
        "critical": question == CRITICAL_QUESTION,
        "applicable": True,
        "defect_code": None if root_cause is None else f"low-{question}",
        "root_cause": root_cause,
    }
