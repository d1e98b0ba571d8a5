"""From when an event was appended to when a KPI record that includes it could be read."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Appended:
    """Events of an input topic, a row each; ``key`` is the number of the key they count under."""

    key: Numbers
    partition: Numbers
    offset: Numbers
    append_ms: Reals


@dataclass(frozen=True, slots=True)
class Published:
    """KPI records as a reader got them, a row each.

    ``positions[row, partition]`` is the offset of the first record that the sums do not include, 0
    where they include nothing of the partition.
    """

    key: Numbers
    received_ms: Reals
    positions: Numbers


@dataclass(frozen=True, slots=True)
class Latency:
    """Quantiles in ms of ``n`` that were seen, each a value of theirs; ``unseen`` never were."""

    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    unseen: int
    n: int


def latencies_ms(events: Appended, records: Published) -> Reals:
    """Return for each event the ms from its append to the first record of its key that has it.

    NaN where no record has it.
    """
    found = np.full(len(events.key), np.nan)
    order = np.argsort(records.received_ms, kind="stable")
    by_key = _groups(records.key[order])
    for key, mine in _groups(events.key).items():
        rows = order[by_key.get(key, np.empty(0, np.int64))]
        # What one record includes, every later one does too, whichever the reader got first.
        reached = np.maximum.accumulate(records.positions[rows], axis=0)
        for partition, places in _groups(events.partition[mine]).items():
            which = mine[places]
            nth = np.searchsorted(reached[:, partition], events.offset[which], side="right")
            seen = nth < len(rows)
            received = records.received_ms[rows[nth[seen]]]
            found[which[seen]] = received - events.append_ms[which[seen]]
    return found


def summarise(latencies: Reals) -> Latency:
    """Return the quantiles of latencies in ms; all NaN where no event was seen."""
    seen = latencies[~np.isnan(latencies)]
    unseen = len(latencies) - len(seen)
    if not len(seen):
        return Latency(np.nan, np.nan, np.nan, np.nan, unseen, 0)
    p50, p99, p999, last = np.quantile(seen, [0.5, 0.99, 0.999, 1.0], method="higher")
    return Latency(float(p50), float(p99), float(p999), float(last), unseen, len(seen))


def _groups(values: Numbers) -> dict[int, Numbers]:
    """Return the rows of each value, in their order."""
    if not len(values):
        return {}
    order = np.argsort(values, kind="stable")
    distinct, starts = np.unique(values[order], return_index=True)
    return dict(zip(distinct.tolist(), np.split(order, starts[1:]), strict=True))
