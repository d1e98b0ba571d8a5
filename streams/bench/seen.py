"""What was seen of a run: events as they were appended, and what readers got of their results.

Read from the topics when the run is over; a reader notes no more than when it got what.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import polars as pl
from confluent_kafka import Message

from processors.kpis import Scope
from schemas.catalogue import ACTIONS, AS_OF, EVALUATIONS, INTERACTIONS, KPIS
from schemas.client import read_all
from schemas.codec import Codec
from schemas.headers import Headers
from streams.bench.latency import Appended, Numbers, Published, Reals, latencies_ms
from streams.bench.ticks import Read, due_ms
from streams.bench.watch import Receptions, Shown
from streams.definitions import Definitions

#: The scopes whose records are waited for, as far as the registry has them.
SCOPES: Final = ("queue", "team", "overall")


def head_of(scope: Scope) -> str:
    """Return the head of the scope's longest window: every event of it is in one of these."""
    window = max(scope.windows, key=lambda each: each.size_ms)
    return f"{scope.id}|{window.kind}:{window.size_ms}"


def head_of_key(key: bytes | None) -> str:
    """Return the head that a KPI record's key tells, scope and window; empty for other keys.

    >>> head_of_key(b"queue|billing|TUMBLING:60000|1767225600000")
    'queue|TUMBLING:60000'
    """
    match (key or b"").decode().split("|"):
        case scope, _, window, _:
            return f"{scope}|{window}"
    return ""


@dataclass(frozen=True, slots=True)
class Events:
    """The interactions, a row each; ``names`` has by scope the name each counts under, or null."""

    partition: Numbers
    offset: Numbers
    append_ms: Reals
    event_ms: Numbers
    names: Mapping[str, pl.Series]

    def measured(self, warm_up: int) -> Numbers:
        """Return the rows of all but so many that were appended first, in the order of appends."""
        return np.argsort(self.append_ms, kind="stable")[warm_up:]

    @property
    def read(self) -> Read:
        """The events as a watermark goes by them."""
        return Read(self.partition, self.offset, self.append_ms, self.event_ms)


def read_events(
    client: Mapping[str, Any], definitions: Definitions, scopes: Sequence[Scope]
) -> Events:
    """Return all interactions; raise KafkaException."""
    frame = _frame(client, definitions.codec(INTERACTIONS), INTERACTIONS, _columns(scopes))
    names = {scope.id: _named(frame, scope) for scope in scopes}
    return Events(*_placed(frame), frame["event_time"].cast(pl.Int64).to_numpy(), names)


def _columns(scopes: Iterable[Scope]) -> list[str]:
    return sorted({"event_time", *(column for scope in scopes for column in scope.key)})


def _named(frame: pl.DataFrame, scope: Scope) -> pl.Series:
    if not scope.key:
        return pl.repeat("", len(frame), dtype=pl.String, eager=True)
    return frame[scope.key[0]].cast(pl.String)


def _frame(
    client: Mapping[str, Any], codec: Codec, topic: str, columns: Sequence[str]
) -> pl.DataFrame:
    """Return some columns of a topic's records, with their places and append times."""
    pieces = [_piece(codec, messages, columns) for messages in read_all(client, topic)]
    return pl.concat(pieces, rechunk=True) if pieces else _piece(codec, [], columns)


def _piece(codec: Codec, messages: Sequence[Message], columns: Sequence[str]) -> pl.DataFrame:
    found = codec.columns([message.value() for message in messages], [])
    places = np.array(
        [(m.partition(), m.offset(), m.timestamp()[1]) for m in messages], np.int64
    ).reshape(-1, 3)[found.index]
    return found.frame.select(columns).with_columns(
        *(
            pl.Series(name, places[:, i])
            for i, name in enumerate(("partition", "offset", "append_ms"))
        )
    )


def _placed(frame: pl.DataFrame) -> tuple[Numbers, Numbers, Reals]:
    partition, offset, append = (
        frame[name].to_numpy() for name in ("partition", "offset", "append_ms")
    )
    return partition, offset, append.astype(float)


@dataclass(frozen=True, slots=True)
class Records:
    """The committed KPI records of some heads: by scope, a row each, with what they include."""

    frames: Mapping[str, pl.DataFrame]
    vectors: Mapping[int, Numbers]


def read_records(
    client: Mapping[str, Any], definitions: Definitions, scopes: Sequence[Scope]
) -> Records:
    """Return the KPI records of each scope's longest window; raise KafkaException."""
    codec = definitions.codec(KPIS)
    heads = {head_of(scope): scope.id for scope in scopes}
    pieces: dict[str, list[pl.DataFrame]] = {scope.id: [_no_records(codec)] for scope in scopes}
    for messages in read_all(client, KPIS):
        for head, own in _by_head(messages).items():
            if head in heads:
                pieces[heads[head]].append(_record_piece(codec, own))
    frames = {scope: pl.concat(found) for scope, found in pieces.items()}
    return Records(frames, _vectors(client, definitions))


def _by_head(messages: Iterable[Message]) -> dict[str, list[Message]]:
    found: dict[str, list[Message]] = {}
    for message in messages:
        found.setdefault(head_of_key(message.key()), []).append(message)
    return found


def _record_piece(codec: Codec, messages: Sequence[Message]) -> pl.DataFrame:
    keys = [(message.key() or b"").decode() for message in messages]
    piece = _piece(codec, messages, ["version", "as_of_id"])
    return piece.with_columns(
        pl.Series("name", keys, dtype=pl.String),
        pl.Series("of", [key.split("|")[1] for key in keys], dtype=pl.String),
    )


def _no_records(codec: Codec) -> pl.DataFrame:
    return _record_piece(codec, [])


def _vectors(client: Mapping[str, Any], definitions: Definitions) -> dict[int, Numbers]:
    """Return by as_of_id the position of each partition of the interactions."""
    codec = definitions.codec(AS_OF)
    partitions = definitions.catalogue[INTERACTIONS].partitions
    vectors = {}
    for messages in read_all(client, AS_OF):
        for message in messages:
            record = codec.decode(message.value())
            vector = np.zeros(partitions, np.int64)
            for each in record["positions"]:
                if each["topic"] == INTERACTIONS:
                    vector[each["partition"]] = each["position"]
            vectors[record["as_of_id"]] = vector
    return vectors


def in_kafka(records: pl.DataFrame, got: Receptions) -> pl.DataFrame:
    """Return the records that a reader of committed records got, with ``received_ms``."""
    places = pl.DataFrame(
        {"partition": got.partition, "offset": got.offset, "received_ms": got.received_ms},
        schema={"partition": pl.Int64, "offset": pl.Int64, "received_ms": pl.Float64},
    )
    return records.join(places, on=["partition", "offset"])


def in_redis(records: pl.DataFrame, shown: Shown) -> pl.DataFrame:
    """Return the records that a reader of Redis saw, with ``received_ms``."""
    seen = pl.DataFrame(
        {"name": shown.name, "version": shown.version, "received_ms": shown.seen_ms},
        schema={"name": pl.String, "version": pl.Int64, "received_ms": pl.Float64},
    )
    return records.with_columns(pl.col("version").cast(pl.Int64)).join(seen, on=["name", "version"])


def visible_ms(
    events: Events, rows: Numbers, scope: str, received: pl.DataFrame, vectors: Mapping[int, Any]
) -> Reals:
    """Return for each of the rows that has a name in the scope the ms until it could be read.

    NaN where no record that was received has it.
    """
    names = events.names[scope].gather(rows)
    rows = rows[names.is_not_null().to_numpy()]
    names = names.drop_nulls()
    codes = pl.Enum(pl.concat([names, received["of"]]).unique())
    # The last partition may hold no event, and no record may have come.
    held = int(events.partition.max(initial=0)) + 1
    nothing = np.zeros(max(map(len, vectors.values()), default=held), np.int64)
    positions = [vectors.get(id_, nothing) for id_ in received["as_of_id"].to_list()]
    return latencies_ms(
        Appended(_coded(names, codes), *_at(events, rows)),
        Published(
            _coded(received["of"], codes),
            received["received_ms"].to_numpy(),
            np.array(positions, np.int64).reshape(-1, len(nothing)),
        ),
    )


def _at(events: Events, rows: Numbers) -> tuple[Numbers, Numbers, Reals]:
    return events.partition[rows], events.offset[rows], events.append_ms[rows]


def _coded(names: pl.Series, codes: pl.Enum) -> Numbers:
    return names.cast(codes).to_physical().cast(pl.Int64).to_numpy()


# -- actions ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Action:
    """An action as a reader got it, None where it did not; instants in ms."""

    rule_id: str
    event_time_ms: int
    evaluation_id: str | None
    received_ms: float | None


def read_actions(
    client: Mapping[str, Any], definitions: Definitions, got: Receptions
) -> list[Action]:
    """Return all actions that are committed; raise KafkaException."""
    return list(_actions(client, definitions.codec(ACTIONS), got.by_place()))


def _actions(
    client: Mapping[str, Any], codec: Codec, at_ms: Mapping[tuple[int, int], float]
) -> Iterator[Action]:
    for messages in read_all(client, ACTIONS):
        for message in messages:
            record = codec.decode(message.value(), cast(Headers, message.headers()))
            ids = [id_ for each in record["evidence"] for id_ in each["evaluation_ids"]]
            place = (message.partition() or 0, message.offset() or 0)
            yield Action(
                record["rule_id"],
                record["event_time"],
                ids[0] if len(ids) == 1 else None,
                at_ms.get(place),
            )


def immediate_ms(
    client: Mapping[str, Any],
    definitions: Definitions,
    actions: Iterable[Action],
    since_ms: float,
    until_ms: float,
) -> Reals:
    """Return for each evaluation that was failed by a critical question the ms to its action.

    Those appended in between are looked at, both ends included. NaN where no action was received.
    """
    frame = _frame(
        client, definitions.codec(EVALUATIONS), EVALUATIONS, ["evaluation_id", "auto_failed"]
    )
    due = frame.filter("auto_failed", pl.col("append_ms").is_between(since_ms, until_ms))
    immediate = {rule.id for rule in definitions.rules.immediate("evaluations")}
    received = {
        action.evaluation_id: action.received_ms
        for action in actions
        if action.rule_id in immediate
    }
    return np.array(
        [
            np.nan if (at_ms := received.get(name)) is None else at_ms - append_ms
            for name, append_ms in due.select("evaluation_id", "append_ms").iter_rows()
        ],
        dtype=float,
    )


def after_tick_ms(
    definitions: Definitions, events: Events, actions: Iterable[Action], since_ms: float
) -> Reals:
    """Return for each action of rules over interactions the ms from when its tick was due.

    Looked at are ticks that were due since then, by the events alone and not by the input's end.
    NaN where no reader has got the action.
    """
    rules = set(_rules_over_interactions(definitions))
    due = [action for action in actions if action.rule_id in rules]
    topic = definitions.catalogue[INTERACTIONS]
    ticks = np.array([action.event_time_ms for action in due], np.int64)
    moments = due_ms(events.read, ticks, topic.disorder_ms, topic.partitions)
    received = np.array(
        [np.nan if each.received_ms is None else each.received_ms for each in due], dtype=float
    )
    found: Reals = (received - moments)[np.isfinite(moments) & (moments >= since_ms)]
    return found


def _rules_over_interactions(definitions: Definitions) -> Iterator[str]:
    sources = definitions.registry.sources
    for group in definitions.rules.groups:
        named = {
            sources[source].topic
            for rule in group.rules
            for condition in (rule.when, rule.clear, *rule.guards)
            if condition is not None
            for kpi in condition.kpis
            for source in group.scope.kpis[kpi].sources
        }
        if named == {INTERACTIONS}:
            yield from (rule.id for rule in group.rules)
