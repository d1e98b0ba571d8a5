"""An even load, and how long everything that comes of an event takes to reach a reader."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import redis

from processors.kpis import Scope
from schemas.catalogue import ACTIONS, INTERACTIONS, KPIS
from sinks.keys import DEFAULT_KEYS
from streams.bench.latency import Numbers, Reals, summarise
from streams.bench.load import Stretch
from streams.bench.seen import (
    SCOPES,
    Events,
    after_tick_ms,
    head_of,
    immediate_ms,
    in_kafka,
    in_redis,
    read_actions,
    read_events,
    read_records,
    visible_ms,
)
from streams.bench.send import require_load, send_paced
from streams.bench.stage import START_S, Result, Span, Stage, logged
from streams.bench.watch import (
    ProcessSamples,
    Receptions,
    Shown,
    receptions,
    sampled,
    shown_in_redis,
)

_DELIVERY_S: Final = 120.0
_QUIET_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Readers:
    """What readers noted while the load ran; of Redis only where `andon deliver` ran as well."""

    got: Mapping[str, Receptions]
    shown: Shown | None
    delivery: ProcessSamples | None


def steady(stage: Stage) -> Result:
    """Send evenly, and measure from each event of interest to what comes of it."""
    rate = stage.scenario.rate
    assert rate is not None
    events = list(stage.load())
    worker = stage.start_worker()
    with sampled(worker.process.pid) as samples, readers(stage) as read:
        stage.wait_for_takeover(worker)
        stage.tell(f"sending {rate:,} events/s")
        send_paced(stage.client, iter(events), [Stretch(len(events), rate)])
        stage.finish()
        wait_for_delivery(stage, read)
    require_load(stage.client, stage.catalogue, stage.events)
    left = stage.left_behind([worker], [samples])
    scopes = watched(stage)
    happened = read_events(stage.client, stage.definitions, scopes)
    rows = happened.measured(_warm_up(stage))
    start_ms, end_ms = happened.append_ms[rows[[0, -1]]].tolist()
    found = {
        **_to_records(stage, read, scopes, happened, rows),
        **(_to_actions(stage, read, happened, start_ms, end_ms) if stage.scenario.whole else {}),
    }
    details = _details(read, start_ms / 1000, end_ms / 1000)
    latencies = {what: summarise(each) for what, each in found.items()}
    span = Span(start_ms / 1000, end_ms / 1000, end_ms / 1000)
    return stage.result(left, span, stage.scenario.events, latencies, details)


def watched(stage: Stage) -> list[Scope]:
    """Return the scopes whose records are waited for."""
    names = SCOPES if stage.scenario.whole else SCOPES[:1]
    return [scope for scope in stage.scopes if scope.id in names]


@contextmanager
def readers(stage: Stage) -> Iterator[Readers]:
    """Give what readers of Kafka, and in a whole scenario of Redis, get until the block ends."""
    scopes = watched(stage)
    heads = [head_of(scope) for scope in scopes]
    # A key is scope|key value|window|start.
    patterns = ["\\|[^|]*\\|".join(map(re.escape, head.split("|"))) for head in heads]
    wanted = {KPIS: (stage.catalogue[KPIS].partitions, _any_of(patterns))}
    with ExitStack() as stack:
        shown = delivery = None
        if stage.scenario.whole:
            wanted[ACTIONS] = stage.catalogue[ACTIONS].partitions, _any_of([""])
            shown = stack.enter_context(shown_in_redis(stage.settings.redis_url, heads))
            child = stage.children.start("deliver", "deliver")
            delivery = stack.enter_context(sampled(child.process.pid))
            stage.children.wait_until(
                lambda: bool(logged("partitions_assigned", child.log)), "deliver", START_S
            )
        got = stack.enter_context(receptions(stage.client, wanted))
        yield Readers(got, shown, delivery)


def _any_of(patterns: Sequence[str]) -> re.Pattern[bytes]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns).encode())


def wait_for_delivery(stage: Stage, read: Readers) -> None:
    """Return when everything that is committed is in Redis, and `andon deliver` has ended."""
    if read.shown is None:
        return
    client = redis.Redis.from_url(stage.settings.redis_url)

    def positions() -> object:
        return client.hgetall(DEFAULT_KEYS.positions)

    stage.children.wait_until(_unchanged(positions), "deliver", _DELIVERY_S, positions)
    stage.children.stop("deliver")
    client.close()


def _unchanged(look: Callable[[], object]) -> Callable[[], bool]:
    """Return what tells whether `look` has given the same for some seconds.

    A lag of zero would not do: the last offset of a partition is the end of a transaction, which
    no reader gets.
    """
    since: list[tuple[float, object]] = []

    def answer() -> bool:
        now, found = time.monotonic(), look()
        if not since or since[0][1] != found:
            since[:] = [(now, found)]
        return now - since[0][0] >= _QUIET_S

    return answer


def _to_records(
    stage: Stage, read: Readers, scopes: Sequence[Scope], events: Events, rows: Numbers
) -> dict[str, Reals]:
    records = read_records(stage.client, stage.definitions, scopes)
    found = {}
    for scope in scopes:
        frame, vectors = records.frames[scope.id], records.vectors
        of_kafka = in_kafka(frame, read.got[KPIS])
        found[scope.id] = visible_ms(events, rows, scope.id, of_kafka, vectors)
        if read.shown is not None:
            of_redis = in_redis(frame, read.shown)
            found[f"{scope.id} in Redis"] = visible_ms(events, rows, scope.id, of_redis, vectors)
    return found


def _to_actions(
    stage: Stage, read: Readers, events: Events, start_ms: float, end_ms: float
) -> dict[str, Reals]:
    client, definitions = stage.client, stage.definitions
    actions = read_actions(client, definitions, read.got[ACTIONS])
    return {
        "immediate action": immediate_ms(client, definitions, actions, start_ms, end_ms),
        "window action": after_tick_ms(definitions, events, actions, start_ms),
    }


def _warm_up(stage: Stage) -> int:
    """Return how many interactions are sent before those that are measured."""
    of_hundred = stage.scenario.per_hundred["interaction"]
    assert stage.catalogue[INTERACTIONS].contract == "interaction"
    return stage.scenario.warm_up_events * of_hundred // 100


def _details(read: Readers, start_s: float, end_s: float) -> dict[str, float]:
    if read.delivery is None:
        return {}
    cpu_s = read.delivery.cpu_between_s(start_s, end_s)
    return {
        "deliver_cpu_share": cpu_s / (end_s - start_s),
        "deliver_peak_rss_mb": read.delivery.peak_rss_mb,
    }
