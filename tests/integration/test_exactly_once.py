"""Workers that are killed, put to sleep, joined and left by others count every event once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.catalogue import ACTIONS, create_topics, load_catalogue
from schemas.client import offset_ranges, read_all
from schemas.codec import Codec
from schemas.registry import FileRegistry
from streams.settings import Settings
from streams.sources.centre import planted
from streams.sources.generated_day import generate_day
from streams.verify import verify

SEED = 7
PATIENCE_S = 90

#: A broker that has just started has no coordinator for a group yet, and no offsets.
NO_COORDINATOR = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE)


class Workers:
    """Worker processes of one group, as a user starts them."""

    def __init__(self, settings: Settings, logs: Path) -> None:
        names = ("kafka_bootstrap_servers", "application_id", "state_dir")
        chosen = {f"ANDON_{name.upper()}": str(getattr(settings, name)) for name in names}
        self.env = {**os.environ, **chosen, "ANDON_CHECKPOINT_INTERVAL_S": "2"}
        self.logs = logs
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "streams.cli", "worker", *arguments]
        log = (self.logs / f"worker-{len(self.running)}.log").open("wb")
        process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)
        self.running.append(process)
        return process

    def end(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


@pytest.fixture
def chosen(clean_kafka: str, settings: Callable[..., Settings]) -> Settings:
    made = settings()
    create_topics(AdminClient(made.kafka_client()), load_catalogue())
    return made


@pytest.fixture
def workers(chosen: Settings, tmp_path: Path) -> Iterator[Workers]:
    made = Workers(chosen, tmp_path)
    yield made
    made.end()


def disturbed_day(rng: Random) -> list[tuple[str, bytes, bytes]]:
    """Return topic, key and value of a day's events: a tenth sent twice, some no Avro at all."""
    catalogue = load_catalogue()
    topics = {topic.contract: topic for topic in catalogue.inputs}
    codecs = {name: Codec(name, FileRegistry(), topic.name) for name, topic in topics.items()}
    sent = []
    for event in generate_day(SEED):
        topic = topics[event.contract]
        key = str(event.record[topic.key]).encode()
        value = codecs[event.contract].encode(event.record)
        sent.append((topic.name, key, value))
        if rng.random() < 0.1:
            again = min(len(sent), rng.randint(1, 200))
            sent.append(sent[-again])
        if rng.random() < 0.001:
            sent.append((topic.name, key, b"\0\0\0\0\1 no such record"))
    return sent


def processed(settings: Settings) -> int:
    """Return how many input records the group has committed."""
    consumer = Consumer({**settings.kafka_client(), "group.id": settings.application_id})
    try:
        inputs = load_catalogue().inputs
        asked = [TopicPartition(t.name, p) for t in inputs for p in range(t.partitions)]
        return sum(max(0, tp.offset) for tp in consumer.committed(asked, 30))
    except KafkaException as problem:
        if problem.args[0].code() not in NO_COORDINATOR:
            raise
        return 0
    finally:
        consumer.close()


def members(settings: Settings) -> int:
    admin = AdminClient(settings.kafka_client())
    described = admin.describe_consumer_groups([settings.application_id])
    return len(described[settings.application_id].result(30).members)


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.1)


@pytest.mark.timeout(400)
def test_every_event_counts_once_whatever_happens_to_the_workers(chosen, workers):
    """Kills, a sleep beyond the session timeout, joining and leaving change no number.

    Verify finds no difference, the account of events adds up, and every planted problem has
    exactly one action.
    """
    rng = Random(SEED)
    day = disturbed_day(rng)
    producer = Producer({**chosen.kafka_client(), "linger.ms": 20})
    cuts = [len(day) * part // 6 for part in range(7)]

    def send(part: int) -> None:
        for topic, key, value in day[cuts[part] : cuts[part + 1]]:
            producer.produce(topic, value, key)
        assert not producer.flush(30)

    def send_and_pass(part: int) -> None:
        before = processed(chosen)
        send(part)
        wait_until(lambda: processed(chosen) > before, f"progress in part {part}")

    first = workers.start()
    send_and_pass(0)
    second = workers.start()
    wait_until(lambda: members(chosen) == 2, "a second worker joins")
    send_and_pass(1)
    first.send_signal(signal.SIGKILL)
    third = workers.start()
    send_and_pass(2)
    wait_until(lambda: members(chosen) == 2, "the killed worker is gone, the third is there")
    second.send_signal(signal.SIGSTOP)
    send(3)
    wait_until(lambda: members(chosen) == 1, "the sleeping worker is put out of the group")
    send_and_pass(4)
    second.send_signal(signal.SIGCONT)
    send_and_pass(5)
    for process in (second, third):
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
    last = workers.start("--exit-when-idle", "3")

    assert last.wait(PATIENCE_S) == 0
    assert_counted_once(chosen)


def assert_counted_once(settings: Settings) -> None:
    report = verify(settings)

    assert (report.ok, report.complete) == (True, True), report.differences[:5]
    consumed = sum(end - start for start, end in input_ranges(settings))
    assert consumed == processed(settings)
    found = actions(settings)
    for problem in planted(SEED):
        led_to = [a for a in found if a[0] == problem.rule_id and problem.subject.items() <= a[1]]
        assert 1 == len(led_to), problem
    assert len(planted(SEED)) == len(found)


def input_ranges(settings: Settings) -> list[tuple[int, int]]:
    topics = [topic.name for topic in load_catalogue().inputs]
    client = settings.kafka_client()
    return [span for topic in topics for span in offset_ranges(client, topic).values()]


def actions(settings: Settings) -> list[tuple[str, set[tuple[str, str]]]]:
    """Return rule and subject of every action that a read_committed reader sees."""
    codec = Codec("action", FileRegistry(), ACTIONS)
    found = []
    for messages in read_all(settings.kafka_client(), ACTIONS):
        for message in messages:
            action = codec.decode(message.value())
            subject = {(part["name"], part["value"]) for part in action["subject"]["key"]}
            found.append((action["rule_id"], subject))
    return found
