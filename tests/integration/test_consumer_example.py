"""The consumer of README.md, run as it stands there: each action has its effect once."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

import schemas
from schemas.catalogue import ACTIONS, create_topics, load_catalogue
from schemas.codec import Codec
from schemas.registry import FileRegistry
from tests.integration.workers import PATIENCE_S
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
CODEC = Codec("action", FileRegistry(), ACTIONS)
EXAMPLE = Path(schemas.__file__).parent / "examples" / "action" / "coaching.json"


class Planner:
    """The program of the README in a directory of its own."""

    def __init__(self, settings, directory):
        text = (ROOT / "README.md").read_text()
        (self.program,) = re.findall(r"```python\n(# planner\.py\n.+?)```", text, re.DOTALL)
        self.directory = directory
        self.settings = settings
        self.running = []

    def start(self, group="planner"):
        """Run it; in another group it has taken nothing yet, for all that Kafka knows.

        The short session is for the tests after this, which wait for the groups to be empty.
        """
        settings = f'"group.id": "{group}", "session.timeout.ms": 6_000'
        program = self.program.replace('"group.id": "planner"', settings)
        (self.directory / "planner.py").write_text(program)
        servers = self.settings.kafka_bootstrap_servers
        env = {**os.environ, "ANDON_KAFKA_BOOTSTRAP_SERVERS": servers, "PYTHONPATH": str(ROOT)}
        with (self.directory / "planner.log").open("ab") as log:
            command = [sys.executable, "planner.py"]
            process = subprocess.Popen(command, cwd=self.directory, env=env, stdout=log, stderr=log)
        self.running.append(process)

    def kill(self):
        for process in self.running:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def rows(self, table):
        """Return the ids in a table, sorted; none while there is no such table."""
        try:
            with closing(sqlite3.connect(self.directory / "planner.db")) as database:
                return sorted(row[0] for row in database.execute(f"SELECT action_id FROM {table}"))
        except sqlite3.OperationalError:
            return []


@pytest.fixture
def planner(clean_kafka, settings, tmp_path):
    chosen = settings()
    create_topics(AdminClient(chosen.kafka_client()), load_catalogue())
    made = Planner(chosen, tmp_path)
    yield made
    made.kill()


def publish(settings, *records):
    producer = Producer(settings.kafka_client())
    for record in records:
        producer.produce(ACTIONS, CODEC.encode(record), key=b"k")
    assert not producer.flush(30)


@pytest.mark.timeout(200)
def test_an_action_has_its_effect_once_however_often_it_is_read(planner):
    """Killed, and made to read all from the beginning again, the consumer plans nothing twice.

    A withdrawal takes the effect back, for good.
    """
    example = CODEC.record(json.loads(EXAMPLE.read_text()))
    actions = [example | {"action_id": str(uuid.uuid4())} for _ in range(4)]
    ids = [action["action_id"] for action in actions]
    publish(planner.settings, *actions[:3])
    planner.start()
    wait_until(
        lambda: planner.rows("conversations") == sorted(ids[:3]), "three conversations", PATIENCE_S
    )
    planner.kill()

    publish(planner.settings, actions[1], actions[0] | {"status": "WITHDRAWN"}, actions[3])
    planner.start("planner-again")

    wait_until(
        lambda: len(planner.rows("taken")) == 5, "four actions and a withdrawal taken", PATIENCE_S
    )
    assert sorted(ids[1:]) == planner.rows("conversations")
