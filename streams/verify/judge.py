"""The whole judgement: read, decide, recompute, compare."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas import catalogue as topics
from schemas.catalogue import Catalogue, load_catalogue
from schemas.codec import Codec
from schemas.registry import SchemaRegistry, open_registry
from streams.settings import Settings
from streams.verify.compare import (
    Comparison,
    compare_set_aside,
    source_times,
    unknown_records,
)
from streams.verify.decisions import ActionFindings, compare_actions
from streams.verify.definitions import (
    SOURCE_CONTRACTS,
    Definitions,
    RuleText,
    read_definitions,
    read_rules,
)
from streams.verify.immediate import compare_immediate
from streams.verify.intake import (
    Extent,
    extents,
    lags,
    load_advances,
    load_input,
    load_set_aside,
    read_records,
)
from streams.verify.ledger import Input, Ledger
from streams.verify.published import Published
from streams.verify.recompute import recompute
from streams.verify.report import Compared, Difference, Findings, Lag, Report
from streams.verify.sample import Sample

_SHOWN = 50
_PATIENCE_S = 2.0
_POLL_S = 0.25


@dataclass(slots=True)
class _Stopwatch:
    """Seconds by step, for the report only."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begun, 3)


def verify(settings: Settings, one_in: int = 1) -> Report:
    """Recompute what the topics should hold and compare it with what they hold.

    The input is taken up to the positions that the workers of ``settings.application_id`` have
    committed. KPI records are judged of one key in so many, all else whole. Nothing is written to
    Kafka; DuckDB works in a temporary directory.

    Raises:
        TopicMissing: a topic is not there.
        DefinitionError: the registry cannot be read.
        KafkaException: the broker does not answer.
        ValueError: ``one_in`` is less than 1.

    """
    judge = _Judge(settings, Sample(one_in))
    with tempfile.TemporaryDirectory(prefix="andon-verify-") as directory:
        inputs = inputs_of(judge.catalogue, judge.definitions)
        with Ledger(inputs, Path(directory)) as ledger:
            return judge.run(ledger)


def inputs_of(catalogue: Catalogue, definitions: Definitions) -> list[Input]:
    """Return the input topics of a catalogue that have a contract.

    A topic's reach is the longest of the count times that measures use.
    """
    found = []
    for topic in catalogue.inputs:
        if topic.contract is None:
            continue
        used = {
            measure.count_time
            for measure in definitions.measures.values()
            if SOURCE_CONTRACTS[measure.source] == topic.contract
        }
        reach_ms = max((topic.reach_of_ms(name) for name in used), default=topic.reach_ms)
        spans = (topic.disorder_ms, topic.grace_ms, reach_ms)
        found.append(Input(topic.name, topic.contract, *spans, topic.restatable))
    return found


class _Judge:
    """One run over the topics that the settings name."""

    def __init__(self, settings: Settings, sample: Sample) -> None:
        self.settings = settings
        self.sample = sample
        self.client: Mapping[str, Any] = settings.kafka_client()
        self.catalogue = load_catalogue(settings.topics_file)
        self.definitions: Definitions = read_definitions(settings.kpis_dir)
        url = settings.schema_registry_url
        self.registry: SchemaRegistry = open_registry(None if url is None else str(url))
        self.watch = _Stopwatch()

    def run(self, ledger: Ledger) -> Report:
        """Return the verdict over what the topics hold now."""
        with self.watch.step("read input"):
            extent = self._read_input(ledger)
        with self.watch.step("read output"):
            published, merge_lag = self._read_output(ledger)
        with self.watch.step("decide"):
            ledger.decide()
        with self.watch.step("recompute"):
            made = recompute(ledger, self.definitions, self.sample)
        with self.watch.step("compare"):
            times = source_times(ledger, ledger.inputs)
            results = [
                Comparison(each, self.definitions.measures, times).run(ledger) for each in made
            ]
            findings = [found for _, found in results]
            findings.append(unknown_records(ledger, made))
            for each in ledger.inputs:
                findings += compare_set_aside(ledger, each, topics.LATE, topics.DEAD_LETTERS)
            findings.append(published.unreadable)
        with self.watch.step("actions"):
            records = list(self._actions())
            actions = compare_actions(records)
            findings.append(actions.findings)
            findings.append(compare_immediate(ledger, self.definitions, self._rules(), records))
        return _report(
            ledger,
            [compared for compared, _ in results],
            findings,
            actions,
            list(_notes(extent, merge_lag, self.sample)),
            [*lags(self.client, extent), *merge_lag],
            self.watch.seconds,
        )

    def _codec(self, topic: str) -> Codec:
        contract = self.catalogue[topic].contract
        assert contract is not None
        return Codec(contract, self.registry, topic)

    def _read_input(self, ledger: Ledger) -> list[Extent]:
        names = [each.topic for each in ledger.inputs]
        extent = extents(self.client, self.settings.application_id, names)
        for each in ledger.inputs:
            own = [part for part in extent if part.topic == each.topic]
            load_input(self.client, ledger, self._codec(each.topic), self.registry, own)
        processed = {(part.topic, part.partition): part.processed for part in extent}
        load_advances(self.client, ledger, self._codec(topics.WATERMARKS), processed)
        return extent

    def _read_output(self, ledger: Ledger) -> tuple[Published, list[Lag]]:
        waiting = self._wait_for_merge()
        published = Published(ledger, self._codec(topics.KPIS))
        for records in read_records(self.client, topics.KPIS):
            published.add([r for r in records if r.value and self.sample.has(r.key or b"")])
        published.compact()
        for name in (topics.LATE, topics.DEAD_LETTERS):
            load_set_aside(self.client, ledger, name)
        return published, waiting

    def _wait_for_merge(self) -> list[Lag]:
        """Return what the merge has not taken in; wait while a running worker gets on with it."""
        deadline = time.monotonic() + _PATIENCE_S
        before: list[Lag] = []
        while True:
            extent = extents(self.client, self.settings.application_id, [topics.PARTIALS])
            waiting = lags(self.client, extent)
            if waiting != before:
                deadline = time.monotonic() + _PATIENCE_S
            if not waiting or time.monotonic() > deadline:
                return waiting
            before = waiting
            time.sleep(_POLL_S)

    def _actions(self) -> Iterator[Mapping[str, Any]]:
        codec = self._codec(topics.ACTIONS)
        for batch in read_records(self.client, topics.ACTIONS):
            yield from (codec.decode(each.value, each.headers) for each in batch if each.value)

    def _rules(self) -> dict[str, RuleText]:
        directory = self.settings.rules_dir
        return read_rules(directory) if any(directory.glob("*.yaml")) else {}


def _notes(extent: Sequence[Extent], waiting: Sequence[Lag], sample: Sample) -> Iterator[str]:
    if sample.one_in > 1:
        yield f"KPI records were judged of one key in {sample.one_in}, and of scopes without keys"
    for each in extent:
        if each.first > 0:
            yield (
                f"{each.topic}-{each.partition} begins at {each.first}: what it held before is"
                " gone, and records that include it cannot be judged"
            )
    if not any(each.processed > each.first for each in extent):
        yield "no input was processed yet"
    if waiting:
        yield (
            f"{sum(each.records for each in waiting)} blocks of partials are not merged yet:"
            " KPI records may lag behind the input that is judged"
        )


def _report(
    ledger: Ledger,
    compared: Sequence[Compared],
    findings: Sequence[Findings],
    actions: ActionFindings,
    notes: Sequence[str],
    waiting: Sequence[Lag],
    seconds: Mapping[str, float],
) -> Report:
    first: list[Difference] = [each for found in findings for each in found.first]
    final = [each for each in first if each.final]
    provisional = [each for each in first if not each.final]
    return Report(
        accounts=tuple(ledger.accounts()),
        compared=tuple(compared),
        actions=actions.actions,
        episodes=actions.episodes,
        differences=tuple(final[:_SHOWN]),
        difference_count=sum(each.final for each in findings),
        provisional=tuple(provisional[:_SHOWN]),
        provisional_count=sum(each.provisional for each in findings),
        lags=tuple(waiting),
        notes=tuple(notes),
        seconds=seconds,
    )
