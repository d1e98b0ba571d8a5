"""The load: hours of a busy contact centre around a generated day, disturbed, with known problems.

Twenty queues, 300 agents in thirty teams, fifteen issues; beside them the generated day of the same
seed, with the problems it plants. The dense stretch has problems of its own: evaluations failed by
a critical question all the way through, and teams that are slow to wrap up, one after the other.
So it is known which actions must come out, and that no other may.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import merge
from random import Random
from typing import Any, Final

from schemas.catalogue import Catalogue, Topic, load_catalogue
from schemas.codec import Codec
from schemas.registry import FileRegistry
from streams.sources.centre import HOUR_MS, MINUTE_MS, planted
from streams.sources.events import SourceEvent, seeded
from streams.sources.generated_day import generate_day

QUEUES: Final = 20
AGENTS: Final = 300
TEAMS: Final = 30
ISSUES: Final = 15
SLOW_TEAMS: Final = 8

#: 2026-09-14T10:00:00Z, in the middle of the generated day.
FIRST_MS: Final = 1_789_380_000_000
SPAN_MS: Final = 4 * HOUR_MS

# Of all records. Those that come again and those of the generated day are not drawn for all of it.
DUPLICATES: Final = 0.10
POISON: Final = 0.001
OUT_OF_ORDER: Final = 0.23
EXPIRED: Final = 0.015

_SLOW_MS: Final = 75 * MINUTE_MS
_SLOW_AGAIN_MS: Final = 20 * MINUTE_MS
_REMEMBERED: Final = 50_000
_SOURCE: Final = "/andon/tests/faults/generated"
_INSTANTS: Final = ("event_time", "offered_time", "answered_time", "interaction_time")
_QUESTIONS: Final = ("greeting", "need", "solution")
# Milliseconds by which an event comes too late, and how often: in the disorder of its topic, in
# windows that are over, and shortly before it would not count any more.
_DELAYS: Final = ((1_500, 0.75), (10 * MINUTE_MS, 0.20), (50 * MINUTE_MS, 0.05))


class Kind(StrEnum):
    """What a record is to the account of events."""

    IN_ORDER = "in order"
    OUT_OF_ORDER = "out of order"
    EXPIRED = "late beyond grace"
    DUPLICATE = "duplicates"
    POISON = "poison"


@dataclass(frozen=True, slots=True)
class Sent:
    """A record on its way to an input topic."""

    kind: Kind
    topic: str
    key: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Expected:
    """An action that must come out exactly once: rule, columns of its subject, and the event.

    ``evaluation_id`` is that of rules that look at single evaluations.
    """

    rule_id: str
    subject: frozenset[tuple[str, str]]
    evaluation_id: str | None = None


@dataclass(slots=True)
class Load:
    """About ``events`` records that follow from ``seed``; ``expected`` is whole when all are drawn.

    Iterate once.
    """

    seed: int
    events: int
    expected: list[Expected] = field(default_factory=list)
    counts: Counter[Kind] = field(default_factory=Counter)
    _delays: dict[tuple[str, str], tuple[Kind, int]] = field(default_factory=dict)
    _rng: Random = field(init=False)
    _topics: Mapping[str, Topic] = field(init=False)
    _codecs: Mapping[str, Codec] = field(init=False)

    def __post_init__(self) -> None:
        self._rng = seeded(self.seed, "disturbances")
        catalogue: Catalogue = load_catalogue()
        self._topics = {str(topic.contract): topic for topic in catalogue.inputs}
        self._codecs = {
            name: Codec(name, FileRegistry(), topic.name) for name, topic in self._topics.items()
        }

    def __iter__(self) -> Iterator[Sent]:
        for sent in self._disturbed():
            self.counts[sent.kind] += 1
            yield sent

    def _disturbed(self) -> Iterator[Sent]:
        """Yield the events in the order of their time, but for what is done to some of them."""
        rng = self._rng
        recent: deque[Sent] = deque(maxlen=_REMEMBERED)
        poison = self._poison()
        for event in self._events():
            sent = self._sent(event)
            recent.append(sent)
            yield sent
            if rng.random() < DUPLICATES / (1 - DUPLICATES):
                # Mostly from a moment ago, sometimes from long ago.
                back = min(len(recent), int(10 ** rng.uniform(0, 4.7)))
                again = recent[-back]
                yield Sent(Kind.DUPLICATE, again.topic, again.key, again.value)
            if rng.random() < POISON:
                yield next(poison)

    def _events(self) -> Iterator[SourceEvent]:
        day = generate_day(self.seed)
        self.expected += [
            Expected(problem.rule_id, frozenset(problem.subject.items()))
            for problem in planted(self.seed)
            if problem.rule_id != "compliance-auto-fail"
        ]
        for event in day:
            if event.record.get("auto_failed"):
                self._expect_failed(event.record)
        count = max(0, round(self.events * (1 - DUPLICATES - POISON)) - len(day))
        return merge(day, self._dense(count), key=lambda event: event.event_time_ms)

    # -- disturbances ---------------------------------------------------------------------------

    def _sent(self, event: SourceEvent) -> Sent:
        topic = self._topics[event.contract]
        # Who restates an event repeats its instants, so both come equally late.
        about = (event.contract, event.event_id)
        kind, back_ms = self._delays.get(about) or self._delay(topic, event)
        if event.contract != "interaction":
            self._delays[about] = kind, back_ms
        record = dict(event.record)
        for name in _INSTANTS if back_ms else ():
            if record.get(name) is not None:
                record[name] -= back_ms
        if event.source == _SOURCE and kind is not Kind.EXPIRED and record.get("auto_failed"):
            self._expect_failed(record)
        return Sent(
            kind, topic.name, event.key.encode(), self._codecs[event.contract].encode(record)
        )

    def _delay(self, topic: Topic, event: SourceEvent) -> tuple[Kind, int]:
        """Draw how much earlier than its place in the log an event has happened.

        The generated day is only brought out of order: rules must see all of its problems.
        """
        rng, draw, ours = self._rng, self._rng.random(), event.source == _SOURCE
        if draw < EXPIRED and ours:
            beyond_ms = rng.randrange(10 * MINUTE_MS, 70 * MINUTE_MS)
            return Kind.EXPIRED, topic.grace_ms + topic.disorder_ms + beyond_ms
        if draw < EXPIRED + OUT_OF_ORDER:
            limits, weights = zip(*_DELAYS, strict=True)
            limit = rng.choices(limits, weights)[0] if ours else _DELAYS[0][0]
            return Kind.OUT_OF_ORDER, rng.randrange(1, limit)
        return Kind.IN_ORDER, 0

    def _poison(self) -> Iterator[Sent]:
        """Yield records that cannot be used, each in another way, to all topics in turn."""
        good = SourceEvent("interaction", self._interaction(0, FIRST_MS, "OFFERED"), _SOURCE)
        codec = self._codecs["interaction"]
        value = codec.encode(good.record)
        sorts = (
            b"no Avro at all",
            b"\0\0\0\0\1 of no known schema",
            value[:-7],
            codec.encode({**good.record, "event_id": "refused", "leg": 0}),
            codec.encode({**good.record, "event_id": "too early", "event_time": 4_102_444_800_000}),
            b"",
            None,
        )
        number = 0
        while True:
            for topic in self._topics.values():
                number += 1
                key = f"poison-{number}".encode()
                yield Sent(Kind.POISON, topic.name, key, sorts[number % len(sorts)])

    def _expect_failed(self, record: Mapping[str, Any]) -> None:
        subject = frozenset({("agent_id", record["agent_id"])})
        problem = Expected("compliance-auto-fail", subject, str(record["evaluation_id"]))
        # The generated day restates evaluations, and takes some of their failures back.
        if problem not in self.expected:
            self.expected.append(problem)

    # -- the dense stretch ----------------------------------------------------------------------

    def _dense(self, count: int) -> Iterator[SourceEvent]:
        rng = seeded(self.seed, "contacts")
        slow_from_ms = self._slow_teams()
        steps = ("OFFERED", "ANSWERED", "COMPLETED")
        for number in range(count):
            time_ms = FIRST_MS + number * SPAN_MS // count
            place, nth = number % 50, number // 50
            if place < 48:
                # Whoever is offered now is answered a little later, and completed after that.
                step = (nth * 48 + place) % 3
                of = (nth * 48 + place) // 3 + 1_000 - (0, 30, 300)[step]
                yield self._event(
                    "interaction", self._interaction(of, time_ms, steps[step], slow_from_ms, rng)
                )
            elif place == 48:
                yield self._event("survey", self._survey(nth, time_ms, rng))
            else:
                yield self._event("evaluation", self._evaluation(nth, time_ms, rng))

    def _slow_teams(self) -> Mapping[str, int]:
        """Return since when each of the slow teams is slow; all see it through before the end."""
        rng = seeded(self.seed, "slow teams")
        chosen = rng.sample(range(TEAMS), SLOW_TEAMS)
        self.expected += [
            Expected("communication-after-contact-work", frozenset({("team_id", f"t{team}")}))
            for team in chosen
        ]
        return {f"t{team}": FIRST_MS + n * _SLOW_AGAIN_MS for n, team in enumerate(chosen)}

    def _event(self, contract: str, record: Mapping[str, Any]) -> SourceEvent:
        return SourceEvent(contract, record, _SOURCE)

    def _whose(self, of: int) -> dict[str, Any]:
        """Return queue, agent, team and issue of an interaction: the same in all its events."""
        mixed = (of * 2_654_435_761 + self.seed) & 0xFFFFFFFF
        agent = mixed // 7 % AGENTS
        return {
            "channel": ("VOICE", "VOICE", "CHAT")[mixed % 3],
            "queue_id": f"q{agent % QUEUES}",
            "agent_id": f"a{agent}",
            "team_id": f"t{agent % TEAMS}",
            "issue_id": f"x{mixed // 11 % ISSUES}",
        }

    def _interaction(
        self,
        of: int,
        time_ms: int,
        step: str,
        slow_from_ms: Mapping[str, int] | None = None,
        rng: Random | None = None,
    ) -> dict[str, Any]:
        record = self._whose(of) | {
            "event_id": f"i{of}-{step}",
            "event_time": time_ms,
            "event_type": step,
            "interaction_id": f"i{of}",
            "direction": "INBOUND",
            "handler": "HUMAN",
        }
        if step == "OFFERED" or rng is None:
            return {**record, "agent_id": None, "team_id": None}
        if step == "ANSWERED":
            return {**record, "queue_wait_ms": rng.randrange(60_000)}
        slow_since_ms = (slow_from_ms or {}).get(record["team_id"], time_ms + 1)
        slow = slow_since_ms <= time_ms < slow_since_ms + _SLOW_MS
        return record | {
            "talk_ms": rng.randrange(60_000, 300_000),
            "hold_ms": rng.randrange(30_000),
            "after_contact_work_ms": rng.randrange(20_000) + (300_000 if slow else 0),
        }

    def _survey(self, nth: int, time_ms: int, rng: Random) -> dict[str, Any]:
        return self._whose(nth * 16) | {
            "event_id": f"s{nth}",
            "event_time": time_ms,
            "event_type": "ANSWERED",
            "survey_id": f"s{nth}",
            "interaction_id": f"i{nth * 16}",
            "interaction_time": time_ms - rng.randrange(HOUR_MS),
            "csat": rng.choice((2, 3, 4, 5, 5)),
            "nps": rng.randrange(11),
            "ces": rng.randrange(1, 8),
            "resolved": rng.random() < 0.9,
            "contacts_needed": 1,
        }

    def _evaluation(self, nth: int, time_ms: int, rng: Random) -> dict[str, Any]:
        points = [float(rng.choice((3, 4, 5))) for _ in _QUESTIONS]
        return self._whose(nth * 16) | {
            "event_id": f"v{nth}",
            "event_time": time_ms,
            "evaluation_id": f"v{nth}",
            "interaction_id": f"i{nth * 16}",
            "evaluator_id": f"r{nth % 9}",
            "evaluator_kind": "HUMAN",
            "purpose": "REGULAR",
            "form_id": "voice",
            "form_version": 1,
            "status": "SUBMITTED",
            "score_percent": sum(points) * 100 / (5 * len(points)),
            "auto_failed": rng.random() < 0.03,
            "items": [
                {
                    "section_id": "talk",
                    "question_id": question,
                    "score": score,
                    "max_score": 5.0,
                    "weight": 1.0,
                    "critical": False,
                    "applicable": True,
                }
                for question, score in zip(_QUESTIONS, points, strict=True)
            ],
        }
