"""State that cannot be gone on from is refused at recovery, with what to do; nothing is mixed."""

import json
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka.admin import NewTopic
from faust.types import TP
from typer.testing import CliRunner

from processors.merge import ChainBroken
from schemas.catalogue import KPIS, PARTIALS, Catalogue, create_topics, load_catalogue
from streams.basis import Versioned
from streams.cli import app
from streams.columnar import Batch, Membership
from streams.definitions import Definitions
from streams.flush import Engine
from streams.log import KafkaLog
from streams.merge import ForeignDefinitions
from streams.records import Record, Records
from streams.recovery import Recovery, Refused
from streams.state import STATE_FORMAT
from tests.builders import INTERACTIONS, NOON_MS, record, small_definitions
from tests.simulation.log import MemoryLog, MemoryTransactions
from tests.waiting import wait_until

SOURCE, MERGE = TP(INTERACTIONS, 0), TP(PARTIALS, 0)
OURS = small_definitions()
LOAD = "kpis.load"


def changed(edition: str, version: int, fingerprint: str, **more: Any) -> Definitions:
    """Return definitions in which a KPI says something else."""
    versions = {**OURS.versions, LOAD: Versioned(version, fingerprint)}
    return replace(OURS, edition=edition, versions=versions, **more)


class Run:
    """Workers one after the other, over a log of three events and what they make of them."""

    def __init__(self) -> None:
        self.log = MemoryLog(generation=1, members={"me"}, now_ms=NOON_MS)
        codec = OURS.codec(INTERACTIONS)
        for n in range(3):
            value = codec.encode(record(INTERACTIONS, str(n), NOON_MS + n * 1_000))
            self.log.append(Record(INTERACTIONS, 0, None, value))

    def recover(self, definitions: Definitions = OURS, *tps: TP) -> Engine:
        engine = Engine(definitions, "worker", 0)
        Recovery(self.log, engine, lambda: True, patience_s=0.0).run(tps or [SOURCE, MERGE])
        return engine

    def work(self, engine: Engine, tp: TP, most: int = 1) -> None:
        """Take so many records of a partition through a flush."""
        before = engine.positions[tp]
        after, records = self.log.fetch(tp, before, most)
        flush = engine.flush([Batch(tp, before, after, Records.of(records), 1, 0)], NOON_MS)
        list(MemoryTransactions(self.log, "worker").steps(flush, Membership(1, "me")))

    def worked(self, definitions: Definitions = OURS) -> "Run":
        """Let a worker take one event, and merge it."""
        engine = self.recover(definitions)
        self.work(engine, SOURCE)
        self.work(engine, MERGE)
        return self


def refusal(run: Run, definitions: Definitions = OURS, *tps: TP) -> str:
    with pytest.raises(Refused) as refused:
        run.recover(definitions, *tps)
    return str(refused.value)


def test_a_topic_that_was_made_anew_is_refused_also_if_it_holds_more_than_before():
    """Offsets say nothing then: the topic's id does."""
    run = Run().worked()
    run.log.topic_ids[INTERACTIONS] = "another"

    assert refusal(run) == (
        f"{INTERACTIONS}[0]: found state of the topic with id id of {INTERACTIONS}, expected "
        "another: the topic was deleted and made anew; run `andon rebuild` to build everything "
        "anew from the input topics"
    )


def test_a_partition_that_was_added_is_refused():
    """Keys have moved to it, whose events were counted where they were."""
    found = refusal(Run().worked(), OURS, TP(INTERACTIONS, 2))

    assert found.startswith(f"{INTERACTIONS}[2]: found a partition that was added, expected 2")
    assert "set `partitions` in ANDON_TOPICS_FILE" in found


@pytest.mark.parametrize("found", [0, STATE_FORMAT + 1])
def test_state_of_another_format_is_refused(found):
    """A release that is older or newer means something else by it."""
    run = Run().worked()
    (progress,) = [r for r in run.log.records(OURS.changelog(INTERACTIONS)) if b"progr" in r.key]
    value = json.dumps({**json.loads(progress.value), "format": found}).encode()
    run.log.append(Record(OURS.changelog(INTERACTIONS), 0, progress.key, value))

    assert refusal(run).startswith(
        f"{INTERACTIONS}[0]: found state of format {found}, expected {STATE_FORMAT}: it was "
        "written by another release; go back to that, or run `andon rebuild`"
    )


def test_state_that_does_not_say_what_it_rests_on_is_refused():
    """Nobody can tell then what its sums mean."""
    run = Run().worked()
    run.log.append(Record(OURS.changelog(INTERACTIONS), 0, b"0|basis", None))

    assert "does not say what it rests on" in refusal(run)


def test_a_changed_formula_needs_a_risen_version():
    """The KPI is named with both versions; once risen, the state is gone on with."""
    run = Run().worked()

    assert f"{LOAD}: found version 1 of another content than version 1" in refusal(
        run, changed("second", 1, "another")
    )
    assert 1 == run.recover(changed("second", 2, "another")).positions[SOURCE]


def test_a_worker_whose_definitions_were_replaced_does_not_take_a_partition_back():
    """In a deployment one by one, the new ones have it from then on."""
    run = Run().worked()
    newer = run.recover(changed("second", 2, "another"))
    run.work(newer, SOURCE)

    found = refusal(run, OURS, SOURCE)
    assert "give this worker the files of the others" in found
    assert {MERGE} == set(run.recover(OURS, MERGE).positions)
    assert {SOURCE: 2} == run.recover(changed("second", 2, "another"), SOURCE).positions


def test_sums_that_mean_something_else_are_never_mixed():
    """Neither from state nor from partials that another worker folds meanwhile."""
    run = Run()
    other = replace(OURS, fingerprint="others")
    run.work(run.recover(other, SOURCE), SOURCE)
    merging = run.recover(OURS, MERGE)

    assert f"found state by definitions others, expected {OURS.fingerprint}" in refusal(run)
    with pytest.raises(ForeignDefinitions, match="give all workers the same files, or run `andon"):
        run.work(merging, MERGE)


def test_a_worker_with_other_rules_or_formulas_is_noticed_by_those_who_merge_its_partials():
    """Sums are the same: it may be newer or not yet replaced, and goes on."""
    run = Run()
    run.work(run.recover(changed("second", 2, "another"), SOURCE), SOURCE)
    merging = run.recover(OURS, MERGE)
    run.work(merging, MERGE)

    assert {"second": "worker"} == merging.merges[MERGE].others


def test_a_merge_without_its_state_begins_at_the_beginning_or_not_at_all():
    """Partials that are gone by retention would be missing in every sum."""
    run = Run()
    folding = run.recover(OURS, SOURCE)
    run.work(folding, SOURCE)
    run.work(folding, SOURCE)
    del run.log.partitions[MERGE].entries[0]

    with pytest.raises(ChainBroken, match="expected the first of the partition: partials or state"):
        run.work(run.recover(OURS, MERGE), MERGE)


# -- on a real broker -----------------------------------------------------------------------------


def test_a_topic_that_is_made_anew_has_another_id(settings, new_topic, kafka_admin):
    """The broker tells, by an id that lives as long as the topic."""
    name = new_topic("again")
    log = KafkaLog(settings().kafka_client())
    first, same = log.topic_id(name), log.topic_id(name)
    kafka_admin.delete_topics([name])[name].result(30)
    wait_until(lambda: name not in kafka_admin.list_topics(timeout=30).topics, "it is gone")
    kafka_admin.create_topics([NewTopic(name, 1)])[name].result(30)
    wait_until(lambda: name in kafka_admin.list_topics(timeout=30).topics, "it is there")

    assert first == same != log.topic_id(name)
    assert len(first) == 22


def test_a_worker_does_not_start_on_topics_of_another_number_of_partitions(
    clean_kafka, kafka_admin, monkeypatch, tmp_path
):
    """Results too: a merge writes each to a partition of its own."""
    catalogue = load_catalogue()
    create_topics(
        kafka_admin,
        Catalogue(tuple(replace(t, partitions=3) if t.name == KPIS else t for t in catalogue)),
    )
    monkeypatch.setenv("ANDON_KAFKA_BOOTSTRAP_SERVERS", clean_kafka)
    monkeypatch.setenv("ANDON_STATE_DIR", str(tmp_path))
    refused = CliRunner().invoke(app, ["worker"])

    assert refused.exit_code == 1
    assert f"topics.{KPIS}: 3 partitions, expected 4" in refused.output
    assert "set `partitions` in ANDON_TOPICS_FILE to what the broker has" in refused.output
