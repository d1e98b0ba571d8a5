"""Small inputs for the oracle, and a recomputation in plain Python that is plainly right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from schemas.codec import Codec
from schemas.registry import FileRegistry
from streams.verify.definitions import Definitions, definitions
from streams.verify.intake import Raw, add_records
from streams.verify.ledger import Advance, Input, Ledger
from streams.verify.recompute import Expected, recompute

ZONE = "Europe/Berlin"
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS

INTERACTIONS = Input("interactions", "interaction", 2_000, HOUR_MS, 0, restates=False)
SURVEYS = Input("surveys", "survey", 2_000, 24 * HOUR_MS, 24 * HOUR_MS, restates=True)
EVALUATIONS = Input("evaluations", "evaluation", 2_000, 24 * HOUR_MS, 0, restates=True)
INPUTS = (INTERACTIONS, SURVEYS, EVALUATIONS)

_REGISTRY = FileRegistry()
CODECS = {each.contract: Codec(each.contract, _REGISTRY, each.topic) for each in INPUTS}

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "interaction": {
        "event_type": "OFFERED",
        "interaction_id": "i",
        "channel": "VOICE",
        "direction": "INBOUND",
        "handler": "HUMAN",
        "queue_id": "sales",
    },
    "survey": {"survey_id": "s", "interaction_id": "i", "event_type": "ANSWERED"},
    "evaluation": {
        "evaluation_id": "v",
        "interaction_id": "i",
        "agent_id": "ann",
        "evaluator_id": "q",
        "evaluator_kind": "HUMAN",
        "purpose": "REGULAR",
        "form_id": "f",
        "form_version": 1,
        "status": "SUBMITTED",
        "score_percent": 50.0,
        "auto_failed": False,
        "items": [],
    },
}


@dataclass(slots=True)
class Log:
    """Input partitions as lists of values; positions are places in the list."""

    records: list[tuple[str, int, dict[str, Any] | bytes | None]] = field(default_factory=list)
    advances: list[Advance] = field(default_factory=list)
    append_ms: int = 2**52

    def add(self, contract: str, partition: int, **fields: Any) -> None:
        """Append an event of a contract; what is left out takes a default."""
        event = {"event_id": f"e{len(self.records)}", **DEFAULTS[contract], **fields}
        self.records.append((contract, partition, event))

    def add_bytes(self, contract: str, partition: int, value: bytes | None) -> None:
        """Append a value as it is."""
        self.records.append((contract, partition, value))

    def partitions(self) -> dict[tuple[str, int], list[dict[str, Any] | bytes | None]]:
        """Return the values by contract and partition, in order."""
        found: dict[tuple[str, int], list[dict[str, Any] | bytes | None]] = defaultdict(list)
        for contract, partition, value in self.records:
            found[contract, partition].append(value)
        return found


@contextmanager
def ledger_of(log: Log, inputs: Sequence[Input] = INPUTS) -> Iterator[Ledger]:
    """Yield a decided ledger of the log, by way of Avro bytes."""
    with Ledger(inputs, directory=None) as ledger:
        for (contract, partition), values in log.partitions().items():
            codec = CODECS[contract]
            records = [
                Raw(partition, i, log.append_ms, None, _encoded(codec, value), None)
                for i, value in enumerate(values)
            ]
            add_records(ledger, codec, _REGISTRY, records)
        ledger.advance(log.advances)
        ledger.decide()
        yield ledger


def _encoded(codec: Codec, value: dict[str, Any] | bytes | None) -> bytes | None:
    return codec.encode(value) if isinstance(value, dict) else value


def records_of(
    ledger: Ledger, registry: Definitions
) -> dict[tuple[str, tuple[str, ...], str, int, int], dict[str, Any]]:
    """Return the recomputed records: fields by (scope, key, window kind, start, end)."""
    found = {}
    for made in recompute(ledger, registry):
        found.update(_rows(ledger, made))
    return found


def _rows(ledger: Ledger, made: Expected) -> Iterator[tuple[Any, dict[str, Any]]]:
    result = ledger.sql.execute(f"SELECT * FROM {made.table}")
    names = [column[0] for column in result.description]
    for values in result.fetchall():
        row = dict(zip(names, values, strict=True))
        key = tuple(row.pop(f"k{i}") for i in range(len(made.scope.key)))
        place = (made.scope.id, key, made.window.kind, row.pop("start_ms"), row.pop("end_ms"))
        yield place, row


REGISTRY = definitions(
    [
        {
            "zone": ZONE,
            "parameters": [
                {"id": "limit_ms", "by": "queue_id", "default": 20_000, "values": {"vip": 5_000}}
            ],
            "scopes": [
                {
                    "id": "queue",
                    "key": ["queue_id"],
                    "windows": ["15m", "5m/1m", "day"],
                    "histograms": True,
                    "sources": ["interactions", "surveys", "evaluations"],
                },
                {"id": "item", "key": ["agent_id", "question_id"], "windows": ["60m"]},
            ],
            "measures": [
                {"id": "offered", "source": "interactions", "value": "event_type = 'OFFERED'"},
                {"id": "answered", "source": "interactions", "value": "event_type = 'ANSWERED'"},
                {
                    "id": "in_time",
                    "source": "interactions",
                    "value": "event_type = 'ANSWERED' AND queue_wait_ms <= limit_ms",
                },
                {"id": "wait", "source": "interactions", "value": "queue_wait_ms"},
                {
                    "id": "waits",
                    "source": "interactions",
                    "aggregate": "histogram",
                    "value": "queue_wait_ms",
                },
                {
                    "id": "offers_answered",
                    "source": "interactions",
                    "value": "event_type = 'ANSWERED'",
                    "count_time": "offered_time",
                },
                {"id": "csat_points", "source": "surveys", "value": "csat"},
                {"id": "csat_answers", "source": "surveys", "value": "csat IS NOT NULL"},
                {"id": "evaluations", "source": "evaluations", "value": "event_id IS NOT NULL"},
                {
                    "id": "scores",
                    "source": "evaluations",
                    "value": "score_percent",
                    "precision": 0.000001,
                },
                {"id": "low_items", "source": "evaluation_items", "value": "score < max_score"},
            ],
            "kpis": [
                {
                    "id": "service_level",
                    "unit": "percent",
                    "numerator": "in_time",
                    "denominator": "answered",
                    "direction": "higher",
                    "warning": 80,
                    "critical": 50,
                    "minimum_n": 2,
                },
                {
                    "id": "asa",
                    "unit": "seconds",
                    "numerator": "wait",
                    "denominator": "answered",
                    "direction": "lower",
                    "warning": 10,
                },
                {"id": "median_wait", "unit": "seconds", "quantile": 0.5, "of": "waits"},
                {
                    "id": "csat",
                    "unit": "score",
                    "numerator": "csat_points",
                    "denominator": "csat_answers",
                },
                {
                    "id": "quality",
                    "unit": "percent",
                    "scale": 1,
                    "numerator": "scores",
                    "denominator": "evaluations",
                },
                {"id": "low", "unit": "count", "numerator": "low_items"},
            ],
        }
    ]
)


@dataclass(slots=True)
class Naive:
    """The same registry, worked out one event at a time with dictionaries."""

    accounts: dict[tuple[str, int], dict[str, int]] = field(default_factory=dict)
    watermarks: dict[tuple[str, int], int | None] = field(default_factory=dict)
    records: dict[Any, dict[str, Any]] = field(default_factory=dict)


def naive(log: Log) -> Naive:
    """Recompute a log of readable events."""
    found = Naive()
    sums: dict[Any, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    waits: dict[Any, list[int]] = defaultdict(list)
    times = {each.contract: each for each in INPUTS}
    for (contract, partition), values in log.partitions().items():
        applied = _applied(found, log, times[contract], partition, values)
        touched: dict[Any, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for event in applied:
            _count(contract, event, touched, defaultdict(list))
        for place in touched:
            # What was restated leaves its record, with nothing in it.
            sums[place]["restated"] = 0
        for event in {event["event_id"]: event for event in applied}.values():
            _count(contract, event, sums, waits)
    for place, measures in sums.items():
        found.records[place] = _fields(place, measures, waits[place])
    return found


def _applied(found, log, source, partition, values):
    """Return the applied events, each taking back the one of its id before; keep the account."""
    account = dict.fromkeys(("applied", "duplicates", "expired", "dead_lettered"), 0)
    applied: list[dict[str, Any]] = []
    newest: dict[str, dict[str, Any]] = {}
    watermark = None
    for position in range(len(values) + 1):
        for advance in log.advances:
            if (advance.topic, advance.partition, advance.position) == (
                source.topic,
                partition,
                position,
            ):
                watermark = max(advance.watermark_ms, watermark or advance.watermark_ms)
        if position == len(values):
            break
        event = values[position]
        reached = event["event_time"] - source.disorder_ms
        watermark = reached if watermark is None else max(watermark, reached)
        version = event.get("version", 1)
        if event["event_time"] < watermark - source.grace_ms:
            account["expired"] += 1
        elif event["event_id"] in newest and (
            version <= newest[event["event_id"]].get("version", 1) or not source.restates
        ):
            account["duplicates"] += 1
        else:
            account["applied"] += 1
            newest[event["event_id"]] = event
            applied.append(event)
    found.accounts[source.contract, partition] = account
    found.watermarks[source.contract, partition] = watermark
    return applied


def _count(contract, event, sums, waits):
    at = event["event_time"]
    queue = (event.get("queue_id") or "",)
    wait = event.get("queue_wait_ms")
    if contract == "interaction":
        answered = event["event_type"] == "ANSWERED"
        limit = 5_000 if queue == ("vip",) else 20_000
        offered = event["event_type"] == "OFFERED"
        for place in places("queue", queue, at):
            sums[place]["offered"] += offered
            sums[place]["answered"] += answered
            sums[place]["in_time"] += answered and wait is not None and wait <= limit
            sums[place]["wait"] += wait or 0
            if wait is not None:
                waits[place].append(wait)
        for place in places("queue", queue, event.get("offered_time") or at):
            sums[place]["offers_answered"] += answered
    elif contract == "survey":
        for place in places("queue", queue, event.get("interaction_time") or at):
            sums[place]["csat_points"] += event.get("csat") or 0
            sums[place]["csat_answers"] += event.get("csat") is not None
    else:
        for place in places("queue", queue, at):
            sums[place]["evaluations"] += 1
            sums[place]["scores"] += round(event["score_percent"] * 1_000_000)
        for item in event["items"]:
            for place in places("item", (event["agent_id"], item["question_id"]), at):
                sums[place]["low_items"] += item["score"] < item["max_score"]


def places(scope, key, at):
    """Return every window of a scope that holds the instant."""
    if scope == "item":
        start = at - at % HOUR_MS
        return [(scope, key, "TUMBLING", start, start + HOUR_MS)]
    quarter = at - at % (15 * MINUTE_MS)
    newest = at - at % MINUTE_MS
    zone = ZoneInfo(ZONE)
    day = datetime.fromtimestamp(at / 1000, zone).date()
    midnights = [
        int(datetime(d.year, d.month, d.day, tzinfo=zone).timestamp() * 1000)
        for d in (day, day + timedelta(days=1))
    ]
    hops = [newest - back * MINUTE_MS for back in range(5)]
    return [
        (scope, key, "TUMBLING", quarter, quarter + 15 * MINUTE_MS),
        (scope, key, "DAY", *midnights),
        *((scope, key, "HOPPING", start, start + 5 * MINUTE_MS) for start in hops),
    ]


def _fields(place, measures, waits):
    names = [each.id for each in REGISTRY.measures.values() if each.id != "waits"]
    item = place[0] == "item"
    row = {name: int(measures[name]) for name in names if (name == "low_items") == item}
    if item:
        return row | {"v:low": float(row["low_items"]), "n:low": row["low_items"], "s:low": "OK"}
    answered, csat_n, evaluations = row["answered"], row["csat_answers"], row["evaluations"]
    kpis = {
        "service_level": (100 * row["in_time"] / answered if answered else None, answered),
        "asa": (row["wait"] / 1000 / answered if answered else None, answered),
        "median_wait": (median(waits), len(waits)),
        "csat": (row["csat_points"] / csat_n if csat_n else None, csat_n),
        "quality": (row["scores"] / 1e6 / evaluations if evaluations else None, evaluations),
    }
    for name, (value, n) in kpis.items():
        row |= {f"v:{name}": value, f"n:{name}": n, f"s:{name}": _state(name, value, n)}
    return row


def median(waits):
    """Return the middle wait in seconds, by what its histogram bucket stands for."""
    if not waits:
        return None
    wait = sorted(waits)[(len(waits) - 1) // 2]
    if wait < 100:
        return 0.0
    floor = 100.0
    while floor * (101 / 99) <= wait:
        floor *= 101 / 99
    return floor * 1.01 / 1000


def _state(name, value, n):
    if value is None:
        return "NO_DATA"
    if name == "service_level":
        if n < 2:
            return "TOO_FEW"
        return "CRITICAL" if value < 50 else "WARNING" if value < 80 else "OK"
    return "WARNING" if name == "asa" and value > 10 else "OK"
