"""One node of Apache Kafka, broker and controller in one, for a machine without a cluster."""

import base64
import logging
import subprocess
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.jars import kafka_jars
from deploy.local.java import find_java
from deploy.local.process import Server, free_port, wait_until_ready

_START_TIMEOUT_S = 90.0

# The first-level compiler only: measured on two cores, ready 0.5 s sooner, half the processor time
# in the first minute and a third less per transaction; a local stack seldom lives longer.
_JVM = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
)

# Kafka's defaults are for clusters of three and more. The rest is for two cores and short lives.
_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # A transaction that its dead owner left open is ended this soon after its timeout.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    # Recorded days lie years back: by time, only what a topic itself says is deleted.
    "log.retention.ms": "-1",
    "log.cleaner.dedupe.buffer.size": str(16 << 20),
    # A killed broker is let in again only when its old session is over: 3 s instead of 9.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "num.network.threads": "2",
    "num.io.threads": "4",
}


@dataclass(frozen=True, slots=True)
class Link:
    """A second listener, on `port`, whose clients are sent to `advertised_port`: a proxy's."""

    port: int
    advertised_port: int


class Kafka:
    """The Kafka of one state directory: data, log, configuration and pid below `directory`.

    `settings` of the broker go before those that are set here.
    """

    def __init__(
        self,
        directory: Path,
        cache: Path,
        tell: Callable[[str], None],
        *,
        link: Link | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.server = Server("kafka", directory)
        self._cache = cache
        self._tell = tell
        self._link = link
        self._settings = settings or {}

    @property
    def pid(self) -> int | None:
        """The pid of the running server, None if none runs."""
        process = self.server.running()
        return process.pid if process else None

    @property
    def address(self) -> str | None:
        """The bootstrap server `host:port` of the running server, None if none runs."""
        return f"127.0.0.1:{self.server.last_port}" if self.pid else None

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.server.log

    def up(self) -> str:
        """Start Kafka unless it runs; return its bootstrap server once it answers a client."""
        if self.address and answers(self.address):
            return self.address
        self.server.stop()
        self._tell("starting Kafka")
        java, jars = find_java(), kafka_jars(self._cache, self._tell)
        self.server.directory.mkdir(parents=True, exist_ok=True)
        port = free_port(self.server.last_port)
        configuration = self._configure(port)
        command: list[str | Path] = [java, *_JVM, "-cp", ":".join(str(jar) for jar in jars)]
        self._format(command, configuration)
        process = self.server.start([*command, "kafka.Kafka", configuration], port)
        address = f"127.0.0.1:{port}"
        wait_until_ready(self.server, process, lambda: answers(address), _START_TIMEOUT_S)
        return address

    def down(self) -> bool:
        """Stop Kafka; False if it was not running. The data stays."""
        return self.server.stop()

    def _configure(self, port: int) -> Path:
        controller = free_port()
        listening = {"PLAINTEXT": port, "CONTROLLER": controller}
        advertised = dict(listening)
        if self._link:
            listening["LINK"] = self._link.port
            advertised["LINK"] = self._link.advertised_port
        settings = {
            **_SETTINGS,
            **self._settings,
            "listener.security.protocol.map": ",".join(f"{n}:PLAINTEXT" for n in listening),
            "listeners": _listeners(listening),
            "advertised.listeners": _listeners(advertised),
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "log.dirs": str(self._data),
        }
        file = self.server.directory / "server.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        return file

    @property
    def _data(self) -> Path:
        return self.server.directory / "data"

    def _format(self, command: list[str | Path], configuration: Path) -> None:
        if (self._data / "meta.properties").exists():
            return
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # With `=`, since an id may begin with a dash and pass for an option.
        tool = ["kafka.tools.StorageTool", "format", "--standalone", f"--cluster-id={cluster}"]
        done = subprocess.run(
            [*command, *tool, "-c", configuration], check=False, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise StackError(
                f"kafka: its data directory could not be formatted\n  {done.stderr.strip()}",
                f"delete {self._data} and try again",
            )


def _listeners(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())


def answers(bootstrap_servers: str, timeout_s: float = 1.0) -> bool:
    """Return whether a client gets the cluster's metadata from there."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    quiet = logging.getLogger("andon.local.probe")
    quiet.disabled = True  # a refused connection is an answer here, not news
    client = AdminClient(
        {
            "bootstrap.servers": bootstrap_servers,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 100,
        },
        logger=quiet,
    )
    try:
        return bool(client.list_topics(timeout=timeout_s).brokers)
    except KafkaException:
        return False
