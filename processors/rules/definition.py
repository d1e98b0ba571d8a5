"""What a loaded rule book holds; everything here is checked and compiled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from processors.kpis import Kpi, Scope
from processors.rules.cel import Condition

ActionType = Literal[
    "COACHING",
    "TRAINING",
    "KNOWLEDGE_UPDATE",
    "PROCESS_REVIEW",
    "COMMUNICATION",
    "RECOGNITION",
    "CALIBRATION",
    "STAFFING",
    "WELLBEING",
]
"""What can be proposed: development and improvement, never a penalty."""

Severity = Literal["INFO", "WARNING", "CRITICAL"]
Approval = Literal["AUTO", "SUGGEST"]
Role = Literal["AGENT", "TEAM_LEAD", "TRAINER", "QUALITY", "KNOWLEDGE_OWNER", "OPERATIONS"]


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who should act; ``id`` names the column whose value says which person or group."""

    role: Role
    id: str | None


@dataclass(frozen=True, slots=True)
class Remedy:
    """What may help: ids in the systems that deliver it."""

    module_id: str | None = None
    article_id: str | None = None
    template_id: str | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a rule proposes when it fires; ``title`` and ``reason`` are templates."""

    action_type: ActionType
    severity: Severity
    approval: Approval
    recipient: Recipient
    title: str
    reason: str
    remedy: Remedy
    due_after_ms: int | None
    check_after_ms: int | None


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many keys of a subject must meet the condition, and what share of those with data."""

    at_least: int = 1
    share: float = 0.0

    def is_reached(self, count: int, population: int) -> bool:
        """Return whether ``count`` of ``population`` keys are enough."""
        # 0.55 * 20 is a little more than 11 in binary.
        return count >= self.at_least and count >= self.share * population - 1e-9


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition over the KPIs of a scope, looked at on every tick.

    ``subject`` are the key columns that name whom or what the action is about: all of the scope's,
    or fewer, and then ``quorum`` says how many of the subject's keys must meet ``when``.
    ``subject_scope`` is the scope those columns are the key of (with its attributes), else the
    rule's. ``minimum_n`` goes by position in the scope's KPIs, ``samples`` by KPI id.
    """

    id: str
    version: int
    proposal: Proposal
    scope: Scope
    window_ms: int
    every_ms: int
    subject: tuple[str, ...]
    subject_scope: str
    quorum: Quorum
    when: Condition
    clear: Condition | None
    guards: tuple[Condition, ...]
    minimum_n: Mapping[int, int]
    sustain_ms: int
    cooldown_ms: int
    inhibited_by: tuple[str, ...]
    samples: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ImmediateRule:
    """A condition on single events: one action for each event that meets it.

    ``where`` is SQL over the prepared columns of ``source``; ``expression`` the same compiled, true
    or false. ``kpi`` is the KPI that such an event counts against, quoted as evidence.
    """

    id: str
    version: int
    proposal: Proposal
    source: str
    where: str
    subject: tuple[str, ...]
    subject_scope: str
    kpi: Kpi
    expression: pl.Expr = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class RuleGroup:
    """Rules that look at the same figures: scope, window and ticks. Inhibitors stand first."""

    scope: Scope
    window_ms: int
    every_ms: int
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class RuleBook:
    """All rules of a directory.

    ``samples`` are the (scope id, sample id) that evidence quotes; ``fingerprint`` is the SHA-256
    of all definitions.
    """

    rules: tuple[Rule | ImmediateRule, ...]
    groups: tuple[RuleGroup, ...]
    samples: frozenset[tuple[str, str]]
    fingerprint: str

    def immediate(self, source: str) -> tuple[ImmediateRule, ...]:
        """Return the rules over single events of one source."""
        rules = (r for r in self.rules if isinstance(r, ImmediateRule))
        return tuple(r for r in rules if r.source == source)

    def rule(self, rule_id: str) -> Rule | ImmediateRule:
        """Return the rule of that id; raises KeyError."""
        return {rule.id: rule for rule in self.rules}[rule_id]


@dataclass(frozen=True, slots=True)
class Sample:
    """An event kept as evidence."""

    event_time_ms: int
    interaction_id: str
    evaluation_id: str | None = None


Key = tuple[str, ...]
Named = tuple[tuple[str, str], ...]
"""Key columns with their values."""
Samples = Callable[[Key, str], Sequence[Sample]]
"""The events kept for a key and a sample id, newest last or first."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A KPI of one key that a decision rests on, as it was at the tick.

    ``comparator`` and ``threshold`` are those of the first simple comparison of that KPI, None
    where the condition has none; bounds are of percent KPIs.
    """

    key: Named
    kpi: Kpi
    value: float
    n: int
    comparator: str | None
    threshold: float | None
    lower_bound: float | None
    upper_bound: float | None
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True)
class GuardResult:
    """A further condition, the figures it was decided on as text, and whether it held."""

    expression: str
    value: str
    held: bool


@dataclass(frozen=True, slots=True)
class Firing:
    """A decision to act: the rule, whom it is about, and why."""

    rule: Rule
    subject: Named
    episode_start_ms: int
    tick_ms: int
    population: int
    evidence: tuple[Evidence, ...]
    guards: tuple[GuardResult, ...]


SuppressionReason = Literal["TOO_FEW", "COOLDOWN", "GUARD"]


@dataclass(frozen=True, slots=True)
class Suppressed:
    """A decision not to act although the condition was met, with its reason."""

    rule: Rule
    subject: Named
    episode_start_ms: int
    tick_ms: int
    reason: SuppressionReason
    detail: str
    evidence: tuple[Evidence, ...]
    guards: tuple[GuardResult, ...]
