"""Workers as a user starts them, and what a group has done."""

import os
import subprocess
import sys
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.catalogue import load_catalogue
from streams.settings import Settings

PATIENCE_S = 180

#: A broker that has just started has no coordinator for a group yet, and no offsets.
NO_COORDINATOR = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE)


class Workers:
    """Worker processes of one group; `env` is what they are started with."""

    def __init__(self, settings: Settings, logs: Path) -> None:
        names = ("kafka_bootstrap_servers", "application_id", "state_dir", "kpis_dir", "rules_dir")
        chosen = {f"ANDON_{name.upper()}": str(getattr(settings, name)) for name in names}
        self.env = {**os.environ, **chosen, "ANDON_CHECKPOINT_INTERVAL_S": "2"}
        self.logs = logs
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one; its output goes to a log of its own."""
        command = [sys.executable, "-m", "streams.cli", "worker", *arguments]
        with (self.logs / f"worker-{len(self.running)}.log").open("wb") as log:
            process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)
        self.running.append(process)
        return process

    def end(self) -> None:
        """Kill whatever still runs."""
        for process in self.running:
            process.kill()
            process.wait()


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
    """Return how many members the group has."""
    admin = AdminClient(settings.kafka_client())
    described = admin.describe_consumer_groups([settings.application_id])
    try:
        return len(described[settings.application_id].result(30).members)
    except KafkaException as problem:
        if problem.args[0].code() not in NO_COORDINATOR:
            raise
        return 0
