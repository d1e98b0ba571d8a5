"""Worker processes: one that gets nowhere ends, and one is ready when it has its state."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from schemas.catalogue import INTERACTIONS, create_topics, load_catalogue
from schemas.codec import Codec
from schemas.registry import FileRegistry
from streams.settings import Settings
from tests.builders import NOON_MS, record
from tests.waiting import wait_until

PATIENCE_S = 60
PARTITION = 0

RUN = "from streams.cli import main; main()"

#: From the first batch on, the fetcher waits for what never comes.
FETCHES_ONCE = """
import asyncio
from streams.columnar import ConsumerThread

fetch = ConsumerThread._fetch_records

async def once(self, *arguments, **options):
    fetched = await fetch(self, *arguments, **options)
    if fetched:
        ConsumerThread._fetch_records = never
    return fetched

async def never(self, *arguments, **options):
    await asyncio.Event().wait()

ConsumerThread._fetch_records = once
"""

#: The first batch is slept over, in Python and in C with the interpreter's lock held.
SLEEPS = """
import time
from streams.worker import Worker
Worker.collect = lambda self, batch: time.sleep(3_600)
"""
HOLDS_THE_LOCK = """
import ctypes
from streams.worker import Worker
Worker.collect = lambda self, batch: ctypes.PyDLL(None).sleep(3_600)
"""


#: The bodies of agents raise.
RAISES = """
from streams.worker import Worker

def collect(self, batch):
    raise ValueError("in the body of an agent")

Worker.collect = collect
"""


class Workers:
    """Processes of one group, with a watchdog that waits for four seconds."""

    def __init__(self, settings: Settings, logs: Path) -> None:
        names = ("kafka_bootstrap_servers", "application_id", "state_dir")
        chosen = {f"ANDON_{name.upper()}": str(getattr(settings, name)) for name in names}
        self.env = {
            **os.environ,
            **chosen,
            "ANDON_STALL_TIMEOUT_S": "4",
            "ANDON_TRANSACTION_TIMEOUT_MS": "2000",
            "ANDON_LOG_FORMAT": "json",
        }
        self.logs = logs
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, before: str = "", *arguments: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a worker; ``before`` is Python that is run first."""
        command = [sys.executable, "-c", before + RUN, "worker", *arguments]
        log = self._log(len(self.running)).open("wb")
        process = subprocess.Popen(command, env={**self.env, **env}, stdout=log, stderr=log)
        self.running.append(process)
        return process

    def told(self, process: subprocess.Popen[bytes]) -> str:
        return self._log(self.running.index(process)).read_text()

    def port(self, process: subprocess.Popen[bytes]) -> int:
        """Return the port of its metrics, once it tells."""
        started = wait_until(lambda: _line(self.told(process), "worker_started"), "the worker")
        return int(started["metrics"].split(":")[2].split("/")[0])

    def _log(self, number: int) -> Path:
        return self.logs / f"worker-{number}.log"

    def end(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


def _line(told: str, event: str) -> Any:
    lines = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    return next((line for line in lines if line.get("event") == event), None)


def ask(port: int, path: str) -> int:
    """Return the status of an answer, 0 for none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        return refusal.code
    except OSError:
        return 0


def last_flush_s(port: int) -> float:
    """Return when the last flush was committed, the present while there was none."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        found = re.search(
            rb"^andon_last_flush_timestamp_seconds (\S+)", answer.read(), re.MULTILINE
        )
    return float(found[1]) if found else time.time()


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
    admin = AdminClient(chosen.kafka_client())
    group = chosen.application_id
    wait_until(lambda: members(admin, group) == 0, "the group is empty")


def members(admin: AdminClient, group: str) -> int:
    """Return how many members a group has, -1 while nobody knows."""
    try:
        return len(admin.describe_consumer_groups([group])[group].result(10).members)
    except TimeoutError:
        return -1
    except KafkaException as problem:
        return 0 if problem.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND else -1


@pytest.fixture
def send(chosen: Settings) -> Callable[[int], None]:
    """Return what sends so many events to one partition."""
    producer = Producer(chosen.kafka_client())
    codec = Codec("interaction", FileRegistry(), INTERACTIONS)
    sent = iter(range(1_000_000))

    def send(count: int) -> None:
        for n in (next(sent) for _ in range(count)):
            value = codec.encode(record(INTERACTIONS, str(n), NOON_MS + n))
            producer.produce(INTERACTIONS, value, partition=PARTITION)
        assert not producer.flush(30)

    return send


def ends(workers: Workers, process: subprocess.Popen[bytes]) -> tuple[int, dict[str, Any], str]:
    """Wait for the end; return the exit code, the line of the watchdog and the whole log."""
    code = process.wait(PATIENCE_S)
    told = workers.told(process)
    return code, _line(told, "worker_stalled") or {}, told


@pytest.mark.timeout(150)
def test_a_fetcher_that_has_stalled_ends_the_worker(workers, send):
    """Faust waits for ever; the ends of partitions are measured beside it.

    The message names the partitions that wait, here those of the partials that it wrote itself.
    """
    process = workers.start(FETCHES_ONCE)
    port = workers.port(process)
    wait_until(lambda: ask(port, "/readyz") == 200, "readiness")
    send(3)
    code, line, _ = ends(workers, process)

    assert code == 1
    assert re.search(
        r"andon\.partials\[0\]: found position 0, fetched up to 0, of \d for 4 s", line["error"]
    )
    assert line["next_step"].startswith("the worker ends")


@pytest.mark.timeout(150)
def test_an_event_loop_that_is_stuck_ends_the_worker(workers, send):
    """A thread of its own sees that it does not turn, and shows where it is."""
    process = workers.start(SLEEPS)
    send(1)
    code, line, told = ends(workers, process)

    assert code == 1
    assert "event loop: found no turn for 4 s" in line["error"]
    assert 'File "<string>", line 4 in <lambda>' in told


@pytest.mark.timeout(150)
def test_a_held_interpreter_lock_ends_the_worker(workers, send):
    """No thread of Python's gets to run then: one of the C library ends the process."""
    process = workers.start(HOLDS_THE_LOCK)
    send(1)
    code, line, told = ends(workers, process)

    assert (code, line) == (1, {})
    assert 'File "<string>", line 4 in <lambda>' in told


@pytest.mark.timeout(150)
def test_a_broker_that_does_not_answer_ends_the_worker(workers, chosen, send):
    """So that whoever looks after workers sees it; nothing is lost by it."""
    process = workers.start()
    port = workers.port(process)
    # With a transaction on its way, that would tell of it first.
    wait_until(lambda: time.time() - last_flush_s(port) > 3, "quiet")
    broker = psutil.Process(_listener(chosen))
    broker.suspend()
    try:
        code, line, told = ends(workers, process)
    finally:
        broker.resume()

    assert code == 1
    # A checkpoint may have been on its way all the same.
    assert "brokers: found no answer for" in line.get("error", "") or "commit_failed" in told


@pytest.mark.timeout(150)
def test_an_exception_in_an_agent_ends_the_worker_and_commits_nothing(workers, chosen, send):
    """Not by the watchdog, but at once; the next worker takes the event again."""
    process = workers.start(RAISES, ANDON_STALL_TIMEOUT_S="100")
    send(2)
    code, stalled, told = ends(workers, process)
    group = Consumer({**chosen.kafka_client(), "group.id": chosen.application_id})
    (place,) = group.committed([TopicPartition(INTERACTIONS, PARTITION)], 30)
    group.close()

    assert (code, stalled) == (1, {})
    assert "in the body of an agent" in told
    assert place.offset == OFFSET_INVALID


@pytest.mark.timeout(150)
def test_a_worker_is_ready_while_it_has_its_partitions_and_healthy_throughout(workers):
    """Not before it has recovered them, and not while it recovers those of one that has left."""
    leaver = workers.start(ANDON_STALL_TIMEOUT_S="60")
    healthy = []

    def answers(port: int, status: int) -> bool:
        healthy.append(ask(port, "/healthz"))
        return ask(port, "/readyz") == status

    wait_until(partial(answers, workers.port(leaver), 200), "readiness")
    heir = workers.port(workers.start(ANDON_STALL_TIMEOUT_S="60"))
    at_first = ask(heir, "/readyz")
    wait_until(partial(answers, heir, 200), "readiness of the second")
    leaver.terminate()
    wait_until(partial(answers, heir, 503), "the rebalance")
    wait_until(partial(answers, heir, 200), "readiness after the rebalance")

    assert (503, {200}) == (at_first, set(healthy))


@pytest.mark.timeout(150)
def test_an_input_is_quiet_while_its_advances_go_on(workers, send):
    """They come every 5 s, and go through the partials: a wait of 7 s would never be over."""
    send(3)
    process = workers.start("", "--exit-when-idle", "7", ANDON_IDLE_TIMEOUT_S="1")
    code, _, told = ends(workers, process)

    assert (0, True) == (code, "input_ended" in told)


def _listener(settings: Settings) -> int:
    port = int(settings.kafka_bootstrap_servers.rpartition(":")[2])
    found = [
        c.pid
        for c in psutil.net_connections("tcp")
        if c.status == psutil.CONN_LISTEN and c.laddr.port == port
    ]
    assert len(found) == 1
    return int(found[0] or 0)
