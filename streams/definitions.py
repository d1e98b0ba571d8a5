"""Everything a worker is defined by: catalogue, contracts, KPI registry, rules, and their plans."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from processors.fold import FoldPlan, plan_fold
from processors.kpis import Registry, load_registry
from processors.merge import MergePlan, SourceTime
from processors.rules import RuleBook, load_rules
from processors.watermark import Lateness
from schemas.catalogue import PARTIALS, Catalogue, Topic, load_catalogue
from schemas.codec import Codec
from schemas.contract import load_contract
from schemas.registry import SchemaRegistry, open_registry
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
    and partitions of the topics. Targets, KPI formulas and rules may change between two starts.
    """

    catalogue: Catalogue
    schemas: SchemaRegistry
    registry: Registry
    rules: RuleBook
    inputs: Mapping[str, InputPlan]
    merge: MergePlan
    partials_changelog: str
    fingerprint: str

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
    return Definitions(
        catalogue,
        open_registry(settings.schema_registry_url),
        registry,
        rules,
        _input_plans(catalogue, registry, rules),
        MergePlan(registry, rules, sources),
        _changelog_of(catalogue[PARTIALS]),
        _fingerprint(catalogue, registry),
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
        )
        for topic in (*catalogue.inputs, catalogue[PARTIALS])
    ]
    return hashlib.sha256(f"{registry.state_fingerprint}{times}".encode()).hexdigest()[:32]
