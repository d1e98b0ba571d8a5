"""Why an action was proposed: what it quotes, recomputed from the input topics."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from schemas import catalogue as topics
from schemas.catalogue import load_catalogue
from schemas.client import offset_ranges
from schemas.codec import Codec
from schemas.registry import SchemaRegistry, open_registry
from streams.settings import Settings
from streams.verify.definitions import (
    Definitions,
    Kpi,
    RuleText,
    Scope,
    read_definitions,
    read_rules,
)
from streams.verify.figures import Answer, Event, FiguresOfRules, Position, Question
from streams.verify.intake import Extent, load_advances, load_input, read_records
from streams.verify.judge import inputs_of
from streams.verify.ledger import Ledger

RELATIVE_TOLERANCE = 1e-9
"""Two values are equal if they differ by at most this share of the greater."""

_BOUND_TOLERANCE = 1e-7
"""Of interval bounds, in percent: a bound of 0 may come out as a little more."""

_Z = 1.959963984540054  # two-sided 95 %

Action = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figures:
    """A KPI at a tick: value in its unit, number of events, bounds where it has any."""

    value: float | None
    n: int
    lower_bound: float | None = None
    upper_bound: float | None = None


@dataclass(frozen=True, slots=True)
class EvidenceEntry:
    """A KPI of one key that an action quotes; ``recomputed`` is None where that is impossible.

    ``problems`` says in words what does not agree. The window is ``[start_time, end_time)``, in
    epoch milliseconds; of a rule over single events it is empty, at the event's time.
    """

    kpi_id: str
    key: Mapping[str, str]
    start_time: int
    end_time: int
    quoted: Figures
    recomputed: Figures | None
    comparator: str | None
    threshold: float | None
    events: tuple[Event, ...]
    problems: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether counts are equal, values equal to 1e-9, and all named events there."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class Explanation:
    """An action as it was published, and what the input says of its evidence.

    ``problems`` are those of the action as a whole; ``notes`` may explain a difference.
    """

    action: Action
    entries: tuple[EvidenceEntry, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def action_id(self) -> str:
        """Id of the action."""
        return str(self.action["action_id"])

    @property
    def agrees(self) -> bool:
        """Whether everything that the action quotes follows from the input."""
        return not self.problems and all(entry.agrees for entry in self.entries)

    def plain(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "action_id": self.action_id,
            "agrees": self.agrees,
            "problems": list(self.problems),
            "notes": list(self.notes),
            "evidence": [asdict(each) | {"agrees": each.agrees} for each in self.entries],
            "action": dict(self.action),
        }


@dataclass(frozen=True, slots=True)
class Explained:
    """The explanations, and the ids asked for that no action has."""

    explanations: tuple[Explanation, ...]
    unknown: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether every action asked for is there and agrees."""
        return not self.unknown and all(each.agrees for each in self.explanations)


def explain(settings: Settings, action_ids: Collection[str] | None = None) -> Explained:
    """Recompute what actions quote, those of the ids or (None) all, in one reading of the input.

    An action that was published several times is explained as often.

    Raises:
        TopicMissing: a topic is not there.
        DefinitionError: the registry or the rules cannot be read.
        KafkaException: the broker does not answer.

    """
    client = settings.kafka_client()
    catalogue = load_catalogue(settings.topics_file)
    definitions, rules = read_definitions(settings.kpis_dir), read_rules(settings.rules_dir)
    url = settings.schema_registry_url
    registry = open_registry(None if url is None else str(url))
    actions = list(_published(client, registry, action_ids))
    known = {str(action["action_id"]) for action in actions}
    unknown = tuple(each for each in dict.fromkeys(action_ids or ()) if each not in known)
    if not actions:
        return Explained((), unknown)
    with (
        tempfile.TemporaryDirectory(prefix="andon-explain-") as directory,
        Ledger(inputs_of(catalogue, definitions), Path(directory)) as ledger,
    ):
        extents = _read_input(client, registry, ledger, actions)
        ledger.decide()
        made = explain_actions(ledger, definitions, rules, actions, extents)
        return Explained(tuple(made), unknown)


def _published(
    client: Mapping[str, Any], registry: SchemaRegistry, wanted: Collection[str] | None
) -> Iterator[Action]:
    codec = Codec("action", registry, topics.ACTIONS)
    for records in read_records(client, topics.ACTIONS):
        for record in records:
            action = codec.decode(record.value, record.headers) if record.value else None
            if action is None or action["status"] != "OPEN":
                continue
            if wanted is None or action["action_id"] in wanted:
                yield action


def _read_input(
    client: Mapping[str, Any],
    registry: SchemaRegistry,
    ledger: Ledger,
    actions: Sequence[Action],
) -> list[Extent]:
    """Put the input up to the last position that any action names into the ledger."""
    last: dict[tuple[str, int], int] = {}
    for each in (place for action in actions for place in action["as_of"]):
        tp = (each["topic"], each["partition"])
        last[tp] = max(last.get(tp, 0), each["position"])
    found = []
    for source in ledger.inputs:
        ranges = offset_ranges(client, source.topic)
        own = [
            Extent(source.topic, partition, first, last.get((source.topic, partition), 0), end)
            for partition, (first, end) in ranges.items()
        ]
        load_input(client, ledger, Codec(source.contract, registry, source.topic), registry, own)
        found += own
    load_advances(client, ledger, Codec("watermark-advance", registry, topics.WATERMARKS), last)
    return found


def explain_actions(
    ledger: Ledger,
    definitions: Definitions,
    rules: Mapping[str, RuleText],
    actions: Sequence[Action],
    extents: Sequence[Extent] = (),
) -> list[Explanation]:
    """Explain decoded action records from a decided ledger, in their order."""
    figures = FiguresOfRules(ledger, definitions)
    places = [list(_positions(number, action)) for number, action in enumerate(actions)]
    entries = _of_events(figures, rules, actions, places)
    entries |= _of_windows(figures, definitions, rules, actions, places)
    spans = {(each.topic, each.partition): each for each in extents}
    return [
        Explanation(
            action,
            tuple(entries[number, i] for i in range(len(action["evidence"]))),
            tuple(_problems(action, rules, places[number], spans)),
            tuple(_notes(action, rules, places[number], spans)),
        )
        for number, action in enumerate(actions)
    ]


Entries = dict[tuple[int, int], EvidenceEntry]


def _of_events(
    figures: FiguresOfRules,
    rules: Mapping[str, RuleText],
    actions: Sequence[Action],
    places: Sequence[Sequence[Position]],
) -> Entries:
    """Return the entries of rules over single events, by action and place in it."""
    entries: Entries = {}
    for rule_id, rule in rules.items():
        own = [n for n, action in enumerate(actions) if action["rule_id"] == rule_id]
        if rule.source is None or not own:
            continue
        found = figures.matching(rule, [place for number in own for place in places[number]])
        for number in own:
            at = {(place.topic, place.partition, place.position - 1) for place in places[number]}
            events = [e for e in found if (e.topic, e.partition, e.position) in at]
            for i, evidence in enumerate(actions[number]["evidence"]):
                entries[number, i] = _of_event(evidence, rule, events)
    return entries


def _of_windows(
    figures: FiguresOfRules,
    definitions: Definitions,
    rules: Mapping[str, RuleText],
    actions: Sequence[Action],
    places: Sequence[Sequence[Position]],
) -> Entries:
    """Return the entries of all other rules, by action and place in it."""
    entries: Entries = {}
    asked: dict[tuple[int, int], Question] = {}
    for number, action in enumerate(actions):
        rule = rules.get(action["rule_id"])
        if rule is not None and rule.source is not None:
            continue
        for i, evidence in enumerate(action["evidence"]):
            found = _find(evidence, rule, definitions)
            if isinstance(found, str):
                entries[number, i] = _entry(evidence, None, (), [found])
            else:
                asked[number, i] = _question(number, evidence, *found)
    flat = [place for several in places for place in several]
    answers = figures.answers(list(asked.values()), flat)
    for (number, i), answer in zip(asked, answers, strict=True):
        entries[number, i] = _of_window(actions[number]["evidence"][i], answer)
    return entries


def _positions(number: int, action: Action) -> Iterator[Position]:
    for each in action["as_of"]:
        place = (each["topic"], each["partition"], each["position"], each["from_time"])
        yield Position(number, *place)


Spans = Mapping[tuple[str, int], Extent]


def _problems(
    action: Action, rules: Mapping[str, RuleText], places: Sequence[Position], spans: Spans
) -> Iterator[str]:
    if action["rule_id"] not in rules:
        yield (
            f"no rule file has {action['rule_id']}: set ANDON_RULES_DIR to the directory that the"
            " workers used"
        )
    if not action["evidence"]:
        yield "the action quotes nothing"
    for each in places:
        span = spans.get((each.topic, each.partition))
        if span is not None and each.position > span.end:
            yield (
                f"the action includes {each.topic}-{each.partition} up to {each.position}, but it"
                f" ends at {span.end}: the topic was made anew"
            )


def _notes(
    action: Action, rules: Mapping[str, RuleText], places: Sequence[Position], spans: Spans
) -> Iterator[str]:
    rule = rules.get(action["rule_id"])
    if rule is not None and rule.version != action["rule_version"]:
        yield (
            f"decided by version {action['rule_version']} of {action['rule_id']}, the files have"
            f" {rule.version}"
        )
    for each in places:
        span = spans.get((each.topic, each.partition))
        if span is not None and span.first > 0:
            yield (
                f"{each.topic}-{each.partition} begins at {span.first}: what it held before is gone"
            )


def _find(
    evidence: Mapping[str, Any], rule: RuleText | None, definitions: Definitions
) -> tuple[Scope, Kpi] | str:
    """Return scope and KPI of an evidence entry, or why it cannot be recomputed."""
    kpi_id, version = evidence["kpi_id"], evidence["definition_version"]
    scope = next((s for s in definitions.scopes if rule and s.id == rule.scope), None)
    if scope is None:
        return "cannot be recomputed: its scope is not known without its rule"
    if [part["name"] for part in evidence["key"]] != list(scope.key):
        return f"cannot be recomputed: its key is not that of scope {scope.id}"
    kpi = next((kpi for kpi in scope.kpis if kpi.id == kpi_id), None)
    if kpi is None or kpi.of is not None:
        return f"cannot be recomputed: scope {scope.id} has no such KPI that rules can read"
    if kpi.version != version:
        return (
            f"cannot be recomputed: decided by version {version} of {kpi_id}, the files have"
            f" {kpi.version}"
        )
    return scope, kpi


def _question(number: int, evidence: Mapping[str, Any], scope: Scope, kpi: Kpi) -> Question:
    window = evidence["window"]
    return Question(
        number,
        scope,
        kpi,
        tuple(part["value"] for part in evidence["key"]),
        window["start_time"],
        window["end_time"],
        tuple(evidence["interaction_ids"]),
        tuple(evidence["evaluation_ids"]),
    )


def _of_window(evidence: Mapping[str, Any], answer: Answer) -> EvidenceEntry:
    has_bounds = evidence["lower_bound"] is not None
    bounds = _wilson(answer.value, answer.n) if has_bounds else (None, None)
    found = Figures(answer.value, answer.n, *bounds)
    return _entry(evidence, found, answer.events, [])


def _of_event(
    evidence: Mapping[str, Any], rule: RuleText, events: Sequence[Event]
) -> EvidenceEntry:
    at = evidence["window"]["end_time"]
    wanted = {*evidence["interaction_ids"]}, {*evidence["evaluation_ids"]}
    own = [
        event
        for event in events
        if event.event_time == at
        and event.interaction_id in wanted[0]
        and (event.evaluation_id in wanted[1] or not wanted[1])
    ]
    problems = [] if own else [f"no such event was counted that meets the rule: {rule.where}"]
    return _entry(evidence, Figures(None, 1 if own else 0), tuple(own), problems)


def _entry(
    evidence: Mapping[str, Any],
    found: Figures | None,
    events: Sequence[Event],
    problems: Sequence[str],
) -> EvidenceEntry:
    quoted = Figures(*(evidence[name] for name in ("value", "n", "lower_bound", "upper_bound")))
    differing = list(_differing(quoted, found)) if found is not None else []
    missing = list(_missing(evidence, events)) if found is not None else []
    window = evidence["window"]
    return EvidenceEntry(
        evidence["kpi_id"],
        {part["name"]: part["value"] for part in evidence["key"]},
        window["start_time"],
        window["end_time"],
        quoted,
        found,
        evidence["comparator"],
        evidence["threshold"],
        tuple(events),
        (*problems, *differing, *missing),
    )


def _differing(quoted: Figures, found: Figures) -> Iterator[str]:
    if quoted.n != found.n:
        yield f"n: quoted {quoted.n}, recomputed {found.n}"
    for name, tolerance in (
        ("value", 0.0),
        ("lower_bound", _BOUND_TOLERANCE),
        ("upper_bound", _BOUND_TOLERANCE),
    ):
        one, other = getattr(quoted, name), getattr(found, name)
        if not _equal(one, other, tolerance):
            yield f"{name}: quoted {_said(one)}, recomputed {_said(other)}"


def _equal(one: float | None, other: float | None, tolerance: float) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE, abs_tol=tolerance)


def _said(value: float | None) -> str:
    return "none" if value is None else repr(value)


def _missing(evidence: Mapping[str, Any], events: Sequence[Event]) -> Iterator[str]:
    for name in ("interaction_id", "evaluation_id"):
        known = {getattr(event, name) for event in events}
        for each in evidence[name + "s"]:
            if each not in known:
                yield f"{name.replace('_id', '')} {each} is not among the events that the rule saw"


def _wilson(value: float | None, n: int) -> tuple[float | None, float | None]:
    """Return the 95 % bounds of a share in percent: E. B. Wilson, JASA 22 (1927)."""
    if value is None or n <= 0:
        return None, None
    share = min(max(value, 0.0), 100.0) / 100
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    spread = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, 100 * (middle - spread)), min(100.0, 100 * (middle + spread))
