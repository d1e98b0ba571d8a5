"""`andon rebuild` on a real broker: other definitions, a kill on the way, nothing twice."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from processors.actions import decision_id
from schemas.catalogue import (
    ACTIONS,
    KPIS,
    LATE,
    SUPPRESSIONS,
    WATERMARKS,
    create_topics,
    load_catalogue,
)
from schemas.client import read_all
from schemas.codec import Codec
from schemas.registry import FileRegistry
from streams.sources.generated_day import generate_day
from streams.verify import verify
from streams.verify.explain import explain
from tests.integration.workers import PATIENCE_S, Workers, processed
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
SEED = 7
EPOCH_1 = 1 << 48

LONG_HOLDS = """
measures:
  - {id: held_long, source: interactions, value: "event_type = 'COMPLETED' AND hold_ms > 60000"}
kpis:
  - {id: long_hold_rate, title: Long holds, unit: percent, numerator: held_long,
     denominator: handled, direction: lower, scopes: [queue]}
"""


@pytest.fixture
def decided(clean_kafka, settings, tmp_path):
    """Settings of a Kafka where a worker was told of a day's end too early: the rest is late."""
    made = settings()
    create_topics(AdminClient(made.kafka_client()), load_catalogue())
    events = outgoing()
    workers = Workers(made, tmp_path)
    try:
        for part in (events[: len(events) * 9 // 10], events[len(events) * 9 // 10 :]):
            producer = Producer({**made.kafka_client(), "linger.ms": 20})
            for record in part:
                producer.produce(*record)
            assert not producer.flush(30)
            assert workers.start("--exit-when-idle", "2").wait(PATIENCE_S) == 0
    finally:
        workers.end()
    return made


def outgoing():
    """Return topic, value and key of a day's events, the last records of it unreadable."""
    topics = {topic.contract: topic for topic in load_catalogue().inputs}
    codecs = {name: Codec(name, FileRegistry(), topic.name) for name, topic in topics.items()}
    sent = []
    for event in generate_day(SEED):
        topic = topics[event.contract]
        value = codecs[event.contract].encode(event.record)
        sent.append((topic.name, value, str(event.record[topic.key]).encode()))
    return [*sent, *[(sent[0][0], b"no record", b"k")] * 3]


class Rebuilding:
    """`andon rebuild` as a user runs it."""

    def __init__(self, chosen, log, **changes):
        names = ("kafka_bootstrap_servers", "application_id", "state_dir", "kpis_dir")
        env = {f"ANDON_{name.upper()}": str(getattr(chosen, name)) for name in names}
        command = [sys.executable, "-m", "streams.cli", "rebuild"]
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, env={**os.environ, **env, **changes}, stdout=out, stderr=out
            )

    def kill(self):
        """End it and its workers as a machine does that loses its power."""
        for process in [*psutil.Process(self.process.pid).children(), self.process]:
            process.send_signal(signal.SIGKILL)
        self.process.wait()


def published(settings, topic):
    return [
        message for messages in read_all(settings.kafka_client(), topic) for message in messages
    ]


def decoded(settings, topic, contract):
    codec = Codec(contract, FileRegistry(), topic)
    return [codec.decode(m.value(), m.headers()) for m in published(settings, topic) if m.value()]


def decisions(settings):
    actions = Counter(map(decision_id, decoded(settings, ACTIONS, "action")))
    held = decoded(settings, SUPPRESSIONS, "suppression")
    return actions, Counter(each["suppression_id"] for each in held)


@pytest.mark.timeout(600)
def test_a_rebuild_decides_the_same_and_publishes_no_action_twice(decided, tmp_path):
    """With a new measure, and killed on the way: verify agrees, and each decision is there once.

    Advances of the first epoch are made again: what was late by them alone is late again. Records
    of the first epoch are there until newer versions replace them. Later workers go on.
    """
    assert verify(decided).complete
    before, late = decisions(decided), len(published(decided, LATE))
    first = {message.key(): message.value() for message in published(decided, KPIS)}
    assert late > 500
    assert published(decided, WATERMARKS)
    kpis = tmp_path / "kpis"
    shutil.copytree(ROOT / "deploy/kpis", kpis)
    (kpis / "long-holds.yaml").write_text(LONG_HOLDS)
    changed = decided.model_copy(update={"kpis_dir": kpis})

    log = tmp_path / "rebuild.log"
    slowly = {"ANDON_FLUSH_MAX_EVENTS": "1000", "ANDON_CHECKPOINT_INTERVAL_S": "1"}
    interrupted = Rebuilding(changed, log, **slowly)
    total = processed(decided)
    wait_until(lambda: 0 < processed(decided) < total, "the rebuild is on its way", PATIENCE_S)
    interrupted.kill()
    assert first.keys() <= {message.key() for message in published(decided, KPIS)}

    assert Rebuilding(changed, log).process.wait(PATIENCE_S) == 0, log.read_text()

    report = verify(changed)
    assert (report.ok, report.complete) == (True, True), report.differences[:5]
    assert decisions(decided) == before
    assert {1} == {*before[0].values(), *before[1].values()}
    assert len(published(decided, LATE)) == late
    newest = {message.key(): message for message in published(decided, KPIS)}
    codec = Codec("kpi-record", FileRegistry(), KPIS)
    versions = [codec.decode(message.value())["version"] for message in newest.values()]
    assert min(versions) >= EPOCH_1
    assert explain(changed).agrees

    workers = Workers(changed, tmp_path)
    try:
        assert workers.start("--exit-when-idle", "2").wait(PATIENCE_S) == 0
    finally:
        workers.end()
    assert verify(changed).complete
    assert decisions(decided) == before
