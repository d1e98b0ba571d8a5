"""The embedded stack: a real Kafka and a real Valkey, found again by their state directory."""

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deploy.local import kafka, valkey
from deploy.local.kafka import Kafka
from deploy.local.lifeline import lifeline
from deploy.local.valkey import Valkey
from streams.settings import Settings, cache_dir, local_stack_file, without_password


@dataclass(frozen=True, slots=True)
class StackAddresses:
    """Where the clients find the servers."""

    bootstrap_servers: str
    redis_url: str


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What is known of one server.

    `own` means that the settings name a server of the operator's, which the stack never starts or
    stops. A server that runs and does not answer is `silent`.
    """

    name: str
    state: Literal["running", "silent", "stopped"]
    address: str | None
    pid: int | None
    own: bool
    log: Path | None


def _silently(_: str) -> None:
    pass


class Stack:
    """Kafka and Valkey of one state directory; stacks in other directories are not touched.

    `own_kafka` and `own_redis` are addresses the operator has chosen: used instead, never started.
    `tell` gets a line about each thing that takes time.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        own_kafka: str | None = None,
        own_redis: str | None = None,
        tell: Callable[[str], None] = _silently,
    ) -> None:
        self._addresses_file = local_stack_file(state_dir.absolute())
        self._directory = self._addresses_file.parent
        self._own_kafka = own_kafka
        self._own_redis = own_redis
        self._tell = tell
        self._kafka = Kafka(self._directory / "kafka", cache_dir(), tell)
        self._valkey = Valkey(self._directory / "valkey", tell)

    @classmethod
    def of(cls, settings: Settings, tell: Callable[[str], None] = _silently) -> "Stack":
        """Return the stack of these settings."""
        return cls(
            settings.state_dir,
            own_kafka=settings.kafka_bootstrap_servers if settings.own_kafka else None,
            own_redis=settings.redis_url if settings.own_redis else None,
            tell=tell,
        )

    def up(self) -> StackAddresses:
        """Start what does not run yet; return the addresses once both answer a client.

        Whatever ends this early, an interrupt too, leaves nothing running that it started.
        Raises StackError.
        """
        with self._alone():
            before = {server.pid for server in (self._kafka, self._valkey)}
            try:
                addresses = StackAddresses(self._kafka_up(), self._redis_up())
                self._publish(addresses)
            except BaseException:
                for server in (self._kafka, self._valkey):
                    if server.pid not in before:
                        server.down()
                raise
        return addresses

    def _kafka_up(self) -> str:
        if self._own_kafka:
            self._tell(f"using the Kafka of the settings at {self._own_kafka}")
            return self._own_kafka
        return self._kafka.up()

    def _redis_up(self) -> str:
        if self._own_redis:
            self._tell(f"using the Redis of the settings at {without_password(self._own_redis)}")
            return self._own_redis
        return self._valkey.up()

    def _publish(self, addresses: StackAddresses) -> None:
        """Write the file from which every later command knows this stack."""
        ours = {}
        if not self._own_kafka:
            ours["kafka_bootstrap_servers"] = addresses.bootstrap_servers
        if not self._own_redis:
            ours["redis_url"] = addresses.redis_url
        draft = self._addresses_file.with_suffix(".draft")
        draft.write_text(json.dumps(ours))
        draft.replace(self._addresses_file)

    @contextmanager
    def bound(self) -> Iterator[StackAddresses]:
        """Start the stack for the time of the context: it ends with it, or with this process.

        However this process ends: a test run or a demo that was killed leaves no server behind.
        """
        with lifeline((self._valkey.server, self._kafka.server)):
            try:
                yield self.up()
            finally:
                self.down()

    def down(self) -> list[str]:
        """Stop what this stack has started, and return the names of it. The data stays."""
        with self._alone():
            self._addresses_file.unlink(missing_ok=True)
            # Valkey first: nothing then reads what Kafka has stopped to feed.
            servers = (("valkey", self._valkey), ("kafka", self._kafka))
            return [name for name, server in servers if server.down()]

    def status(self) -> list[ServerStatus]:
        """Return what runs and answers, Kafka first."""
        return [self._kafka_status(), self._redis_status()]

    def _kafka_status(self) -> ServerStatus:
        address = self._own_kafka or self._kafka.address
        answering = address is not None and kafka.answers(address, timeout_s=3.0)
        return ServerStatus(
            name="kafka",
            state=_state(address, answering),
            address=address,
            pid=None if self._own_kafka else self._kafka.pid,
            own=self._own_kafka is not None,
            log=None if self._own_kafka else self._kafka.log,
        )

    def _redis_status(self) -> ServerStatus:
        url = self._own_redis or self._valkey.url
        answering = url is not None and valkey.answers(url, timeout_s=3.0)
        return ServerStatus(
            name="redis" if self._own_redis else "valkey",
            state=_state(url, answering),
            address=without_password(url),
            pid=None if self._own_redis else self._valkey.pid,
            own=self._own_redis is not None,
            log=None if self._own_redis else self._valkey.log,
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield


def _state(address: str | None, answering: bool) -> Literal["running", "silent", "stopped"]:
    if address is None:
        return "stopped"
    return "running" if answering else "silent"
