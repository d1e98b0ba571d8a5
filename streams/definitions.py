"""Everything a worker is defined by: catalogue, contracts, KPI registry, rules, and their plans."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from processors.fold import FoldPlan, plan_fold
from processors.kpis import Kpi, Registry, load_registry
from processors.kpis.fingerprint import fingerprint
from processors.merge import MergePlan, SourceTime
from processors.rules import ImmediateRule, Rule, RuleBook, load_rules
from processors.watermark import Lateness
from schemas.catalogue import PARTIALS, Catalogue, Topic, load_catalogue
from schemas.codec import Codec
from schemas.contract import load_contract
from schemas.registry import SchemaRegistry, open_registry
from streams.basis import Basis, Versioned
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class InputPlan:
    """How the events of one input topic are folded."""

    topic: Topic
    changelog: str
    lateness: Lateness
    folds: tuple[FoldPlan, ...]


@dataclass(frozen=True, slots=True)
class Definitions:
    """Loaded once at start; two workers of a group must agree on ``fingerprint``.

    The fingerprint covers what saved sums depend on: measures, scopes, parameters, and the times
    and partitions of the topics. ``edition`` covers everything; ``versions`` are those of KPIs and
    rules, which may change between two starts.
    """

    catalogue: Catalogue
    schemas: SchemaRegistry
    registry: Registry
    rules: RuleBook
    inputs: Mapping[str, InputPlan]
    merge: MergePlan
    partials_changelog: str
    fingerprint: str
    edition: str
    versions: Mapping[str, Versioned]

    def codec(self, topic: str) -> Codec:
        """Return a codec for the contract of a topic."""
        contract = self.catalogue[topic].contract
        if contract is None:
            raise ValueError(f"{topic}: no contract, expected a topic of records")
        return Codec(contract, self.schemas, topic)

    @property
    def sources(self) -> tuple[str, ...]:
        """The topics a worker consumes: inputs and partials."""
        return (*self.inputs, PARTIALS)

    def changelog(self, topic: str) -> str:
        """Return the changelog topic of a consumed topic."""
        return self.partials_changelog if topic == PARTIALS else self.inputs[topic].changelog

    def basis(self, topic: str, topic_id: str) -> Basis:
        """Return what state of the topic's partitions rests on under these definitions."""
        partitions = self.catalogue[topic].partitions
        return Basis(self.fingerprint, partitions, topic_id, (self.edition,), self.versions)


def load_definitions(settings: Settings) -> Definitions:
    """Load and compile all definitions that the settings name.

    Raises CatalogueError, RegistryError or RuleError with every fault found.
    """
    catalogue = load_catalogue(settings.topics_file)
    contracts = {
        topic.contract: load_contract(topic.contract).columns
        for topic in catalogue.inputs
        if topic.contract is not None
    }
    registry = load_registry(settings.kpis_dir, contracts)
    rules = load_rules(settings.rules_dir, registry)
    sources = {
        name: SourceTime(
            source.topic, topic.partitions, topic.grace_ms, _reach_ms(topic, name, registry)
        )
        for name, source in registry.sources.items()
        if (topic := catalogue[source.topic])
    }
    state = _fingerprint(catalogue, registry)
    return Definitions(
        catalogue,
        open_registry(settings.schema_registry_url),
        registry,
        rules,
        _input_plans(catalogue, registry, rules),
        MergePlan(registry, rules, sources),
        _changelog_of(catalogue[PARTIALS]),
        state,
        fingerprint(state, registry.fingerprint, rules.fingerprint)[:32],
        _versions(registry, rules),
    )


def _input_plans(catalogue: Catalogue, registry: Registry, rules: RuleBook) -> dict[str, InputPlan]:
    rule_scopes = frozenset(group.scope.id for group in rules.groups)
    return {
        topic.name: InputPlan(
            topic,
            _changelog_of(topic),
            Lateness(topic.disorder_ms, topic.grace_ms),
            tuple(
                plan_fold(registry, source.name, rule_scopes, rules.samples)
                for source in registry.sources.values()
                if source.topic == topic.name
            ),
        )
        for topic in catalogue.inputs
    }


def _reach_ms(topic: Topic, source: str, registry: Registry) -> int:
    """Return how far before event_time the source's measures may count: the farthest of them."""
    used = {m.count_time for m in registry.measures.values() if m.source == source}
    return max((topic.reach_of_ms(count_time) for count_time in used), default=topic.reach_ms)


def _changelog_of(topic: Topic) -> str:
    if topic.changelog is None:
        raise ValueError(f"topics.{topic.name}.changelog: none, expected the topic of its state")
    return topic.changelog


def _fingerprint(catalogue: Catalogue, registry: Registry) -> str:
    times = [
        (
            topic.name,
            topic.partitions,
            topic.disorder_ms,
            topic.grace_ms,
            topic.reach_ms,
            sorted(topic.reaches.items()),
            topic.restatable,
        )
        for topic in (*catalogue.inputs, catalogue[PARTIALS])
    ]
    return hashlib.sha256(f"{registry.state_fingerprint}{times}".encode()).hexdigest()[:32]


def _versions(registry: Registry, rules: RuleBook) -> dict[str, Versioned]:
    """Return version and content of each KPI and rule, under the names that messages give them."""
    kpis = {f"kpis.{kpi.id}": _versioned(kpi.version, _formula(kpi)) for kpi in registry.kpis}
    return kpis | {
        f"rules.{rule.id}": _versioned(rule.version, _content(rule)) for rule in rules.rules
    }


def _versioned(version: int, content: object) -> Versioned:
    return Versioned(version, fingerprint(content)[:16])


def _formula(kpi: Kpi) -> tuple[object, ...]:
    """Return what makes a KPI's value; targets, thresholds and titles say how it is looked at."""
    parts = (kpi.numerator, kpi.denominator, kpi.n)
    texts = tuple(None if part is None else (part.terms, part.constant) for part in parts)
    return (kpi.unit, kpi.scale, *texts, kpi.quantile, kpi.of)


def _content(rule: Rule | ImmediateRule) -> dict[str, Any]:
    """Return what a rule says, in names: another KPI beside its own does not change it."""
    content = {f.name: getattr(rule, f.name) for f in fields(rule) if f.compare}
    if isinstance(rule, ImmediateRule):
        return content | {"kpi": rule.kpi.id}
    kpis = rule.scope.kpis
    return content | {
        "scope": rule.scope.id,
        "when": rule.when.text,
        "clear": rule.clear and rule.clear.text,
        "guards": [guard.text for guard in rule.guards],
        "minimum_n": {kpis[place].id: n for place, n in rule.minimum_n.items()},
    }
