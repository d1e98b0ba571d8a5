"""The metrics of a delivery, set from its running account."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sinks.delivery import Progress

_COUNTS = {
    "consumed": "Records read. Flat while lag grows: look at andon_delivery_redis_up.",
    "applied": "Records that are in Redis now or have been.",
    "superseded": "Records that Redis had in the same or a higher version, or that came together"
    " with a higher one; many after a restart, and while it is behind.",
    "rejected": "Records that cannot be decoded. Any: the log names them; a newer worker writes"
    " schemas that this delivery does not know.",
}


class DeliveryMetrics(Collector):
    """What a delivery tells Prometheus."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def text(self) -> bytes:
        """Return everything in Prometheus' text form."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield all families; prometheus-client calls this at each scrape."""
        for name, documentation in _COUNTS.items():
            family = CounterMetricFamily(f"andon_delivery_{name}", documentation, labels=("topic",))
            for topic, count in dict(getattr(self._progress, name)).items():
                family.add_metric((topic,), count)
            yield family
        yield CounterMetricFamily(
            "andon_delivery_rewound",
            "Partitions read again because Redis had lost or gained records. Any: Redis was"
            " restarted, restored or emptied.",
            value=self._progress.rewound,
        )
        yield CounterMetricFamily(
            "andon_delivery_write_seconds",
            "Time spent on decoding and writing. Near one second a second: start another delivery.",
            value=self._progress.write_seconds,
        )
        yield GaugeMetricFamily(
            "andon_delivery_lag_records",
            "Records that are not in Redis yet. Growing: the wallboard falls behind.",
            value=self._progress.lag_records,
        )
        yield GaugeMetricFamily(
            "andon_delivery_redis_up",
            "Whether Redis answers. 0: the wallboard is stale; nothing is lost.",
            value=self._progress.redis_since is None,
        )
