"""Hours at an even rate: whether memory stays where it is."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from processors.dedupe import BUCKET_MS
from streams.bench.latency import Reals
from streams.bench.load import Stretch
from streams.bench.send import require_load, send_paced
from streams.bench.stage import Result, Span, Stage
from streams.bench.watch import sampled

MINUTE_S: Final = 60.0
#: So much of its mean may memory grow in an hour and still be called flat.
FLAT_PERCENT_PER_HOUR: Final = 3.0
#: Ids are forgotten by buckets, so that memory rises and falls with each: a line through minutes
#: would depend on where in a bucket they begin and end.
BUCKET_MIN: Final = BUCKET_MS // 60_000
#: Fewer minutes than these say nothing.
LEAST_MINUTES: Final = 2 * BUCKET_MIN


@dataclass(frozen=True, slots=True)
class Trend:
    """The least-squares line through the means of buckets, and what it says; None: too few."""

    minutes: int
    mean_mb: float
    slope_mb_per_hour: float
    flat: bool | None


def trend(rss_mb: Reals, settle_min: int) -> Trend:
    """Return the trend of samples a minute apart, leaving out the first so many minutes."""
    settled = rss_mb[settle_min:]
    mean = float(np.mean(settled if len(settled) else rss_mb)) if len(rss_mb) else 0.0
    if len(settled) < LEAST_MINUTES:
        return Trend(len(settled), mean, 0.0, None)
    means = settled[len(settled) % BUCKET_MIN :].reshape(-1, BUCKET_MIN).mean(axis=1)
    slope = float(np.polyfit(np.arange(len(means)) * BUCKET_MIN / 60, means, 1)[0])
    return Trend(len(settled), mean, slope, slope <= mean * FLAT_PERCENT_PER_HOUR / 100)


def endurance(stage: Stage) -> Result:
    """Send at the scenario's rate to its end, and look at the worker's memory every minute."""
    rate = stage.scenario.rate
    assert rate is not None
    worker = stage.start_worker()
    with sampled(worker.process.pid) as samples:
        stage.wait_for_takeover(worker)
        stage.tell(f"sending {rate:,} events/s for {stage.events / rate / 60:.0f} minutes")
        stretch = Stretch(stage.events, rate)
        start_s = samples.at_s[-1]
        send_paced(stage.client, stage.load_as_sent(), [stretch])
        end_s = samples.at_s[-1]
        stage.finish()
    require_load(stage.client, stage.catalogue, stage.events)
    left = stage.left_behind([worker], [samples])
    minutes = np.arange(start_s, end_s, MINUTE_S)
    rss_mb = np.array([samples.rss_mb_at(at_s) for at_s in minutes])
    found = trend(rss_mb, stage.scenario.settle_min)
    details = {
        "rss_mb": [round(float(each), 1) for each in rss_mb],
        "minutes_judged": found.minutes,
        "slope_mb_per_hour": found.slope_mb_per_hour,
        "flat": found.flat,
    }
    return stage.result(left, Span(start_s, end_s, end_s), stage.events, details=details)
