"""Whatever happens to workers, what stands in the log in the end is what one loop would count.

Histories are made of fetches, flushes, checkpoints, idle advances, compactions, deaths at every
step of a commit, sleepers that wake in the middle of a takeover, and workers that come and go.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from faust.types import TP
from hypothesis import event, given
from hypothesis import strategies as st

from schemas.catalogue import ACTIONS, AS_OF, DEAD_LETTERS, KPIS, LATE, WATERMARKS
from streams.records import Record
from streams.state import Saved, read_saved
from tests.builders import small_definitions
from tests.laws import law
from tests.simulation.group import Group, Node
from tests.simulation.log import MemoryLog
from tests.timeline import END_MS, Account, Event, Row, Source, decide, histories, totals

#: A record nobody can read, and a place where an aborted transaction left nothing to read.
POISON, HOLE = "poison", "hole"


@st.composite
def inputs(draw: st.DrawFn) -> dict[Source, list[Event | str]]:
    """Return what stands in the input partitions: events, poison and holes."""
    found: dict[Source, list[Event | str]] = {}
    for source, events in draw(histories(most=8)).items():
        entries: list[Event | str] = []
        for one in events:
            entries += draw(st.sampled_from([[], [], [], [POISON], [HOLE], [HOLE, HOLE]]))
            entries.append(one)
        found[source] = entries
    return found


@dataclass(frozen=True)
class Step:
    """One thing that happens; ``dice`` decide about its details."""

    kind: str
    dice: tuple[int, ...]


_KINDS = [
    *["work"] * 6,
    *["checkpoint"] * 2,
    "silent",
    "advance",
    "crash",
    "crash",
    "sleep",
    "sleep",
    "wake",
    "join",
    "leave",
    "compact",
    "slow markers",
]
steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(_KINDS),
        st.tuples(*[st.integers(0, 1_000)] * 5),
    ),
    min_size=4,
    max_size=16,
)


class Play:
    """A history, played step by step."""

    def __init__(self, entries: dict[Source, list[Event | str]], group: Group) -> None:
        self.group = group
        self.log = group.log
        self.log.now_ms = END_MS
        for (topic, partition), found in entries.items():
            codec = group.definitions.codec(topic)
            for entry in found:
                if entry == HOLE:
                    self._abort(topic, partition)
                else:
                    value = b"?" if entry == POISON else codec.encode(entry)
                    self.log.append(Record(topic, partition, None, value))

    def _abort(self, topic: str, partition: int) -> None:
        transaction = self.log.begin("another")
        self.log.append(Record(topic, partition, None, b"never"), transaction)
        self.log.end(transaction, "aborted")

    def step(self, step: Step) -> None:
        """Let one thing happen."""
        if not self.group.nodes:
            self.group.join()
        node = self.group.nodes[step.dice[0] % len(self.group.nodes)]
        getattr(self, f"_{step.kind.replace(' ', '_')}")(node, *step.dice[1:])

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

    def _checkpoint(self, node: Node, which: int, most: int, *_: int) -> None:
        self._fetch(node, which, most)
        assert self.group.flush(node, checkpoint=True) is None

    def _advance(self, node: Node, which: int, most: int, by: int, at: int) -> None:
        self._fetch(node, which, most)
        mine = sorted(node.engine.folds)
        tp = mine[at % len(mine)] if mine else None
        watermark = node.engine.folds[tp].watermark_ms if tp is not None else None
        advances = {tp: watermark + by * 50} if tp is not None and watermark is not None else {}
        assert self.group.flush(node, advances) is None

    def _crash(self, node: Node, which: int, most: int, until: int, how: int) -> None:
        self._fetch(node, which, most)
        if self.group.flush(node, checkpoint=how % 2 == 0, until=until):
            event("died in the middle of a commit")
        self.group.kill(node)
        if how % 3 == 0:
            self.log.meanwhile.append(self.log.time_out_transactions)
        self.group.join()

    def _sleep(self, node: Node, which: int, most: int, until: int, how: int) -> None:
        self._fetch(node, which, most)
        if how % 5 < 2:
            # Nothing of it is in the log yet: only the generation tells that it was overtaken.
            until = how % 2
        commit = self.group.flush(node, checkpoint=how % 2 == 0, until=until)
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


@law(20)
@given(inputs(), steps)
def test_no_history_of_deaths_and_takeovers_changes_what_is_counted_or_decided(entries, history):
    """All or nothing, one writer, decisions once, and every event accounted for."""
    group = Group(small_definitions())
    play = Play(entries, group)
    for step in history:
        play.step(step)
        group.log.write_markers(2)
    group.finish()
    facts = Facts(group.log)

    decided = {source: _decide(source, found, facts) for source, found in entries.items()}
    assert {s: account for s, (_, account) in decided.items()} == facts.accounts(list(entries))
    expected = totals({source: applied for source, (applied, _) in decided.items()})
    assert {row: _figures(row, total) for row, total in expected.items()} == facts.kpis()
    assert sum(account.dead_lettered for _, account in decided.values()) == (
        len(group.log.records(DEAD_LETTERS))
    )
    assert sum(account.expired for _, account in decided.values()) == len(group.log.records(LATE))
    assert set(Counter(facts.action_ids()).values()) <= {1}
    assert _undisturbed(entries, facts).action_ids() == facts.action_ids()
    facts.check_versions()
    event(f"{min(group.refused, 3)} sleepers refused")


def _decide(source: Source, entries: list[Any], facts: "Facts") -> tuple[list[Event], Account]:
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
    return decide(read, small_definitions().inputs[source[0]].lateness, advances)


def _undisturbed(entries: dict[Source, list[Any]], facts: "Facts") -> "Facts":
    """Return what one worker writes that nothing happens to, given the same logged advances."""
    group = Group(small_definitions())
    Play(entries, group)
    group.join()
    (node,) = group.nodes
    for source, advances in facts.advances.items():
        tp = TP(*source)
        for position, watermark in advances:
            if watermark < END_MS:
                while node.positions[tp] < position:
                    group.fetch(node, [tp], 1)
                    if node.pending and node.pending[-1].after > position:
                        batch = node.pending[-1]
                        assert all(record.offset < position for record in batch.records)
                        node.pending[-1] = _ending(batch, position)
                        node.positions[tp] = position
                assert group.flush(node, {tp: watermark}) is None
    group.finish()
    return Facts(group.log)


def _ending(batch: Any, position: int) -> Any:
    return type(batch)(batch.tp, batch.before, position, batch.records, batch.generation, 0)


Figures = tuple[str, dict[str, float], list[str]]


def _figures(row: Row, total: Any) -> Figures:
    sums = {name: value for name, value in total.sums.items() if value}
    if "score" in sums:
        sums["score"] /= 1_000_000
    team = [total.attribute[1] if total.attribute else ""] if row[0] == "agent" else []
    return "FINAL", sums, team


class Facts:
    """What committed readers find in the log in the end."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.definitions = small_definitions()
        self.advances: dict[Source, list[tuple[int, int]]] = {}
        for value in self._values(WATERMARKS):
            source = (value["topic"], value["partition"])
            fact = (value["position"], value["watermark"])
            self.advances.setdefault(source, []).append(fact)

    def _values(self, topic: str) -> list[dict[str, Any]]:
        codec = self.definitions.codec(topic)
        return [codec.decode(record.value) for record in self.log.records(topic)]

    def accounts(self, sources: list[Source]) -> dict[Source, Account]:
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
        for value in self._values(KPIS):
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

    def action_ids(self) -> list[str]:
        """The ids of all actions and withdrawals, sorted."""
        return sorted(f"{value['action_id']} {value['status']}" for value in self._values(ACTIONS))

    def check_versions(self) -> None:
        """No key's version falls, and every record's vector of positions is there."""
        vectors = {value["as_of_id"] for value in self._values(AS_OF)}
        newest: dict[bytes, int] = {}
        for record, value in zip(self.log.records(KPIS), self._values(KPIS), strict=True):
            key = record.key or b""
            assert newest.get(key, -1) <= value["version"]
            newest[key] = value["version"]
            assert value["as_of_id"] in vectors
