"""A worker is killed, and another takes its state over: how long until records are fresh again."""

import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import nan
from typing import Any, Final

from schemas.client import read_all
from streams.bench.freshness import Watch
from streams.bench.load import Stretch
from streams.bench.send import Outgoing, require_load, send_all, send_paced
from streams.bench.stage import START_S, Result, Span, Stage, logged
from streams.bench.watch import ProcessSamples, sampled
from streams.cli.children import Child

#: Longer than a run takes.
_LIVE_S: Final = 3_600
_CHECKPOINT: Final = "andon_last_checkpoint_timestamp_seconds"


@dataclass(frozen=True, slots=True)
class Takeover:
    """One kill: from when to when, and how much of that the successor spent on reading state."""

    killed_s: float
    fresh_s: float
    recovery_s: float
    samples: ProcessSamples

    @property
    def seconds(self) -> float:
        """How long nothing fresh came of some partition."""
        return self.fresh_s - self.killed_s


def recovery(stage: Stage) -> Result:
    """Fill the state, go on at an even rate, and kill one worker after the other meanwhile."""
    scenario = stage.scenario
    assert scenario.rate is not None
    stage.tell(f"filling the state with {scenario.events:,} events")
    send_all(stage.client, stage.load())
    after = stage.load_as_sent(scenario.events + scenario.rate * _LIVE_S, start=scenario.events)
    worker = stage.start_worker("worker-0")
    with (
        Watch(stage.client, stage.settings.application_id, stage.catalogue) as watch,
        _sent_meanwhile(stage, after) as live,
    ):
        stage.wait_for_takeover(worker)
        stage.children.wait_until(
            lambda: watch.processed >= scenario.events, "fill", START_S, lambda: watch.processed
        )
        takeovers = [
            _take_over(stage, watch, f"worker-{n}", f"worker-{n + 1}")
            for n in range(scenario.kills)
        ]
        state_mb = _state_mb(stage)
    last = stage.children.named(f"worker-{scenario.kills}")
    stage.finish(last.name)
    sent = scenario.events + live[0]
    require_load(stage.client, stage.catalogue, sent)
    return _result(stage, takeovers, last, state_mb, sent)


@contextmanager
def _sent_meanwhile(stage: Stage, events: Iterator[Outgoing]) -> Iterator[list[int]]:
    """Send at the scenario's rate until the block ends; the list then has how many events."""
    rate = stage.scenario.rate
    assert rate is not None
    over, sent = threading.Event(), [0]
    with ThreadPoolExecutor(1) as pool:
        stretch = Stretch(rate * _LIVE_S, rate)
        sending = pool.submit(send_paced, stage.client, events, [stretch], over)
        try:
            yield sent
        finally:
            over.set()
            sent[0] = sending.result()


def _take_over(stage: Stage, watch: Watch, old: str, new: str) -> Takeover:
    # What a full topic had put off is published, and state is written down since.
    since_s = time.time()
    stage.children.wait_until(
        lambda: _is_saved(stage, old, since_s), f"{old}: checkpoints", stage.longest_s
    )
    mark = watch.mark()
    stage.children.kill(old)
    child = stage.start_worker(new)
    with sampled(child.process.pid) as samples:
        stage.children.wait_until(
            lambda: watch.is_fresh_since(mark), f"{new}: fresh records", 2 * START_S
        )
        fresh_s = time.time()
    [*_, taken] = logged("partitions_taken_over", child.log)
    found = Takeover(mark.at_ms / 1000, fresh_s, float(taken["seconds"]), samples)
    stage.tell(f"{new}: fresh after {found.seconds:.1f} s, {found.recovery_s:.1f} s of recovery")
    return found


def _is_saved(stage: Stage, worker: str, since_s: float) -> bool:
    definitions = stage.definitions
    partitions = sum(definitions.catalogue[topic].partitions for topic in definitions.sources)
    saved = [at_s > since_s for at_s in stage.metric(worker, _CHECKPOINT)]
    return len(saved) == partitions and all(saved)


def _state_mb(stage: Stage) -> float:
    """Return how much the changelogs hold that is not superseded, in MB, as it is stored."""
    held: dict[tuple[str, int | None, bytes | None], int] = {}
    for source in stage.definitions.sources:
        changelog = stage.definitions.changelog(source)
        for messages in read_all(stage.client, changelog):
            for message in messages:
                place = (changelog, message.partition(), message.key())
                held[place] = len(message.value() or b"")
    return sum(held.values()) / 1e6


def _result(
    stage: Stage, takeovers: list[Takeover], last: Child, state_mb: float, sent: int
) -> Result:
    left = stage.left_behind([last], [takeovers[-1].samples])
    middle = sorted(takeovers, key=lambda each: each.seconds)[len(takeovers) // 2]
    details: dict[str, Any] = {
        "state_mb": state_mb,
        "seconds": [round(each.seconds, 2) for each in takeovers],
        "recovery_s": [round(each.recovery_s, 2) for each in takeovers],
        "median_s": statistics.median(each.seconds for each in takeovers),
    }
    span = Span(middle.killed_s, middle.fresh_s, middle.fresh_s)
    result = stage.result(left, span, stage.scenario.events, details=details, sent=sent)
    # Most of the events were there before: over the seconds of a takeover they are no rate.
    return replace(result, events_per_s=nan, cpu_us_per_event=nan, cpu_share=nan)
