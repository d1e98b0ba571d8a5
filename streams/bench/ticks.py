"""When a tick of rules was due: when the last partition's watermark had reached it."""

from dataclasses import dataclass

import numpy as np

from streams.bench.latency import Numbers, Reals


@dataclass(frozen=True, slots=True)
class Read:
    """Events of one topic, a row each, with the broker's append times; instants in ms."""

    partition: Numbers
    offset: Numbers
    append_ms: Reals
    event_ms: Numbers


def due_ms(events: Read, ticks: Numbers, disorder_ms: int, partitions: int) -> Reals:
    """Return for each tick when the record was appended that made it due.

    A tick is due when the watermark of every partition that has any event has reached it: the
    highest event time so far, less the disorder. Infinite where the events alone do not reach it.
    """
    moments = np.full(len(ticks), -np.inf)
    for partition in range(partitions):
        rows = np.flatnonzero(events.partition == partition)
        if not len(rows):
            continue
        rows = rows[np.argsort(events.offset[rows], kind="stable")]
        watermarks = np.maximum.accumulate(events.event_ms[rows]) - disorder_ms
        nth = np.searchsorted(watermarks, ticks, side="left")
        # One past the last: never.
        appended = np.append(events.append_ms[rows], np.inf)
        moments = np.maximum(moments, appended[nth])
    return moments
