"""A Kafka and a Valkey that may be killed, with a link between them and the workers."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil
import redis
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

import deploy.local.kafka as local_kafka
from deploy.local.kafka import Kafka
from deploy.local.lifeline import lifeline
from deploy.local.process import free_port
from deploy.local.valkey import Valkey
from schemas.catalogue import Catalogue, create_topics
from schemas.client import read_all
from streams.settings import Settings, cache_dir
from tests.faults.judge import delivered
from tests.waiting import wait_until

_BROKER: Final = {
    "log.cleaner.backoff.ms": "300",
    # Files of short segments are taken away at once, as are their superseded records.
    "log.segment.delete.delay.ms": "1000",
}
_EAGER: Final = {
    "segment.ms": "300",
    "min.cleanable.dirty.ratio": "0.0",
    "delete.retention.ms": "0",
}
_PATIENT: Final = {"segment.ms": "604800000", "delete.retention.ms": "86400000"}
_WAIT_S: Final = 30.0
_WORTHWHILE: Final = 100
# The share of superseded records that may lie in segments that have not ended.
_MAY_STAY: Final = 0.5

_Place = tuple[str, int, int]
"""Topic, partition and offset."""


class _Changelogs(NamedTuple):
    """Where records are that newer ones of their key stand for, and the last of each partition."""

    superseded: Set[_Place]
    ends: Mapping[tuple[str, int], int]


class Servers:
    """The servers of a run below `directory`. Start them with `running`."""

    def __init__(self, directory: Path, catalogue: Catalogue, tell: Callable[[str], None]) -> None:
        self.link_port = free_port()
        self.broker_link_port = free_port()
        link = local_kafka.Link(self.broker_link_port, self.link_port)
        self._kafka = Kafka(directory / "kafka", cache_dir(), tell, link=link, settings=_BROKER)
        self._valkey = Valkey(directory / "valkey", tell)
        self._catalogue = catalogue
        self._directory = directory

    @contextmanager
    def running(self) -> Iterator[Settings]:
        """Start both, with the topics; give settings that lead to the broker without the link."""
        with lifeline((self._valkey.server, self._kafka.server)):
            try:
                self.settings = Settings(
                    kafka_bootstrap_servers=self._kafka.up(),
                    redis_url=self._valkey.up(),
                    state_dir=self._directory / "state",
                    application_id="andon",
                )
                self._client = {**self.settings.kafka_client(), "log_level": 2}
                create_topics(AdminClient(self._client), self._catalogue)
                yield self.settings
            finally:
                self._signal_kafka(signal.SIGCONT)
                self._valkey.down()
                self._kafka.down()

    # -- Kafka ----------------------------------------------------------------------------------

    def _signal_kafka(self, number: signal.Signals) -> None:
        if self._kafka.pid is not None:
            os.kill(self._kafka.pid, number)

    def kill_kafka(self) -> None:
        """Kill the broker."""
        self._signal_kafka(signal.SIGKILL)

    def start_kafka(self) -> None:
        """Start the broker again, on the same ports."""
        self._kafka.up()

    @contextmanager
    def kafka_asleep(self) -> Iterator[None]:
        """Stop the broker in its tracks."""
        self._signal_kafka(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal_kafka(signal.SIGCONT)

    @contextmanager
    def eager_compaction(self) -> Iterator[Callable[[float], int]]:
        """Let changelogs be compacted as soon as they can be; as the catalogue says, afterwards.

        Gives what waits, for so many seconds, until half of the records are gone that were
        superseded at the beginning, and returns how many are. A segment ends when something is
        appended after it is old enough: only partitions count to which something has been since
        then, and of these the last segments may keep what they have.
        """
        before = wait_until(self._worth_compacting, "records to compact", _WAIT_S, every_s=0.5)
        changelogs = [topic for topic in self._catalogue.topics if topic.name in self._changelogs]
        self._configure({topic.name: _EAGER for topic in changelogs})
        before = _Changelogs(before.superseded, self._look().ends)
        try:
            yield lambda timeout_s: self._await_compaction(before, timeout_s)
        finally:
            ratio = "min.cleanable.dirty.ratio"
            self._configure({t.name: {**_PATIENT, ratio: t.config[ratio]} for t in changelogs})

    @property
    def _changelogs(self) -> Sequence[str]:
        return [str(topic.changelog) for topic in self._catalogue.topics if topic.changelog]

    def _configure(self, topics: dict[str, dict[str, str]]) -> None:
        resources = [
            ConfigResource(
                ResourceType.TOPIC,
                name,
                incremental_configs=[_set(*config) for config in chosen.items()],
            )
            for name, chosen in topics.items()
        ]
        admin = AdminClient(self._client)
        for done in admin.incremental_alter_configs(resources).values():
            done.result(_WAIT_S)

    def _await_compaction(self, before: _Changelogs, timeout_s: float) -> int:
        ends = self._look().ends
        due = {each for each in before.superseded if ends[each[:2]] > before.ends[each[:2]]}
        if not due:
            raise TimeoutError("compaction: nothing was appended to any changelog, expected some")
        left: Set[_Place] = due

        def gone() -> bool:
            nonlocal left
            left = due & self._look().superseded
            return len(left) <= len(due) * _MAY_STAY

        try:
            wait_until(gone, "compaction", timeout_s, every_s=0.5)
        except TimeoutError as late:
            where = dict(Counter(topic for topic, _, _ in left))
            raise TimeoutError(f"{late}: left of {len(due)} records: {where}") from None
        return len(due) - len(left)

    def _worth_compacting(self) -> _Changelogs | None:
        found = self._look()
        return found if len(found.superseded) >= _WORTHWHILE else None

    def _look(self) -> _Changelogs:
        """Read the changelogs as they are."""
        newest: dict[tuple[str, int, bytes | None], int] = {}
        superseded = set()
        for topic in self._changelogs:
            for messages in read_all(self._client, topic):
                for message in messages:
                    key = (topic, message.partition() or 0, message.key())
                    if key in newest:
                        superseded.add((*key[:2], newest[key]))
                    newest[key] = message.offset() or 0
        ends: dict[tuple[str, int], int] = {}
        for (topic, partition, _), offset in newest.items():
            ends[topic, partition] = max(offset, ends.get((topic, partition), 0))
        return _Changelogs(superseded, ends)

    # -- Redis ----------------------------------------------------------------------------------

    def replace_redis(self) -> Callable[[], bool]:
        """Kill Valkey and start it without anything that it held.

        Return what tells whether it is as far again as it was.
        """
        before = self._delivered()
        process = self._valkey.server.running()
        assert process is not None
        process.kill()
        psutil.wait_procs([process], timeout=_WAIT_S)
        for dump in self._valkey.server.directory.glob("*.rdb"):
            dump.unlink()
        self._valkey.up()
        return lambda: _reaches(self._delivered(), before)

    def _delivered(self) -> dict[str, int]:
        with redis.Redis.from_url(self.settings.redis_url) as client:
            return delivered(client)

    def await_delivery(self, timeout_s: float) -> None:
        """Return when nothing more comes into Redis."""
        seen: list[dict[str, int]] = []

        def still() -> bool:
            seen.append(self._delivered())
            return bool(seen[-1]) and seen[-1:] == seen[-2:-1]

        wait_until(still, "delivery comes to its end", timeout_s, every_s=2.0)


def _reaches(now: dict[str, int], before: dict[str, int]) -> bool:
    return all(now.get(name, 0) >= at for name, at in before.items())


def _set(name: str, value: str) -> Any:
    return ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
