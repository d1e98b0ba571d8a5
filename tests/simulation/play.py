"""Histories, played: what happens to a group of workers, and what committed readers find then."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from faust.types import TP

from schemas.catalogue import ACTIONS, AS_OF, DEAD_LETTERS, KPIS, LATE, WATERMARKS
from streams.definitions import Definitions
from streams.records import Record
from streams.state import Saved, read_saved
from tests.simulation.group import ALL, Group, Node
from tests.simulation.log import MemoryLog
from tests.timeline import (
    END_MS,
    Account,
    Event,
    Row,
    Source,
    Total,
    decide,
    totals,
)

#: A record nobody can read, and a place where an aborted transaction left nothing to read.
POISON, HOLE = "poison", "hole"

Entries = Mapping[Source, Sequence[Event | str]]


@dataclass(frozen=True)
class Step:
    """One thing that happens; ``dice`` decide about its details."""

    kind: str
    dice: tuple[int, ...]


#: What may happen, the usual more often.
KINDS = (
    *["work"] * 6,
    *["checkpoint"] * 2,
    "silent",
    "advance",
    "crash",
    "crash",
    "abort",
    "sleep",
    "sleep",
    "wake",
    "join",
    "leave",
    "compact",
    "slow markers",
    "lose a fetch",
    "fetch again",
)


def _all_or_none(dice: int) -> int:
    return ALL if dice % 2 == 0 else 0


class Play:
    """A history, played step by step."""

    def __init__(self, entries: Entries, group: Group) -> None:
        self.group = group
        self.log = group.log
        self.log.now_ms = END_MS
        self.died_committing = 0
        for (topic, partition), found in entries.items():
            codec = group.definitions.codec(topic)
            for entry in found:
                if entry == HOLE:
                    self._abort_one(topic, partition)
                else:
                    value = b"?" if entry == POISON else codec.encode(entry)
                    self.log.append(Record(topic, partition, None, value))

    def _abort_one(self, topic: str, partition: int) -> None:
        transaction = self.log.begin("another")
        self.log.append(Record(topic, partition, None, b"never"), transaction)
        self.log.end(transaction, "aborted")

    def run(self, steps: Sequence[Step]) -> None:
        """Let the steps happen, and then everything come to its end."""
        for step in steps:
            if not self.group.nodes:
                self.group.join()
            node = self.group.nodes[step.dice[0] % len(self.group.nodes)]
            getattr(self, f"_{step.kind.replace(' ', '_')}")(node, *step.dice[1:])
            self.log.write_markers(2)
            self.log.sleep(1.0)
        self.group.finish()

    def _fetch(self, node: Node, which: int, most: int) -> None:
        tps = sorted(node.positions)
        chosen = [tp for place, tp in enumerate(tps) if which >> place & 1 or tp.topic[0] == "a"]
        self.group.fetch(node, chosen, 1 + most % 5)

    def _work(self, node: Node, which: int, most: int, *_: int) -> None:
        self._fetch(node, which, most)
        assert self.group.flush(node) is None

    def _silent(self, node: Node, which: int, most: int, *_: int) -> None:
        self._fetch(node, which, most)
        assert self.group.flush(node, publish=False) is None

    def _checkpoint(self, node: Node, which: int, most: int, of: int, *_: int) -> None:
        self._fetch(node, which, most)
        assert self.group.flush(node, checkpoint=of) is None

    def _advance(self, node: Node, which: int, most: int, by: int, at: int) -> None:
        self._fetch(node, which, most)
        mine = sorted(node.engine.folds)
        tp = mine[at % len(mine)] if mine else None
        watermark = node.engine.folds[tp].watermark_ms if tp is not None else None
        advances = {tp: watermark + by * 50} if tp is not None and watermark is not None else {}
        assert self.group.flush(node, advances) is None

    def _crash(self, node: Node, which: int, most: int, until: int, how: int) -> None:
        self._fetch(node, which, most)
        if self.group.flush(node, checkpoint=_all_or_none(how), until=until):
            self.died_committing += 1
        if node in self.group.nodes:
            self.group.kill(node)
        if how % 3 == 0:
            self.log.meanwhile.append(self.log.time_out_transactions)
        self.group.join()

    def _abort(self, node: Node, which: int, most: int, until: int, how: int) -> None:
        """A commit fails and is aborted: memory has moved on, the log has not."""
        self._fetch(node, which, most)
        if self.group.flush(node, checkpoint=_all_or_none(how), until=until) is None:
            return
        self.log.end_transactions([node.transactions.producer])
        if self.group.out != "no memory after an abort":
            self.group.kill(node)
            self.group.join()

    def _sleep(self, node: Node, which: int, most: int, until: int, how: int) -> None:
        self._fetch(node, which, most)
        if how % 5 < 2:
            # Nothing of it is in the log yet: only the generation tells that it was overtaken.
            until = how % 2
        commit = self.group.flush(node, checkpoint=_all_or_none(how), until=until)
        if node not in self.group.nodes:
            return
        self.group.sleepers.append((node, commit or iter(())))
        self.group.kill(node)
        if how % 3 == 0:
            # It goes on while its successor waits, and may still get its commit through.
            self.log.meanwhile.append(self.group.wake)
        self.group.join()

    def _wake(self, node: Node, *_: int) -> None:
        self.group.wake()

    def _join(self, node: Node, *_: int) -> None:
        if len(self.group.nodes) < 3:
            self.group.join()

    def _leave(self, node: Node, *_: int) -> None:
        self.group.kill(node)
        self.group.rebalance() if self.group.nodes else self.group.join()

    def _compact(self, node: Node, *_: int) -> None:
        for tp in [tp for tp in self.log.partitions if "changelog" in tp.topic]:
            self.log.compact(tp)

    def _slow_markers(self, node: Node, most: int, *_: int) -> None:
        self.log.slow_markers = not self.log.slow_markers
        self.log.write_markers(most % 7)

    def _lose_a_fetch(self, node: Node, which: int, most: int, *_: int) -> None:
        """Fetched records are thrown away after the position has moved, as Faust does."""
        pending = list(node.pending)
        self._fetch(node, which, most)
        node.pending = pending
        self._work(node, which, most)

    def _fetch_again(self, node: Node, which: int, most: int, *_: int) -> None:
        """Records come twice, cut otherwise, after something has moved the position back."""
        before = dict(node.positions)
        self._fetch(node, which, most)
        assert self.group.flush(node) is None
        if node in self.group.nodes:
            node.positions = before
            self._work(node, which, most + 1)

    def _tear(self, node: Node, _: int, most: int, place: int, *__: int) -> None:
        """A commit that holds everywhere but in one partition of the partials."""
        self._fetch(node, 255, most)
        begun = len(self.log.begun)
        assert self.group.flush(node) is None
        tps = self.group.partials
        for transaction in self.log.begun[begun:]:
            self.log.tear(transaction, tps[place % len(tps)])


# -- what is found --------------------------------------------------------------------------------

Figures = tuple[str, dict[str, float], list[str]]


class Facts:
    """What committed readers find in the log in the end."""

    def __init__(self, log: MemoryLog, definitions: Definitions) -> None:
        self.log = log
        self.definitions = definitions
        self.advances: dict[Source, list[tuple[int, int]]] = {}
        self.written = self._values(KPIS)
        for value in self._values(WATERMARKS):
            source = (value["topic"], value["partition"])
            fact = (value["position"], value["watermark"])
            self.advances.setdefault(source, []).append(fact)

    def _values(self, topic: str) -> list[dict[str, Any]]:
        codec = self.definitions.codec(topic)
        return [codec.read(record.value) for record in self.log.records(topic)]

    def count(self, topic: str) -> int:
        """Return how many records a topic holds."""
        return len(self.log.records(topic))

    def accounts(self, sources: Sequence[Source]) -> dict[Source, Account]:
        """Accounts of the progress records, each of which must add up."""
        found = {}
        for topic, partition in sources:
            progress = self._saved(topic, partition).progress
            assert progress is not None
            account = Account(**asdict(progress.account))
            outcomes = (account.applied, account.duplicates, account.expired)
            assert account.consumed == sum(outcomes) + account.dead_lettered
            found[topic, partition] = account
        return found

    def _saved(self, topic: str, partition: int) -> Saved:
        changelog = self.definitions.changelog(topic)
        read = self.log.read(changelog, [partition])
        entries = [(r.key or b"", r.value) for found in read for r in found[partition]]
        return read_saved(entries, 0)

    def kpis(self) -> dict[Row, Figures]:
        """The last record of every key: status, measures that are not zero, attributes."""
        found: dict[Row, Figures] = {}
        for value in self.written:
            window = value["window"]
            row = (
                value["scope"],
                f"{window['kind']}:{window['size_ms']}",
                window["start_time"],
                ",".join(part["value"] for part in value["key"]),
            )
            sums = {m["name"]: m["value"] for m in value["measures"] if m["value"]}
            found[row] = (value["status"], sums, [a["value"] for a in value["attributes"]])
        return found

    def actions(self) -> list[dict[str, Any]]:
        """All actions."""
        return self._values(ACTIONS)

    def action_ids(self) -> list[tuple[str, str]]:
        """The ids of all actions with what is said of them, sorted."""
        return sorted((str(value["action_id"]), value["status"]) for value in self.actions())

    def check_versions(self) -> None:
        """No key's version falls, and every record's vector of positions is there."""
        vectors = {value["as_of_id"] for value in self._values(AS_OF)}
        newest: dict[bytes, int] = {}
        for record, value in zip(self.log.records(KPIS), self.written, strict=True):
            key = record.key or b""
            assert newest.get(key, -1) <= value["version"]
            newest[key] = value["version"]
            assert value["as_of_id"] in vectors


def check(entries: Entries, group: Group, *, compare_actions: bool) -> None:
    """Hold what is in the log to what one loop in plain Python makes of the input.

    Every event is accounted for, every KPI is final and right, versions never fall, no action is
    there twice. ``compare_actions`` plays the input once more to one worker that nothing happens
    to, which must decide the same.
    """
    definitions = group.definitions
    facts = Facts(group.log, definitions)
    decided = {source: _decide(source, found, facts) for source, found in entries.items()}
    assert {s: account for s, (_, account) in decided.items()} == facts.accounts(list(entries))
    expected = totals({source: applied for source, (applied, _) in decided.items()})
    windows = _windows(definitions)
    assert facts.kpis() == {
        row: _figures(row, total, windows[row[:2]])
        for row, total in expected.items()
        if row[:2] in windows
    }
    accounts = [account for _, account in decided.values()]
    assert sum(account.dead_lettered for account in accounts) == facts.count(DEAD_LETTERS)
    assert sum(account.expired for account in accounts) == facts.count(LATE)
    assert set(Counter(facts.action_ids()).values()) <= {1}
    facts.check_versions()
    if compare_actions:
        assert _undisturbed(entries, definitions, facts).action_ids() == facts.action_ids()


def _windows(definitions: Definitions) -> dict[tuple[str, str], frozenset[str]]:
    """Return the sums of each scope and window that is published."""
    return {
        (scope.id, f"{window.kind}:{window.size_ms}"): frozenset(scope.sums)
        for scope in definitions.registry.scopes
        for window in scope.windows
    }


def _decide(source: Source, entries: Sequence[Any], facts: Facts) -> tuple[list[Event], Account]:
    """Decide in plain Python; offsets count the holes and their markers, decisions do not."""
    offset, read, advances = 0, [], {}
    logged = dict(facts.advances.get(source, ()))
    for entry in entries:
        for position in sorted(p for p in logged if p <= offset):
            advances[len(read)] = max(advances.get(len(read), logged[position]), logged[position])
        if entry == HOLE:
            offset += 2
        else:
            offset += 1
            read.append(None if entry == POISON else entry)
    return decide(read, facts.definitions.inputs[source[0]].lateness, advances)


def _figures(row: Row, total: Total, names: frozenset[str]) -> Figures:
    sums = {name: float(value) for name, value in total.sums.items() if value and name in names}
    if "score" in sums:
        sums["score"] /= 1_000_000
    team = [total.attribute[1] if total.attribute else ""] if row[0] == "agent" else []
    return "FINAL", sums, team


def _undisturbed(entries: Entries, definitions: Definitions, facts: Facts) -> Facts:
    """Return what one worker writes that nothing happens to, given the same logged advances."""
    group = Group(definitions)
    Play(entries, group)
    group.join()
    (node,) = group.nodes
    for source, advances in facts.advances.items():
        tp = TP(*source)
        for position, watermark in advances:
            if watermark < END_MS:
                _fetch_to(group, node, tp, position)
                assert group.flush(node, {tp: watermark}) is None
    group.finish()
    return Facts(group.log, definitions)


def _fetch_to(group: Group, node: Node, tp: TP, position: int) -> None:
    while node.positions[tp] < position:
        group.fetch(node, [tp], 1)
        if node.pending and node.pending[-1].after > position:
            batch = node.pending[-1]
            assert (batch.records.offsets < position).all()
            node.pending[-1] = type(batch)(
                batch.tp, batch.before, position, batch.records, batch.generation, 0
            )
            node.positions[tp] = position
