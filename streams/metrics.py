"""The metrics of a worker, declared once, each with what to do when it moves.

Accounts are *set* from committed state, never counted along: after a restart, a rebalance or a
replay they continue where the state is, and at any moment they add up per partition,
consumed = applied + duplicates + expired + dead-lettered.
"""

import bisect
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PARTITION = ("topic", "partition")

_ACCOUNT = {
    "consumed": "Records taken from the partition. Flat while lag grows: the worker is stuck.",
    "applied": "Events that count in the KPIs.",
    "duplicates": "Events seen before. Many: a producer retries without idempotence, or a file"
    " was replayed twice.",
    "expired": "Events later than the topic's grace, kept on andon.late.v1. Many: a source is"
    " slow or its clock is wrong; raise the grace or mend the source.",
}
_DEAD = "dead_lettered"
_DEAD_LETTERED = (
    "Records that are on andon.dead-letters.v1, by reason. Any: `andon dead-letters list` names"
    " the field, then mend the producer and replay."
)


class _Histogram:
    """Counts by upper bound; one observation may stand for many events."""

    def __init__(self, name: str, documentation: str, bounds: Iterable[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        self._counts[bisect.bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def family(self) -> HistogramMetricFamily:
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        buckets = list(zip(names, accumulate(self._counts), strict=True))
        return HistogramMetricFamily(
            self._name, self._documentation, buckets=buckets, sum_value=self._sum
        )


class Metrics(Collector):
    """What a worker tells Prometheus. Not for several threads: the event loop owns it."""

    def __init__(self, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self._accounts: dict[tuple[str, int], dict[str, int]] = {}
        self._dead_letters: dict[tuple[str, int], dict[str, int]] = {}
        self._lag: dict[tuple[str, int], int] = {}
        self._watermarks: dict[tuple[str, int], int] = {}
        self._state_bytes: dict[tuple[str, int], int] = {}
        self._too_late: dict[tuple[str, int], int] = {}
        self._checkpoints_s: dict[tuple[str, int], float] = {}
        self._actions: dict[str, int] = {}
        self._kpi_records = 0
        self._stalled_s = 0.0
        self._far_behind = False
        self._last_flush_s: float | None = None
        self._build = {"version": _version(), "python": platform.python_version()}
        self._flush_seconds = _Histogram(
            "andon_flush_seconds",
            "Time of a flush, its transaction included. Rising: the brokers are slow, or the"
            " state grows.",
            (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self._flush_events = _Histogram(
            "andon_flush_events",
            "Events in a flush. Always at the maximum: the worker cannot keep up, add another.",
            (1, 10, 100, 1_000, 5_000, 10_000, 20_000, 50_000, 100_000),
        )
        self._recovery_seconds = _Histogram(
            "andon_recovery_seconds",
            "Time until a partition's state was read back. Rising: state topics are not"
            " compacted, or grace times are long.",
            (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
        )
        self._event_to_kpi_seconds = _Histogram(
            "andon_event_to_kpi_seconds",
            "From an event's append to Kafka until its KPI record is committed.",
            (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300),
        )
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.registry.register(self)

    @property
    def version(self) -> str:
        """The installed version of Andon."""
        return self._build["version"]

    def account(self, topic: str, partition: int, counts: Mapping[str, int]) -> None:
        """Set the committed account of an input partition.

        `counts` holds totals since the partition's first record: consumed, applied, duplicates,
        expired, dead_lettered. Raises KeyError for a count that is missing.
        """
        self._accounts[topic, partition] = {name: counts[name] for name in (*_ACCOUNT, _DEAD)}

    def dead_letters(self, topic: str, partition: int, reason: str, n: int) -> None:
        """Count committed dead letters by reason.

        The state keeps only their total: what it holds from before this worker took the partition
        over is told under the reason EARLIER, so that the sum over all reasons is the account's.
        """
        reasons = self._dead_letters.setdefault((topic, partition), {})
        reasons[reason] = reasons.get(reason, 0) + n

    def lag(self, topic: str, partition: int, records: int) -> None:
        """Set how many records of the partition are not yet taken: last stable end - position."""
        self._lag[topic, partition] = records

    def watermark(self, topic: str, partition: int, ms: int) -> None:
        """Set the watermark of an input partition, epoch milliseconds."""
        self._watermarks[topic, partition] = ms

    def state_bytes(self, topic: str, partition: int, size: int) -> None:
        """Set the memory taken by the state of a partition."""
        self._state_bytes[topic, partition] = size

    def rows_too_late(self, topic: str, partition: int, rows: int) -> None:
        """Set how many rows of a partials partition found their window over and gone."""
        self._too_late[topic, partition] = rows

    def stalled(self, seconds: float) -> None:
        """Set for how long something has stood still that should not."""
        self._stalled_s = seconds

    def far_behind(self, is_far_behind: bool) -> None:
        """Set whether publication is put off until the worker has caught up."""
        self._far_behind = is_far_behind

    def flush(self, seconds: float, events: int) -> None:
        """Record a committed flush."""
        self._flush_seconds.observe(seconds)
        self._flush_events.observe(events)
        self._last_flush_s = self._now_s()

    def checkpoint(self, topic: str, partition: int) -> None:
        """Record that the state of a partition is written down as it is now."""
        self._checkpoints_s[topic, partition] = self._now_s()

    def recovery(self, seconds: float) -> None:
        """Record the recovery of a partition."""
        self._recovery_seconds.observe(seconds)

    def kpi_latency(self, seconds: float, count: int = 1) -> None:
        """Record `count` events whose KPI records were committed `seconds` after their append."""
        # Clocks of two machines: an event is never seen before it was written.
        self._event_to_kpi_seconds.observe(max(seconds, 0.0), count)

    def kpi_records(self, n: int) -> None:
        """Count published KPI records."""
        self._kpi_records += n

    def actions(self, action_type: str, n: int) -> None:
        """Count published actions of a type."""
        self._actions[action_type] = self._actions.get(action_type, 0) + n

    def build(self, **labels: str) -> None:
        """Add labels to andon_build_info, such as the fingerprints of registry and rules."""
        self._build |= labels

    def forget(self, topic: str, partition: int) -> None:
        """Stop telling of a partition: another worker owns it and tells of it now."""
        self._accounts.pop((topic, partition), None)
        self._dead_letters.pop((topic, partition), None)
        for values in (self._lag, self._watermarks, self._state_bytes, self._too_late):
            values.pop((topic, partition), None)
        self._checkpoints_s.pop((topic, partition), None)

    def text(self) -> bytes:
        """Return everything in Prometheus' text form."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Yield all families; prometheus-client calls this at each scrape."""
        yield from self._account_families()
        yield from self._partition_families()
        yield from self._publication_families()
        for histogram in (
            self._flush_seconds,
            self._flush_events,
            self._recovery_seconds,
            self._event_to_kpi_seconds,
        ):
            yield histogram.family()

    def _account_families(self) -> Iterator[Metric]:
        for name, documentation in _ACCOUNT.items():
            family = CounterMetricFamily(f"andon_events_{name}", documentation, labels=_PARTITION)
            for (topic, partition), counts in self._accounts.items():
                family.add_metric([topic, str(partition)], counts[name])
            yield family
        labels = (*_PARTITION, "reason")
        family = CounterMetricFamily("andon_events_dead_lettered", _DEAD_LETTERED, labels=labels)
        for (topic, partition), counts in self._accounts.items():
            reasons = self._dead_letters.get((topic, partition), {})
            earlier = counts[_DEAD] - sum(reasons.values())
            for reason, count in {**reasons, "EARLIER": earlier}.items():
                family.add_metric([topic, str(partition), reason], count)
        yield family

    def _partition_families(self) -> Iterator[Metric]:
        now_s = self._now_s()
        yield _gauge(
            "andon_lag_records",
            "Records not yet taken. Growing: add a worker, or look at andon_flush_seconds.",
            self._lag,
        )
        yield _gauge(
            "andon_watermark_age_seconds",
            "How far event time lies behind the clock. Growing on one partition: its source is"
            " silent or late, and holds the final KPI records back.",
            {key: now_s - ms / 1_000 for key, ms in self._watermarks.items()},
        )
        yield _gauge(
            "andon_state_bytes",
            "Memory of a partition's state. Growing without end: a grace time is too long.",
            self._state_bytes,
        )
        yield _gauge(
            "andon_last_checkpoint_timestamp_seconds",
            "When a partition's state was last written down: what came since is taken once more"
            " after a kill. Old: so much waits to be published that a successor takes long.",
            self._checkpoints_s,
        )

        too_late = CounterMetricFamily(
            "andon_rows_too_late",
            "Sums of a key that found a window of theirs over and gone. Any: an input partition"
            " passed for empty, and had events from before; to count them, `andon rebuild`.",
            labels=_PARTITION,
        )
        for (topic, partition), rows in self._too_late.items():
            too_late.add_metric([topic, str(partition)], rows)
        yield too_late

    def _publication_families(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "andon_kpi_records", "KPI records published.", value=self._kpi_records
        )
        actions = CounterMetricFamily("andon_actions", "Actions published.", labels=("type",))
        for action_type, count in self._actions.items():
            actions.add_metric([action_type], count)
        yield actions
        yield GaugeMetricFamily(
            "andon_stalled_seconds",
            "For how long something has stood still, records in front of it. Growing: the worker"
            " ends itself at ANDON_STALL_TIMEOUT_S, and says what it was.",
            value=self._stalled_s,
        )
        yield GaugeMetricFamily(
            "andon_far_behind",
            "1 while so much waits that KPI records come with checkpoints only, every 30 s by"
            " default. For long: add a worker.",
            value=self._far_behind,
        )
        build = GaugeMetricFamily("andon_build_info", "What runs.", labels=tuple(self._build))
        build.add_metric(list(self._build.values()), 1)
        yield build
        if self._last_flush_s is not None:
            yield GaugeMetricFamily(
                "andon_last_flush_timestamp_seconds",
                "When a flush was last committed. Old while there is lag: restart the worker.",
                value=self._last_flush_s,
            )


def _gauge(
    name: str, documentation: str, values: Mapping[tuple[str, int], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, documentation, labels=_PARTITION)
    for (topic, partition), value in values.items():
        family.add_metric([topic, str(partition)], value)
    return family


def _version() -> str:
    try:
        return version("andon")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


METRICS = Metrics()
