"""Events of a small centre, played through fold and merge; and what plain Python makes of them."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

from processors.actions import action_record, suppression_record
from processors.fold import WATERMARK, Section, SourceState, admit, fold, with_earlier
from processors.histogram import BUCKETS, bucket_of
from processors.keys import KEY_SEPARATOR
from processors.merge import Block, Changed, Merge, Outcome, Stretch
from processors.rules import Firing
from processors.segments import Segment
from processors.watermark import BEFORE_ALL_MS
from processors.windows import day_window
from streams.definitions import Definitions
from tests.builders import EVALUATIONS, INTERACTIONS, NOON_MS, SURVEYS, frame, record

Source = tuple[str, int]
Event = dict[str, Any]

SOURCES: tuple[Source, ...] = tuple(
    (topic, partition) for topic in (INTERACTIONS, SURVEYS, EVALUATIONS) for partition in (0, 1)
)

#: After every grace and reach of what these tests make.
END_MS = NOON_MS + 86_400_000 * 2

_CODES = {INTERACTIONS: "I", SURVEYS: "S", EVALUATIONS: "E"}


# -- making events --------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn, most: int = 12) -> dict[Source, list[Event]]:
    """Return the events of some partitions.

    They are out of order, some far too late, some sent twice. Some are sent in several versions, in
    any order; where a topic is not restatable a version says nothing.
    """
    found: dict[Source, list[Event]] = {}
    for source in draw(st.sets(st.sampled_from(SOURCES), min_size=1)):
        steps = draw(st.lists(st.integers(-30, 25), min_size=1, max_size=most))
        events: list[Event] = []
        time = NOON_MS
        for number, step in enumerate(steps):
            if events and draw(st.integers(0, 4)) == 0:
                again = draw(st.sampled_from(events))
                events.append(draw(st.sampled_from([again, draw(_version(source[0], again))])))
                continue
            time += step * 1_000
            name = f"{_CODES[source[0]]}{source[1]}-{number}"
            events.append(draw(_EVENTS[source[0]](name, time)))
        found[source] = events
    return found


@st.composite
def _version(draw: st.DrawFn, topic: str, event: Event) -> Event:
    """Return the event as it is stated once more: other figures and keys, the same instants."""
    other = draw(_EVENTS[topic](event["event_id"], event["event_time"]))
    same = {name: event[name] for name in ("interaction_time",) if name in event}
    return {**other, **same, "version": draw(st.integers(1, 4))}


_AGENTS = st.sampled_from([None, "A1", "A2"])
_TEAMS = st.sampled_from([None, "T1", "T2"])
_QUEUES = st.sampled_from(["billing", "sales"])


@st.composite
def _interaction(draw: st.DrawFn, name: str, time: int) -> Event:
    answered = draw(st.booleans())
    wait = draw(st.sampled_from([5_000, 35_000, 90_000])) if answered else None
    return record(
        INTERACTIONS,
        name,
        time,
        event_type="ANSWERED" if answered else "OFFERED",
        interaction_id=f"contact of {name}",
        queue_wait_ms=wait,
        queue_id=draw(_QUEUES),
        agent_id=draw(_AGENTS),
        team_id=draw(_TEAMS),
    )


@st.composite
def _survey(draw: st.DrawFn, name: str, time: int) -> Event:
    back = draw(st.sampled_from([None, 0, 25_000, 60_000]))
    return record(
        SURVEYS,
        name,
        time,
        survey_id=name,
        csat=draw(st.sampled_from([None, 1, 5])),
        queue_id=draw(st.none() | _QUEUES),
        interaction_time=None if back is None else time - back,
    )


@st.composite
def _evaluation(draw: st.DrawFn, name: str, time: int) -> Event:
    return record(
        EVALUATIONS,
        name,
        time,
        evaluation_id=name,
        interaction_id=f"contact of {name}",
        agent_id=draw(st.sampled_from(["A1", "A2"])),
        team_id=draw(_TEAMS),
        score_percent=draw(st.sampled_from([20.0, 33.333333, 80.0])),
        auto_failed=draw(st.integers(0, 3)) == 0,
    )


_EVENTS = {INTERACTIONS: _interaction, SURVEYS: _survey, EVALUATIONS: _evaluation}


# -- plain Python ---------------------------------------------------------------------------------


@dataclass
class Account:
    """What became of the records of a partition."""

    consumed: int = 0
    applied: int = 0
    duplicates: int = 0
    expired: int = 0
    dead_lettered: int = 0


def decide(
    events: Sequence[Event | None], lateness: Any, advances: Mapping[int, int] | None = None
) -> tuple[list[Event], Account]:
    """Return the applied events of a partition and its account, one event after the other.

    None stands for a record that cannot be read; ``advances`` raise the watermark at positions. Of
    several applied events of one id, each takes back the one before.
    """
    account, applied, watermark = Account(), [], BEFORE_ALL_MS
    seen: dict[str, int] = {}
    for position, event in enumerate(events):
        watermark = max(watermark, (advances or {}).get(position, BEFORE_ALL_MS))
        account.consumed += 1
        if event is None:
            account.dead_lettered += 1
            continue
        time = event["event_time"]
        if time < watermark - lateness.grace_ms:
            account.expired += 1
        elif _version_of(event) <= seen.get(event["event_id"], 0):
            account.duplicates += 1
        else:
            account.applied += 1
            seen[event["event_id"]] = _version_of(event)
            applied.append(event)
        watermark = max(watermark, time - lateness.disorder_ms)
    return applied, account


def _version_of(event: Event) -> int:
    """Return an event's version; those of interactions are all one."""
    return 1 if "queue_wait_ms" in event else int(event["version"])


def counted(applied: Sequence[Event]) -> list[Event]:
    """Return those of a partition's applied events that nothing restates."""
    return list({event["event_id"]: event for event in applied}.values())


def immediate_decisions(applied: Sequence[Event]) -> Counter[tuple[str, str]]:
    """Return what the rule over failed evaluations says: agent, evaluation, and opened or not."""
    said: Counter[tuple[str, str]] = Counter()
    for event in applied:
        subject = f"{event['agent_id']} {event['event_id']}" if event.get("auto_failed") else ""
        for one, status in list(said):
            if one.endswith(f" {event['event_id']}") and one != subject and status == "OPEN":
                said[one, "WITHDRAWN"] = 1
        if subject:
            said[subject, "OPEN"] = 1
    return said


@dataclass
class Total:
    """What one key has in one window."""

    sums: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    histogram: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    attribute: tuple[int, str] | None = None


Row = tuple[str, str, int, str]  # scope, window kind and size, start, key


def totals(applied: Mapping[Source, Sequence[Event]]) -> dict[Row, Total]:
    """Return the totals of every key and window, added up one event at a time.

    What was restated counts no more, but its key stays, with nothing, and so does its team.
    """
    found: dict[Row, Total] = defaultdict(Total)
    for (topic, _), events in applied.items():
        for event in events:
            for row in _rows_of(topic, event):
                _note_team(found[row], event, row[0])
        for event in counted(events):
            for row in _rows_of(topic, event):
                _add(found[row], topic, event, row[0])
    return dict(found)


def _rows_of(topic: str, event: Event) -> Iterator[Row]:
    time = event["event_time"]
    if topic == SURVEYS and event["interaction_time"] is not None:
        time = event["interaction_time"]
    minute = time - time % 60_000
    if topic != EVALUATIONS:
        queue = event["queue_id"] or ""
        yield "queue", "TUMBLING:60000", minute, queue
        yield "queue", "DAY:86400000", day_window(time, "Europe/Berlin")[0], queue
        for back in range(5):
            yield "queue", "HOPPING:300000", minute - back * 60_000, queue
    if topic != SURVEYS:
        yield "agent", "TUMBLING:60000", minute, event["agent_id"] or ""


def _add(total: Total, topic: str, event: Event, scope: str) -> None:
    if topic == INTERACTIONS:
        total.sums["offered"] += event["event_type"] == "OFFERED"
        total.sums["answered"] += event["event_type"] == "ANSWERED"
        total.sums["wait"] += event["queue_wait_ms"] or 0
        if event["queue_wait_ms"] is not None and scope == "queue":
            total.histogram[int(bucket_of(pl.Series([event["queue_wait_ms"]]).to_numpy())[0])] += 1
    elif topic == SURVEYS:
        total.sums["responses"] += event["csat"] is not None
        total.sums["points"] += event["csat"] or 0
    else:
        total.sums["reviews"] += 1
        total.sums["score"] += round(event["score_percent"] * 1_000_000)


def _note_team(total: Total, event: Event, scope: str) -> None:
    if scope == "agent" and event["team_id"] is not None:
        newest = (event["event_time"], event["team_id"])
        total.attribute = max(total.attribute or newest, newest)


# -- fold and merge -------------------------------------------------------------------------------


@dataclass
class Folding:
    """The folds of all partitions: events in, blocks out."""

    definitions: Definitions
    states: dict[Source, SourceState] = field(default_factory=dict)
    begun: set[Source] = field(default_factory=set)

    def flush(
        self,
        taken: Mapping[Source, Sequence[Event]],
        advances: Mapping[Source, int | None] | None = None,
        parts: int = 1,
    ) -> list[Block]:
        """Return the blocks of one flush; an advance of None says that the partition is empty."""
        stretches, sections = [], []
        for source, events in taken.items():
            stretches.append(self._stretch(source, len(events)))
            sections += self._sections(source, events)
            stretches[-1] = replace(stretches[-1], watermark_ms=self._watermark(source))
        for source, watermark in (advances or {}).items():
            if watermark is not None:
                self.state(source).advance(watermark)
            stretch = self._stretch(source, 0)
            stretches.append(replace(stretch, watermark_ms=self._watermark(source)))
        self.begun.update(taken, advances or {})
        return _in_parts(tuple(stretches), sections, parts)

    def state(self, source: Source) -> SourceState:
        return self.states.setdefault(source, SourceState())

    def _watermark(self, source: Source) -> int | None:
        watermark = self.state(source).watermark_ms
        return None if watermark == BEFORE_ALL_MS else watermark

    def _stretch(self, source: Source, events: int) -> Stretch:
        state = self.state(source)
        start = state.position
        state.position += events
        return Stretch(*source, start, state.position, None, source not in self.begun)

    def _sections(self, source: Source, events: Sequence[Event]) -> list[Section]:
        plan = self.definitions.inputs[source[0]]
        decoded = frame(source[0], *events)
        kept = [json.dumps(event).encode() for event in events] if plan.topic.restatable else None
        admission = admit(self.state(source), decoded, len(events), plan.lateness, kept)
        decoded = decoded.with_columns(pl.Series(WATERMARK, admission.watermarks, pl.Int64))
        applied = decoded.filter(pl.Series(admission.applied))
        if kept is not None:
            applied = with_earlier(
                decoded, admission, lambda found: frame(source[0], *map(json.loads, found))
            )
        return [section for of_source in plan.folds for section in fold(of_source, applied)]


def _in_parts(stretches: tuple[Stretch, ...], sections: list[Section], parts: int) -> list[Block]:
    return [Block(stretches, part, parts, tuple(sections[part::parts])) for part in range(parts)]


@dataclass
class Merged:
    """What a merge published last for each key and window, and what its rules decided."""

    rows: dict[Row, Total] = field(default_factory=dict)
    statuses: dict[Row, str] = field(default_factory=dict)
    outcomes: list[dict[str, Any]] = field(default_factory=list)

    def note(self, merge: Merge, outcomes: Iterable[Outcome]) -> None:
        """Take up outcomes and everything that is to be published."""
        self.outcomes += [outcome_record(outcome) for outcome in outcomes]
        for scope_id in merge.scopes:
            if merge.has_changed(scope_id):
                for changed in merge.changed(scope_id):
                    self._note(changed)

    def _note(self, changed: Changed) -> None:
        window, segment = changed.window, changed.segment
        for slot, key in zip(changed.rows.tolist(), changed.keys, strict=True):
            row = (
                changed.scope.id,
                f"{window.kind}:{window.size_ms}",
                segment.start_ms,
                KEY_SEPARATOR.join(key.split(KEY_SEPARATOR)),
            )
            sums = zip(changed.scope.sums, segment.sums[slot].tolist(), strict=True)
            total = Total(defaultdict(int, {name: value for name, value in sums if value}))
            for _, place, count in segment.counts_of(np.array([slot])).tolist():
                total.histogram[place % BUCKETS] += count
            total.attribute = attributes_in(segment).get(slot)
            self.rows[row] = total
            final = len(changed.final) == len(changed.scope.sources)
            revised = bool(segment.revised[slot])
            self.statuses[row] = ("REVISED" if revised else "FINAL") if final else "PROVISIONAL"


def attributes_in(segment: Segment) -> dict[int, tuple[int, str]]:
    """Return time and attributes of the rows that have any, by row."""
    times, values = segment.noted
    noted = enumerate(zip(times.tolist(), values, strict=True))
    return {row: (time, value) for row, (time, value) in noted if value is not None}


def outcome_record(outcome: Outcome) -> dict[str, Any]:
    """Return the record of a decision, without the things that differ from run to run."""
    make = action_record if isinstance(outcome, Firing) else suppression_record
    return dict(make(outcome, [], 0))


def without_zeros(found: Mapping[Row, Total]) -> dict[Row, Total]:
    """Return totals with only those sums that are not zero, to be compared."""
    for total in found.values():
        total.sums = defaultdict(int, {k: v for k, v in total.sums.items() if v})
    return dict(found)
