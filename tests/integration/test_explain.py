"""`andon explain` against a real broker: a day's actions are confirmed, a wrong one is exposed."""

import json
import uuid

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from schemas.catalogue import ACTIONS, create_topics, load_catalogue
from schemas.codec import Codec
from schemas.registry import FileRegistry
from streams.cli import app
from streams.sources.centre import planted
from streams.sources.generated_day import generate_day
from streams.verify.explain import explain
from tests.integration.workers import PATIENCE_S, Workers

SEED = 7
CODEC = Codec("action", FileRegistry(), ACTIONS)


@pytest.fixture
def decided(clean_kafka, settings, tmp_path, monkeypatch):
    """Settings of a Kafka where a worker has been through the generated day."""
    chosen = settings()
    catalogue = load_catalogue()
    create_topics(AdminClient(chosen.kafka_client()), catalogue)
    topics = {topic.contract: topic for topic in catalogue.inputs}
    codecs = {name: Codec(name, FileRegistry(), topic.name) for name, topic in topics.items()}
    producer = Producer({**chosen.kafka_client(), "linger.ms": 20})
    for event in generate_day(SEED):
        topic = topics[event.contract]
        value = codecs[event.contract].encode(event.record)
        producer.produce(topic.name, value, str(event.record[topic.key]))
    assert not producer.flush(30)
    workers = Workers(chosen, tmp_path)
    try:
        assert workers.start("--exit-when-idle", "3").wait(PATIENCE_S) == 0
    finally:
        workers.end()
    for name in ("kafka_bootstrap_servers", "application_id", "state_dir"):
        monkeypatch.setenv(f"ANDON_{name.upper()}", str(getattr(chosen, name)))
    return chosen


def publish(settings, action):
    producer = Producer(settings.kafka_client())
    producer.produce(ACTIONS, CODEC.encode(action), partition=0)
    assert not producer.flush(30)


def explained(*arguments):
    return CliRunner().invoke(app, ["explain", *arguments])


@pytest.mark.timeout(300)
def test_every_action_of_a_day_is_confirmed_and_a_tampered_one_is_exposed(decided):
    """Each value, n, bound and event that is quoted follows from the input; a changed value not.

    The command ends with 1 for a difference and for an id that no action has.
    """
    found = explain(decided)

    assert [] == [e.problems for each in found.explanations for e in each.entries if e.problems]
    assert (True, ()) == (found.agrees, found.unknown)
    assert len(planted(SEED)) == len(found.explanations)
    assert all(entry.events for each in found.explanations for entry in each.entries)

    training = next(each for each in found.explanations if each.action["rule_id"][:8] == "training")
    good = explained(training.action_id, "--format", "json")
    assert (0, True) == (good.exit_code, json.loads(good.stdout)["agrees"])
    text = explained(training.action_id).stdout
    assert "agrees: all 3 quoted figures follow from the input" in text

    first, *others = training.action["evidence"]
    tampered = {**first, "value": first["value"] + 1}
    forged = {"action_id": str(uuid.uuid4()), "evidence": [tampered, *others]}
    publish(decided, {**training.action, **forged})
    bad = explained(forged["action_id"])
    assert 1 == bad.exit_code
    value = first["value"]
    assert f"differs     value: quoted {value + 1!r}, recomputed {value!r}" in bad.stdout
    assert "differs: 1 of 3 quoted figures" in bad.stdout

    nobody = explained(str(uuid.uuid4()), training.action_id)
    assert (1, True) == (nobody.exit_code, "no action has the id" in nobody.stderr)


def test_what_is_no_id_is_wrong_use():
    """Exit code 2, and where ids are found."""
    result = explained("training-item")

    assert 2 == result.exit_code
    assert "andon actions --format json" in result.output
