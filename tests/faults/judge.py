"""What must hold when all is over: differences in words, and none if all is well."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl
import redis

from schemas.catalogue import ACTIONS, KPIS
from schemas.client import read_all
from schemas.codec import Codec
from schemas.registry import FileRegistry
from sinks.keys import DEFAULT_KEYS, version_field
from streams.settings import Settings
from streams.verify import Report, verify
from streams.verify.explain import Explained, explain
from tests.faults.load import Expected

_SHOWN: Final = 10
# As long as a day may be, of its size: what lies further back than its own size, Redis drops.
_REACH: Final = 1.1


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was compared, and what was wrong with it: nothing, if all is well."""

    account: Mapping[str, int]
    kpi_records: int
    actions: int
    differences: Sequence[str]


def judged(settings: Settings, sent: int, expected: Sequence[Expected]) -> Judgement:
    """Compare everything that was published with what the load implies."""
    report = verify(settings)
    actions = _actions(settings)
    differences = [
        *_of_verify(report, sent),
        *_of_actions(actions, expected),
        *_of_explanations(explain(settings)),
        *_of_redis(settings, actions),
    ]
    return Judgement(report.account(), report.records, len(actions), differences)


def _of_verify(report: Report, sent: int) -> Iterator[str]:
    for each in (*report.differences, *report.provisional)[:_SHOWN]:
        yield f"verify: {each}"
    if (count := report.difference_count + report.provisional_count) > _SHOWN:
        yield f"verify: {count} differences in all"
    for account in report.accounts:
        if not account.balances:
            yield f"verify: {account} does not add up"
    # A client that does not know whether a record has arrived may send it once more.
    if (consumed := report.account()["consumed"]) < sent:
        yield f"account: {consumed} events consumed, expected the {sent} that were sent"
    for lag in report.lags:
        yield f"verify: {lag.records} records of {lag.topic}-{lag.partition} not processed"


def _actions(settings: Settings) -> list[dict[str, Any]]:
    codec = Codec("action", FileRegistry(), ACTIONS)
    return [
        codec.decode(message.value() or b"", message.headers())
        for messages in read_all(settings.kafka_client(), ACTIONS)
        for message in messages
    ]


def _of_actions(actions: Sequence[dict[str, Any]], expected: Sequence[Expected]) -> Iterator[str]:
    """Compare with what was planted: each led to one action, and nothing else to any."""
    left = [action for action in actions if action["status"] == "OPEN"]
    for problem in expected:
        found = [action for action in left if _answers(action, problem)]
        if len(found) != 1:
            yield f"actions: {len(found)} for {problem}, expected 1"
        left = [action for action in left if action not in found]
    for action in left[:_SHOWN]:
        yield f"actions: {action['action_id']} of {action['rule_id']}, {action['subject']}: unasked"


def _answers(action: dict[str, Any], problem: Expected) -> bool:
    subject = {(part["name"], part["value"]) for part in action["subject"]["key"]}
    quoted = {id_ for each in action["evidence"] for id_ in each["evaluation_ids"]}
    return (
        action["rule_id"] == problem.rule_id
        and problem.subject <= subject
        and (problem.evaluation_id is None or problem.evaluation_id in quoted)
    )


def _of_explanations(explained: Explained) -> Iterator[str]:
    """See that each value that an action quotes is what the input implies."""
    for explanation in explained.explanations:
        entries = [entry for entry in explanation.entries if not entry.agrees]
        for problem in (*explanation.problems, *entries):
            yield f"explain: {explanation.action_id}: {problem}"


# -- Redis ----------------------------------------------------------------------------------------


def delivered(client: redis.Redis) -> dict[str, int]:
    """Return how far each partition (`topic/number`) is in Redis, by Redis' own account."""
    held = client.hgetall(DEFAULT_KEYS.positions)
    return {name.decode(): int(at or 0) for name, at in held.items()}


def _of_redis(settings: Settings, actions: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Compare Redis with the newest records of the topics."""
    client = redis.Redis.from_url(settings.redis_url)
    yield from _of_records(client, newest_records(settings))
    listed = {id_.decode() for id_ in client.zrange(DEFAULT_KEYS.open_actions, 0, -1)}
    newest = {action["action_id"]: action["status"] for action in actions}
    still_open = {action_id for action_id, status in newest.items() if status == "OPEN"}
    for action_id in sorted(listed ^ still_open)[:_SHOWN]:
        where = "Redis alone" if action_id in listed else "the topic alone"
        yield f"redis: action {action_id} is open in {where}"
    client.close()


def newest_records(settings: Settings) -> pl.DataFrame:
    """Return the highest version of each KPI record that Redis must hold, with its `name`."""
    codec = Codec("kpi-record", FileRegistry(), KPIS)
    newest = pl.DataFrame()
    for messages in read_all(settings.kafka_client(), KPIS):
        decoded = codec.columns([m.value() for m in messages], [m.timestamp()[1] for m in messages])
        keys = [messages[i].key() or b"" for i in decoded.index.tolist()]
        batch = decoded.frame.with_columns(pl.Series("name", [key.decode() for key in keys]))
        newest = _kept(pl.concat([newest, batch]) if newest.height else batch)
    return newest


def _kept(records: pl.DataFrame) -> pl.DataFrame:
    series = pl.col("name").str.replace(r"\|-?\d+$", "")
    window = pl.col("window").struct
    start, size = window.field("start_time"), window.field("size_ms")
    return (
        records.sort("version", maintain_order=True)
        .unique("name", keep="last", maintain_order=True)
        .filter(start >= start.max().over(series) - size * _REACH)
    )


def _of_records(client: redis.Redis, expected: pl.DataFrame) -> Iterator[str]:
    held = _held(client)
    wrong: Counter[str] = Counter()
    for record in expected.iter_rows(named=True):
        name = record.pop("name")
        found = held.pop(name, None)
        if found is None:
            wrong["missing"] += 1
        elif _content(found) != _content(record):
            wrong["other than in the topic"] += 1
            if wrong.total() <= _SHOWN:
                yield f"redis: {name} holds {_content(found)}, expected {_content(record)}"
    wrong["that no topic has"] += len(held)
    yield from (f"redis: {count} records {what}" for what, count in wrong.items() if count)


def _held(client: redis.Redis) -> dict[str, dict[str, Any]]:
    """Return the records in Redis by name, each with the version that it is compared by."""
    names, values, versions = [], [], []
    prefix = DEFAULT_KEYS.records("")
    for key in client.scan_iter(match=f"{prefix}*", count=1_000):
        series = key.decode().removeprefix(prefix)
        held = {field.decode(): value for field, value in client.hgetall(key).items()}
        for start in held.keys() - {"renewed"}:
            if version_field(start) in held:
                names.append(f"{series}|{start}")
                values.append(held[start])
                versions.append(int(held[version_field(start)]))
    decoded = Codec("kpi-record", FileRegistry(), KPIS).columns(values, ())
    rows = zip(decoded.index.tolist(), decoded.frame.iter_rows(named=True), strict=True)
    return {names[i]: record | {"version": versions[i]} for i, record in rows}


def _content(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without when it was computed: recovery may publish a version again."""
    return {name: value for name, value in record.items() if name != "computed_time"}
