"""The embedded stack, on the real servers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from deploy.local.errors import StackError
from deploy.local.process import Server, free_port, wait_until_ready
from deploy.local.stack import Stack, StackAddresses
from streams.settings import load_settings, local_stack_file
from tests.waiting import wait_until


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A state directory; whatever a test leaves running below it is stopped."""
    yield tmp_path / "state"
    Stack(tmp_path / "state").down()


def test_kafka_takes_transactions_on_its_one_node(kafka: str, new_topic) -> None:
    """The broker's settings allow transactions without a second node, and readers see them."""
    topic = new_topic()
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic})
    producer.init_transactions(60)
    producer.begin_transaction()
    producer.produce(topic, b"aborted")
    producer.abort_transaction(30)
    producer.begin_transaction()
    producer.produce(topic, b"committed")
    producer.commit_transaction(30)
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": topic})
    consumer.assign([TopicPartition(topic, 0, 0)])

    seen = consumer.consume(1, timeout=30)
    consumer.close()

    assert [b"committed"] == [message.value() for message in seen]


def test_a_topic_that_nobody_created_does_not_appear_by_itself(kafka_admin: AdminClient) -> None:
    """A mistyped topic is an error, never a new topic of one partition."""
    kafka_admin.list_topics("mistyped", timeout=10)

    assert "mistyped" not in kafka_admin.list_topics(timeout=10).topics


def test_old_records_stay(kafka: str, kafka_admin: AdminClient, new_topic) -> None:
    """By default nothing is deleted by age: recorded days lie decades back."""
    from confluent_kafka.admin import ConfigResource

    resource = ConfigResource(ConfigResource.Type.TOPIC, new_topic())
    config = kafka_admin.describe_configs([resource])[resource].result(10)

    assert "-1" == config["retention.ms"].value


def test_the_life_of_a_stack(directory: Path) -> None:
    """Up is idempotent, down stops by record, and the next up has the data and the ports again."""
    stack = Stack(directory)
    first = stack.up()
    pids = [server.pid for server in stack.status()]
    admin = AdminClient({"bootstrap.servers": first.bootstrap_servers})
    admin.create_topics([NewTopic("kept", 3, 1)])["kept"].result(30)
    redis.Redis.from_url(first.redis_url).set("kept", "too")

    assert first == Stack(directory).up()
    assert pids == [server.pid for server in Stack(directory).status()]
    assert ["running", "running"] == [server.state for server in stack.status()]

    assert ["valkey", "kafka"] == Stack(directory).down()
    assert ["stopped", "stopped"] == [server.state for server in stack.status()]
    assert [] == [pid for pid in pids if _lives(pid)]
    assert [] == Stack(directory).down()

    second = stack.up()
    topics = AdminClient({"bootstrap.servers": second.bootstrap_servers}).list_topics(timeout=30)
    assert 3 == len(topics.topics["kept"].partitions)
    assert b"too" == redis.Redis.from_url(second.redis_url).get("kept")


def test_two_stacks_stand_side_by_side(stack: StackAddresses, directory: Path) -> None:
    """A second state directory has servers of its own, and its down leaves the first alone."""
    other = Stack(directory)
    addresses = other.up()

    assert {addresses.bootstrap_servers, addresses.redis_url}.isdisjoint(
        {stack.bootstrap_servers, stack.redis_url}
    )

    other.down()
    client = redis.Redis.from_url(stack.redis_url)
    assert client.ping()
    assert AdminClient({"bootstrap.servers": stack.bootstrap_servers}).list_topics(timeout=10)


def test_a_killed_kafka_is_started_again(directory: Path) -> None:
    """After a crash the record names a dead process: up starts a new one over the same data."""
    stack = Stack(directory)
    before = stack.up()
    pid = stack.status()[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)

    assert "stopped" == stack.status()[0].state
    assert before.redis_url == stack.up().redis_url
    assert "running" == stack.status()[0].state


def test_a_server_of_the_settings_is_used_and_never_touched(
    stack: StackAddresses, directory: Path
) -> None:
    """With own addresses nothing is started or stopped, and the user is told so."""
    told: list[str] = []
    own = Stack(
        directory,
        own_kafka=stack.bootstrap_servers,
        own_redis=stack.redis_url,
        tell=told.append,
    )

    assert stack == own.up()
    assert [
        f"using the Kafka of the settings at {stack.bootstrap_servers}",
        f"using the Redis of the settings at {stack.redis_url}",
    ] == told
    assert [("kafka", "running", True, None), ("redis", "running", True, None)] == [
        (server.name, server.state, server.own, server.pid) for server in own.status()
    ]
    assert [] == own.down()


def test_every_later_command_finds_the_running_stack(
    stack: StackAddresses, directory: Path
) -> None:
    """The addresses of a running stack stand in for settings nobody made, and go with it."""
    environment = {"ANDON_STATE_DIR": str(directory)}
    own = Stack(directory, own_kafka=stack.bootstrap_servers)
    addresses = own.up()

    found = load_settings(environment)
    assert (addresses.redis_url, False) == (found.redis_url, found.own_redis)
    assert "127.0.0.1:9092" == found.kafka_bootstrap_servers
    chosen = load_settings({**environment, "ANDON_REDIS_URL": "redis://elsewhere/1"})
    assert ("redis://elsewhere/1", True) == (chosen.redis_url, chosen.own_redis)

    own.down()
    assert not local_stack_file(directory).exists()
    assert "redis://127.0.0.1:6379/0" == load_settings(environment).redis_url


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[psutil.Popen]:
    """A process that is not ours: nothing in its command line names our directory."""
    process = psutil.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def test_a_recorded_pid_that_belongs_to_another_is_left_alone(
    sleeper: psutil.Popen, tmp_path: Path
) -> None:
    """After a reboot a recorded number may be anybody's: it is neither reported nor stopped."""
    server = Server("kafka", tmp_path / "kafka")
    server.directory.mkdir()
    (server.directory / "process.json").write_text(json.dumps({"pid": sleeper.pid, "port": 1}))

    assert server.running() is None
    assert not server.stop()
    assert sleeper.is_running()


@pytest.mark.parametrize(
    "record", ["", "{", "[]", '{"pid": null}', '{"pid": 999999999, "port": 1}']
)
def test_a_broken_or_stale_record_means_not_running(record: str, tmp_path: Path) -> None:
    """A record cut off by a full disk, or of a process long gone, is no server."""
    server = Server("valkey", tmp_path)
    (tmp_path / "process.json").write_text(record)

    assert server.running() is None
    assert not server.stop()


def test_a_server_that_does_not_listen_to_the_polite_signal_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down always ends with nothing running."""
    monkeypatch.setattr("deploy.local.process._STOP_TIMEOUT_S", 0.2)
    server = Server("kafka", tmp_path)
    deaf = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "open(sys.argv[1] + '/deaf', 'w').close(); time.sleep(60)"
    )
    process = server.start([sys.executable, "-c", deaf, str(tmp_path)], 1)
    wait_until_ready(server, process, (tmp_path / "deaf").exists, 20)

    assert server.stop()
    assert server.running() is None


def test_a_server_that_ends_at_its_start_tells_its_last_words(tmp_path: Path) -> None:
    """The error carries the end of the log and where the rest of it is."""
    server = Server("kafka", tmp_path)
    process = server.start([sys.executable, "-c", "print('disk is full'); raise SystemExit(3)"], 1)

    with pytest.raises(StackError) as told:
        wait_until_ready(server, process, lambda: False, 20)

    assert "kafka: ended at its start with code 3\n  disk is full" == str(told.value)
    assert f"read {server.log}" == told.value.next_step


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """Waiting has an end, and the error says how long it was."""
    server = Server("kafka", tmp_path)
    process = server.start([sys.executable, "-c", "import time; time.sleep(60)", str(tmp_path)], 1)

    with pytest.raises(StackError, match=r"kafka: no answer within 0\.1 s"):
        wait_until_ready(server, process, lambda: False, 0.1)

    server.stop()


def test_the_port_of_the_last_start_is_kept_while_it_is_free() -> None:
    """Clients with the address in their configuration find the next start again."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port != free_port(port)

    assert port == free_port(port)


def test_status_for_scripts_is_one_json_object_a_server(directory: Path) -> None:
    """`andon stack status --format json` prints all that is known, and exits 1 when one is down."""
    done = _andon("stack", "status", "--format", "json", directory=directory)

    assert 1 == done.returncode
    assert [
        {
            "name": name,
            "state": "stopped",
            "address": None,
            "pid": None,
            "own": False,
            "log": str(directory / "stack" / name / "server.log"),
        }
        for name in ("kafka", "valkey")
    ] == [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_start_leaves_nothing_running(
    directory: Path, number: signal.Signals
) -> None:
    """Ctrl-C during the start, or an orchestrator's signal, stops what has been started so far."""
    code = (
        # A shell's background job, which a test run may be, ignores Ctrl-C, and hands that on.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from streams.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "stack", "up"],
        env={**os.environ, "ANDON_STATE_DIR": str(directory)},
        stderr=subprocess.PIPE,
    )
    pid = _recorded_pid(directory, process)
    process.send_signal(number)
    process.communicate(timeout=60)

    assert 128 + number == process.returncode
    assert not _lives(pid)
    assert ["stopped", "stopped"] == [server.state for server in Stack(directory).status()]


def test_a_bound_stack_ends_with_a_process_that_was_killed(directory: Path) -> None:
    """Not even kill -9 of a test run or a demo leaves servers behind."""
    code = (
        "import sys, time; from pathlib import Path; from deploy.local.stack import Stack\n"
        "with Stack(Path(sys.argv[1]), own_kafka='nowhere:1').bound(): time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(directory)])
    pid = _recorded_pid(directory, process, "valkey")
    process.kill()
    process.wait()
    wait_until(lambda: not _lives(pid), "the server ends after its user")


def _recorded_pid(directory: Path, process: subprocess.Popen[bytes], name: str = "kafka") -> int:
    """Wait until the process has started its server; return the server's pid."""
    record = directory / "stack" / name / "process.json"
    deadline = time.monotonic() + 60
    while not record.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    return int(json.loads(record.read_text())["pid"])


def _andon(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streams.cli", *arguments],
        env={**os.environ, "ANDON_STATE_DIR": str(directory)},
        capture_output=True,
        text=True,
        check=False,
    )


def _lives(pid: int | None) -> bool:
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
