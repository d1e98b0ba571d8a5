"""One scenario: load, worker, measurement, judgement."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from schemas.catalogue import KPIS, PARTIALS
from streams.bench.burst import burst
from streams.bench.endurance import endurance
from streams.bench.latency import Latency
from streams.bench.recovery import recovery
from streams.bench.seen import head_of
from streams.bench.send import require_load, send_all
from streams.bench.stage import (
    START_S,
    Left,
    NotMeasurable,
    Result,
    Span,
    Stage,
    logged,
    taken_over,
)
from streams.bench.steady import steady
from streams.bench.watch import sampled
from streams.cli.children import Child


def run(stage: Stage) -> Result:
    """Run the scenario of an empty stage and return what was measured.

    Raises CommandError where the worker fails, LoadLost and NotMeasurable.
    """
    stage.make_topics()
    return _KINDS[stage.scenario.kind](stage)


def catch_up(stage: Stage) -> Result:
    """Let a worker work off topics that are full."""
    stage.send_all()
    return work_off(stage)


def work_off(stage: Stage) -> Result:
    """Measure a catch-up on topics that hold the scenario's events already; raises as `run`."""
    stage.tell("working them off")
    worker = stage.start_worker()
    with sampled(worker.process.pid) as samples:
        stage.finish()
    left = stage.left_behind([worker], [samples])
    start_s = max(at for at in left.taken_over_s if at <= left.first_s)
    return _until_whole(stage, left, start_s)


def at_once(stage: Stage) -> Result:
    """Let several workers share the partitions, and then send as fast as it goes."""
    events = list(stage.load())
    names = [f"worker-{n}" for n in range(stage.scenario.workers)]
    workers = [stage.start_worker(name) for name in names]
    with ExitStack() as stack:
        samples = [stack.enter_context(sampled(each.process.pid)) for each in workers]
        stage.children.wait_until(lambda: _share(stage, workers), "workers", START_S)
        stage.tell(f"sending {stage.events:,} events")
        start_s = time.time()
        send_all(stage.client, events)
        stage.finish(*names)
    require_load(stage.client, stage.catalogue, stage.events)
    return _until_whole(stage, stage.left_behind(workers, samples), start_s)


def _share(stage: Stage, workers: Sequence[Child]) -> bool:
    """Tell whether each of the workers has partitions, and together they have all."""
    all_ = sum(stage.catalogue[source].partitions for source in stage.definitions.sources)
    taken = [logged("partitions_taken_over", worker.log) for worker in workers]
    return all(taken) and all_ == sum(each[-1]["partitions"] for each in taken)


def _until_whole(stage: Stage, left: Left, start_s: float) -> Result:
    """Return the result up to the last record of the longest windows that are published most often.

    Every event is in one of these; windows that hop and still fill up wait for a checkpoint.
    """
    least_ms = min(scope.publish_every_ms for scope in stage.scopes)
    frequent = {head_of(scope) for scope in stage.scopes if scope.publish_every_ms == least_ms}
    whole_s = max(times[-1] for head, times in left.published.items() if head in frequent)
    return stage.result(left, Span(start_s, float(whole_s), left.last_s), stage.events)


def rebuild(stage: Stage) -> Result:
    """Let a worker work off full topics, and rebuild what it made."""
    stage.send_all()
    stage.tell("working them off")
    stage.start_worker()
    stage.finish()
    stage.tell("rebuilding")
    began_s = time.time()
    names = [f"worker-{n}" for n in range(stage.scenario.workers)]
    rebuilding = stage.children.start("rebuild", "rebuild", "--workers", str(len(names)))
    logs = [stage.settings.state_dir / "rebuild" / f"{name}.log" for name in names]
    stage.children.wait_until(
        lambda: all(logged("worker_started", log) for log in logs), "workers", START_S
    )
    with ExitStack() as stack:
        pids = [int(logged("worker_started", log)[-1]["pid"]) for log in logs]
        samples = [stack.enter_context(sampled(pid)) for pid in pids]
        stage.finish(rebuilding.name)
    taken = sorted(at for log in logs for at in taken_over(log))
    folded_s = max(float(times[-1]) for times in stage.times_in(PARTIALS).values())
    published = stage.times_in(KPIS, since_s=began_s)
    if not published or folded_s <= taken[0]:
        raise NotMeasurable(f"{logs[0]}: nothing was published anew, expected everything")
    left = Left(taken, samples, published)
    return stage.result(left, Span(taken[0], folded_s, left.last_s), stage.events)


_KINDS: dict[str, Callable[[Stage], Result]] = {
    "catch-up": catch_up,
    "at-once": at_once,
    "steady": steady,
    "rebuild": rebuild,
    "burst": burst,
    "recovery": recovery,
    "endurance": endurance,
}


def plain(result: Result) -> dict[str, Any]:
    """Return a result as plain JSON values, latencies beside the rest; None is what has no value.

    The names are those of the history, where it has them.
    """
    return {
        "scenario": result.scenario,
        "events": result.events,
        "seconds": result.seconds,
        "seconds_to_last_record": result.seconds_to_last_record,
        "events_per_s": _value(result.events_per_s),
        "cpu_us_per_event": _value(result.cpu_us_per_event),
        "cpu_share": _value(result.cpu_share),
        **_quantiles(result.latency),
        "peak_rss_mb": result.peak_rss_mb,
        "kpi_records": result.kpi_records,
        "verified": result.verified,
        "problems": list(result.problems),
        "latencies": {
            what: {**_quantiles(each), "n": each.n} for what, each in result.latencies.items()
        },
        "details": dict(result.details),
    }


def _quantiles(latency: Latency | None) -> dict[str, float | None]:
    return {
        name: None if latency is None else _value(getattr(latency, name))
        for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms")
    }


def _value(figure: float) -> float | None:
    return None if math.isnan(figure) else figure
