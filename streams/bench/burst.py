"""A load that rises and falls: how long what has piled up takes, and how late records are then."""

from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from schemas.catalogue import KPIS
from streams.bench.drain import drained_after_s
from streams.bench.latency import Latency, Reals, summarise
from streams.bench.load import Stretch
from streams.bench.seen import in_kafka, read_events, read_records, visible_ms
from streams.bench.send import require_load, send_paced
from streams.bench.stage import Result, Span, Stage
from streams.bench.steady import Readers, readers, watched
from streams.bench.watch import sampled


@dataclass(frozen=True, slots=True)
class _Waits:
    """Of each interaction, in the order of appends, when that was and how long until it was seen.

    ``parts`` are those of the phases.
    """

    append_ms: Reals
    waits_ms: Reals
    parts: tuple[slice, ...]

    @property
    def ends_ms(self) -> list[float]:
        """When the last event of each phase was appended."""
        return [float(self.append_ms[part][-1]) for part in self.parts]

    def rate(self, part: slice) -> float:
        """Return how many events a second came of a phase."""
        times_ms = self.append_ms[part]
        return len(times_ms) / max(float(np.ptp(times_ms)) / 1000, 1e-3)


def burst(stage: Stage) -> Result:
    """Send each phase at its rate; the last but one is the burst, the last what comes after."""
    phases = stage.scenario.phases
    worker = stage.start_worker()
    with sampled(worker.process.pid) as samples, readers(stage) as read:
        stage.wait_for_takeover(worker)
        told = [f"{phase.rate:,} events/s for {phase.seconds} s" for phase in phases]
        stage.tell(f"sending {', then '.join(told)}")
        stretches = [Stretch(each.events, each.rate) for each in phases]
        send_paced(stage.client, stage.load_as_sent(), stretches)
        stage.finish()
    require_load(stage.client, stage.catalogue, stage.events)
    left = stage.left_behind([worker], [samples])
    found = _waits(stage, read)
    ends_ms = found.ends_ms
    details = {
        "drain_s": drained_after_s(found.append_ms, found.waits_ms, ends_ms[-2], phases[-1].rate),
        "rates": [round(found.rate(part)) for part in found.parts],
        "rss_mb": [round(samples.rss_mb_at(end_ms / 1000), 1) for end_ms in ends_ms],
    }
    span = Span(found.append_ms[0] / 1000, ends_ms[-1] / 1000, ends_ms[-1] / 1000)
    return stage.result(left, span, stage.events, _latencies(stage, found), details)


def _waits(stage: Stage, read: Readers) -> _Waits:
    [scope] = watched(stage)
    events = read_events(stage.client, stage.definitions, [scope])
    records = read_records(stage.client, stage.definitions, [scope])
    rows = events.measured(0)
    received = in_kafka(records.frames[scope.id], read.got[KPIS])
    waits_ms = visible_ms(events, rows, scope.id, received, records.vectors)
    bounds = accumulate((phase.events for phase in stage.scenario.phases), initial=0)
    parts = tuple(slice(first, end) for first, end in pairwise(bounds))
    return _Waits(events.append_ms[rows], waits_ms, parts)


def _latencies(stage: Stage, found: _Waits) -> dict[str, Latency]:
    [scope] = watched(stage)
    by_phase = {
        f"{scope.id}, {phase.name}": summarise(found.waits_ms[part])
        for phase, part in zip(stage.scenario.phases, found.parts, strict=True)
    }
    return {scope.id: summarise(found.waits_ms), **by_phase}
