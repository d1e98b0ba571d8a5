"""A load that rises and falls: how long what has piled up takes, and how late records are then."""

from itertools import pairwise

import numpy as np

from schemas.catalogue import KPIS
from streams.bench.drain import drained_after_s
from streams.bench.latency import summarise
from streams.bench.load import Stretch
from streams.bench.seen import in_kafka, read_events, read_records, visible_ms
from streams.bench.send import require_load, send_paced
from streams.bench.stage import Result, Span, Stage
from streams.bench.steady import readers, watched
from streams.bench.watch import sampled


def burst(stage: Stage) -> Result:
    """Send each phase at its rate; the second is the burst, the last is for what is left of it."""
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
    [scope] = watched(stage)
    events = read_events(stage.client, stage.definitions, [scope])
    records = read_records(stage.client, stage.definitions, [scope])
    rows = events.measured(0)
    received = in_kafka(records.frames[scope.id], read.got[KPIS])
    waits_ms = visible_ms(events, rows, scope.id, received, records.vectors)
    append_ms = events.append_ms[rows]
    bounds = np.cumsum([0, *(phase.events for phase in phases)])
    parts = [slice(first, end) for first, end in pairwise(bounds.tolist())]
    latencies = {
        f"{scope.id} {phase.name}": summarise(waits_ms[part])
        for phase, part in zip(phases, parts, strict=True)
    }
    ends_ms = [append_ms[end - 1] for end in bounds[1:]]
    details = {
        "drain_s": drained_after_s(append_ms, waits_ms, float(ends_ms[-2]), phases[-1].rate),
        "rates": [
            round(len(waits_ms[part]) / max(np.ptp(append_ms[part]) / 1000, 1e-3)) for part in parts
        ],
        "rss_mb": [round(samples.rss_mb_at(end_ms / 1000), 1) for end_ms in ends_ms],
    }
    span = Span(append_ms[0] / 1000, append_ms[-1] / 1000, append_ms[-1] / 1000)
    return stage.result(left, span, len(rows), latencies, details)
