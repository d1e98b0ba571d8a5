"""What is stated once more on a generated day: corrections, deletions, second thoughts.

A restatement repeats id and instants of the event, has the next version, and says when it was made.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from random import Random
from typing import Any, Final

from streams.sources.centre import CRITICAL_QUESTION, MINUTE_MS, Problems
from streams.sources.events import SourceEvent
from streams.sources.feedback import POINTS, score_percent

_CORRECTED: Final = 0.06
_DELETED: Final = 0.03
_RECONSIDERED: Final = 0.02


def restatements(
    events: Iterable[SourceEvent], put: Problems, rng: Random
) -> Iterator[SourceEvent]:
    """Yield restatements of some events of a day.

    What was planted stays as it is, but for one evaluation: it was failed by mistake.
    """
    planted = {put.coaching_agent, put.praised_agent, *put.training_agents, *put.failed_agents}
    for event in events:
        record, chance = event.record, rng.random()
        if record.get("auto_failed") and record["agent_id"] == put.mistaken_agent:
            yield _restated(event, rng, **_scored(record, CRITICAL_QUESTION, POINTS))
        elif record["agent_id"] in planted:
            continue
        elif event.contract == "evaluation" and chance < _CORRECTED:
            question = rng.choice(record["items"])["question_id"]
            yield _restated(event, rng, **_scored(record, question, rng.choice((3, 4, 5))))
        elif event.contract == "evaluation" and chance < _CORRECTED + _DELETED:
            yield _restated(event, rng, status="DELETED")
        elif record.get("csat") is not None and chance < _RECONSIDERED:
            yield _restated(event, rng, csat=min(record["csat"] + 1, 5), ces=4)


def _restated(event: SourceEvent, rng: Random, **changes: Any) -> SourceEvent:
    restated_ms = event.event_time_ms + rng.randrange(10 * MINUTE_MS, 180 * MINUTE_MS)
    version = event.record["version"] + 1
    stated = {"version": version, "restated_time": restated_ms}
    return replace(event, record={**event.record, **changes, **stated})


def _scored(record: Mapping[str, Any], question: str, points: int) -> dict[str, Any]:
    """Return an evaluation's fields with one question scored anew; it then stands."""
    good = {"score": float(points), "defect_code": None, "root_cause": None}
    items = [
        {**item, **good} if item["question_id"] == question else item for item in record["items"]
    ]
    return {"items": items, "score_percent": score_percent(items), "auto_failed": False}
