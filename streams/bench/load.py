"""The load: events as columns, each a function of seed and number alone.

No random generator has a state here. So event 70,000 is the same in a load of 100,000 and in one of
3,600,000, in whatever pieces it is made, and with every version of numpy.

A thousand events pass in a second of event time, if nothing else is asked for. Three events make an
interaction: it is offered, 30,000 events later answered, 300,000 events later completed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

QUEUES: Final = 200
AGENTS: Final = 5_000
TEAMS: Final = 400
ISSUES: Final = 40
EVALUATORS: Final = 50

#: 2026-03-02T08:00:00Z: fixed, so that windows and ids are the same in every run.
FIRST_MS: Final = 1_772_438_400_000

_DISORDER_MS: Final = 500
_STEPS: Final = pa.array(["OFFERED", "ANSWERED", "COMPLETED"])
# In interactions.
_STEP_LAGS: Final = (0, 10_000, 100_000)
_FIRST_INTERACTION: Final = 200_000
_QUESTIONS: Final = pa.array(
    ["greeting", "need", "solution", "data-protection", "summary", "farewell"]
)
_ITEM_POINTS: Final = 10

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stretch:
    """So many events in a row, of which so many pass in a second of event time."""

    events: int
    per_second: int


@dataclass(frozen=True, slots=True)
class Variant:
    """In what a load differs from the usual one.

    ``failed_in`` says that one evaluation in so many is failed by a critical question, 0 that none
    is. ``stretches`` are those that event time begins with; it goes on as in the last of them.
    """

    queues: int = QUEUES
    agents: int = AGENTS
    failed_in: int = 0
    stretches: tuple[Stretch, ...] = ()


USUAL: Final = Variant()


@dataclass(frozen=True, slots=True)
class Part:
    """Events of one contract: their numbers in the load, Kafka keys and columns, a row each."""

    contract: str
    numbers: Numbers
    keys: list[bytes]
    columns: pa.RecordBatch


def parts(
    seed: int,
    per_hundred: Mapping[str, int],
    start: int,
    stop: int,
    per_second: int = 1_000,
    variant: Variant = USUAL,
) -> Iterator[Part]:
    """Yield the events [start, stop) of the load, those of each contract together.

    ``per_hundred`` says how many of each hundred events are of which contract, ``per_second`` how
    many pass in a second of event time, unless the variant says so.
    """
    draw = _Draw(seed, variant, variant.stretches or (Stretch(stop, per_second),))
    numbers = np.arange(start, stop, dtype=np.int64)
    ends = accumulate(per_hundred.values())
    for (contract, share), end in zip(per_hundred.items(), ends, strict=True):
        place = numbers % 100 - (end - share)
        own = (place >= 0) & (place < share)
        if own.any():
            nth = (numbers // 100 * share + place)[own]
            yield _MAKERS[contract](draw, numbers[own], nth)


def passed_ms(numbers: Numbers, stretches: tuple[Stretch, ...]) -> Numbers:
    """Return for each number the ms of event time from the first event to its own.

    >>> passed_ms(np.array([0, 5, 10, 12]), (Stretch(10, 10), Stretch(10, 20))).tolist()
    [0, 500, 1000, 1100]
    """
    firsts = np.cumsum([0, *(stretch.events for stretch in stretches[:-1])])
    rates = np.array([stretch.per_second for stretch in stretches])
    begun_ms = np.cumsum([0, *(each.events * 1_000 // each.per_second for each in stretches[:-1])])
    nth = np.searchsorted(firsts, numbers, side="right") - 1
    passed: Numbers = begun_ms[nth] + (numbers - firsts[nth]) * 1_000 // rates[nth]
    return passed


class _Draw:
    """Even draws by number: splitmix64 (Steele, Lea, Flood 2014) over seed, name and number."""

    def __init__(self, seed: int, variant: Variant, stretches: tuple[Stretch, ...]) -> None:
        self._seed = seed
        self.variant = variant
        self.stretches = stretches

    def below(self, limit: int, name: str, numbers: Numbers) -> Numbers:
        """Return for each number an integer in [0, limit)."""
        salt = int.from_bytes(name.encode()[:7].ljust(7, b"."), "big") ^ (self._seed << 32)
        with np.errstate(over="ignore"):
            z = numbers.astype(np.uint64) + np.uint64(salt & (2**64 - 1))
            z = z * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((z ^ (z >> np.uint64(31))) % np.uint64(limit)).astype(np.int64)


def _interactions(draw: _Draw, numbers: Numbers, nth: Numbers) -> Part:
    step = nth % 3
    of = nth // 3 + _FIRST_INTERACTION - np.array(_STEP_LAGS)[step]
    offered, answered, completed = (step == each for each in range(3))
    whose = _attributes(draw, of)
    ids = _ids("i", of)
    columns = {
        "event_id": _ids("e", nth),
        "event_time": _event_times(draw, numbers),
        "event_type": _named(_STEPS, step),
        "interaction_id": ids,
        "channel": _same("VOICE", nth),
        "direction": _same("INBOUND", nth),
        "handler": _same("HUMAN", nth),
        **whose,
        "agent_id": _where(~offered, whose["agent_id"]),
        "team_id": _where(~offered, whose["team_id"]),
        "queue_wait_ms": _where(answered, draw.below(60_000, "wait", nth)),
        "talk_ms": _where(completed, draw.below(300_000, "talk", nth)),
        "hold_ms": _where(completed, draw.below(60_000, "hold", nth)),
        "after_contact_work_ms": _where(completed, draw.below(60_000, "after", nth)),
    }
    return _part("interaction", numbers, ids, columns)


def _surveys(draw: _Draw, numbers: Numbers, nth: Numbers) -> Part:
    of = nth * 10 + _FIRST_INTERACTION
    event_times = _event_times(draw, numbers)
    ids = _ids("i", of)
    columns = {
        "event_id": _ids("s", nth),
        "event_time": event_times,
        "survey_id": _ids("s", nth),
        "interaction_id": ids,
        "event_type": _same("ANSWERED", nth),
        "interaction_time": event_times - 60_000,
        **_attributes(draw, of),
        "channel": _same("VOICE", nth),
        "csat": 1 + draw.below(5, "csat", nth),
        "nps": draw.below(11, "nps", nth),
        "ces": 1 + draw.below(7, "ces", nth),
        "resolved": draw.below(4, "solved", nth) > 0,
        "contacts_needed": 1 + draw.below(3, "needed", nth),
    }
    return _part("survey", numbers, ids, columns)


def _evaluations(draw: _Draw, numbers: Numbers, nth: Numbers) -> Part:
    of = nth * 30 + _FIRST_INTERACTION
    questions = len(_QUESTIONS)
    items = np.arange(len(nth) * questions)
    numbered = np.repeat(nth, questions) * questions + items % questions
    points = draw.below(_ITEM_POINTS + 1, "points", numbered)
    totals = points.reshape(-1, questions).sum(axis=1)
    evaluation_ids = _ids("v", nth)
    columns = {
        "event_id": evaluation_ids,
        "event_time": _event_times(draw, numbers),
        "evaluation_id": evaluation_ids,
        "interaction_id": _ids("i", of),
        **_attributes(draw, of),
        "channel": _same("VOICE", nth),
        "evaluator_id": _of_kind("r", EVALUATORS, draw.below(EVALUATORS, "rater", nth)),
        "evaluator_kind": _same("HUMAN", nth),
        "purpose": _same("REGULAR", nth),
        "form_id": _same("voice", nth),
        "form_version": np.ones(len(nth), np.int64),
        "status": _same("SUBMITTED", nth),
        "score_percent": totals * 100.0 / (questions * _ITEM_POINTS),
        "auto_failed": _failed(draw.variant.failed_in, nth),
        "items": _items(items, points, questions),
    }
    return _part("evaluation", numbers, evaluation_ids, columns)


def _failed(one_in: int, nth: Numbers) -> npt.NDArray[np.bool_]:
    return nth % one_in == 0 if one_in else np.zeros(len(nth), np.bool_)


def _items(items: Numbers, points: Numbers, questions: int) -> pa.Array:
    fields = {
        "section_id": _same("talk", items),
        "question_id": _named(_QUESTIONS, items % questions),
        "score": pa.array(points.astype(np.float64)),
        "max_score": pa.array(np.full(len(items), float(_ITEM_POINTS))),
        "weight": pa.array(np.ones(len(items))),
        "critical": pa.array(np.zeros(len(items), np.bool_)),
        "applicable": pa.array(np.ones(len(items), np.bool_)),
        "defect_code": pa.nulls(len(items), pa.string()),
        "root_cause": pa.nulls(len(items), pa.string()),
    }
    offsets = np.arange(0, len(items) + 1, questions, dtype=np.int32)
    structs = pa.StructArray.from_arrays(list(fields.values()), names=list(fields))
    return pa.ListArray.from_arrays(pa.array(offsets), structs)


def _attributes(draw: _Draw, of: Numbers) -> dict[str, pa.Array]:
    """Return queue, agent, team and issue of interactions: the same in all their events."""
    queues, agents = draw.variant.queues, draw.variant.agents
    agent = draw.below(agents, "agent", of)
    return {
        "queue_id": _of_kind("q", queues, draw.below(queues, "queue", of)),
        "agent_id": _of_kind("a", agents, agent),
        "team_id": _of_kind("t", TEAMS, agent % TEAMS),
        "issue_id": _of_kind("x", ISSUES, draw.below(ISSUES, "issue", of)),
    }


def _event_times(draw: _Draw, numbers: Numbers) -> Numbers:
    passed = passed_ms(numbers, draw.stretches)
    return FIRST_MS + passed - draw.below(_DISORDER_MS, "late", numbers)


@cache
def _names(kind: str, count: int) -> pa.Array:
    return pa.array([f"{kind}{n}" for n in range(count)])


def _of_kind(kind: str, count: int, index: Numbers) -> pa.Array:
    return _named(_names(kind, count), index)


def _ids(kind: str, numbers: Numbers) -> pa.Array:
    return pa.array([f"{kind}{n:012x}" for n in numbers.tolist()])


def _named(names: pa.Array, index: Numbers) -> pa.Array:
    return names.take(pa.array(index))


def _same(value: str, numbers: Numbers) -> pa.Array:
    return pa.repeat(value, len(numbers))


def _where(kept: npt.NDArray[np.bool_], values: Any) -> pa.Array:
    """Return the values with null wherever they are not to be kept."""
    plain = values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values
    return pa.array(plain, mask=~kept)


def _part(contract: str, numbers: Numbers, keys: pa.Array, columns: Mapping[str, Any]) -> Part:
    batch = pa.RecordBatch.from_pydict({name: pa.array(of) for name, of in columns.items()})
    return Part(contract, numbers, [key.encode() for key in keys.to_pylist()], batch)


_MAKERS: Final = {"interaction": _interactions, "survey": _surveys, "evaluation": _evaluations}
