"""Workers of a group over a log in memory: they fetch, flush, die, sleep, and take over."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from faust.types import TP

from processors.merge import ChainBroken
from schemas.catalogue import PARTIALS
from streams.columnar import Batch, Membership
from streams.definitions import Definitions
from streams.flush import Engine
from streams.fold import PositionGap
from streams.records import Records
from streams.recovery import PATIENCE_S, Recovery
from streams.state import Advance
from tests.simulation.log import Fenced, MemoryLog, MemoryTransactions
from tests.timeline import END_MS

#: Chooses all partitions.
ALL = -1

#: Workers that end so often by themselves do so for a reason that does not go away.
HOPELESS = 15


class Stuck(Exception):
    """Workers end again and again, or a recovery waits for something that nobody will do."""


@dataclass(eq=False)
class Node:
    """A worker: its engine, what it fetched, and who it takes itself for."""

    member_id: str
    engine: Engine
    transactions: MemoryTransactions
    membership: Membership | None = None
    pending: list[Batch] = field(default_factory=list)
    positions: dict[TP, int] = field(default_factory=dict)


@dataclass
class Group:
    """The log, the workers that are alive, and those that sleep in the middle of a commit.

    ``out`` names a safeguard that is taken out: then some history must go wrong.
    """

    definitions: Definitions
    log: MemoryLog = field(default_factory=MemoryLog)
    nodes: list[Node] = field(default_factory=list)
    sleepers: list[tuple[Node, Iterator[None]]] = field(default_factory=list)
    refused: int = 0
    out: str | None = None
    _born: int = 0
    _ended: int = 0

    @property
    def inputs(self) -> list[TP]:
        """All partitions of the input topics."""
        return [
            TP(plan.topic.name, partition)
            for plan in self.definitions.inputs.values()
            for partition in range(plan.topic.partitions)
        ]

    @property
    def partials(self) -> list[TP]:
        """All partitions of the partials."""
        return [TP(PARTIALS, p) for p in range(self.definitions.catalogue[PARTIALS].partitions)]

    # -- membership ---------------------------------------------------------------------------

    def join(self) -> None:
        """A worker starts, and the group rebalances."""
        self._born += 1
        name = f"worker-{self._born}"
        engine = Engine(self.definitions, name, 0)
        self.nodes.append(Node(name, engine, MemoryTransactions(self.log, name)))
        self.rebalance()

    def rebalance(self) -> None:
        """Give every partition to somebody; keep memory only where nobody came between."""
        self.log.generation += 1
        self.log.members = {node.member_id for node in self.nodes}
        partitions = [*self.inputs, *self.partials]
        for place, node in enumerate(self.nodes):
            shift = (place + self.log.generation) % len(self.nodes)
            self._take_over(node, set(partitions[shift :: len(self.nodes)]))

    def _take_over(self, node: Node, assigned: set[TP]) -> None:
        before = node.membership
        node.membership = Membership(self.log.generation, node.member_id)
        held = set(node.engine.positions)
        is_next = before is not None and before.generation + 1 == self.log.generation
        kept = held & assigned if is_next else set()
        node.engine.forget(sorted(held - kept))
        log = self.log
        recovery = Recovery(log, node.engine, lambda: True, clock=self._clock, sleep=log.sleep)
        started = log.clock_s
        recovery.run(assigned - kept)
        if log.clock_s - started > 4 * PATIENCE_S:
            # One dead writer takes the patience and a look, and there may be several in a row.
            raise Stuck(f"recovery took {log.clock_s - started} s")
        node.pending = []
        node.positions = dict(node.engine.positions)
        if self.out == "progress, not the group's offsets":
            node.positions |= {tp: log.committed.get(tp, 0) for tp in assigned - kept}

    def _clock(self) -> float:
        return self.log.clock_s

    # -- work ---------------------------------------------------------------------------------

    def fetch(self, node: Node, tps: Iterable[TP], most: int) -> None:
        """Fetch at most so many records of each partition."""
        for tp in tps:
            if tp not in node.positions:
                continue
            before = node.positions[tp]
            after, records = self.log.fetch(tp, before, most)
            if records:
                node.positions[tp] = after
                found = Records.of(records)
                node.pending.append(Batch(tp, before, after, found, self.log.generation, 0))

    def flush(
        self,
        node: Node,
        advances: dict[TP, int | None] | None = None,
        *,
        checkpoint: int = 0,
        publish: bool = True,
        until: int | None = None,
    ) -> Iterator[None] | None:
        """Flush what is fetched; return the commit where it was left, None if it is through.

        ``until`` is any number: it chooses the step before which the commit is left. The bits of
        ``checkpoint`` choose partitions.
        """
        batches, node.pending = node.pending, []
        self.log.now_ms += 1_000
        try:
            flush = node.engine.flush(
                batches,
                self.log.now_ms if publish else 0,
                advances=dict(self._advances(node, batches, advances or {})),
                publish_all=publish,
                checkpoint=self._chosen(node, checkpoint),
            )
        except (PositionGap, ChainBroken) as problem:
            self._replace(node, problem)
            return None
        if not flush:
            return None
        assert node.membership is not None
        steps = node.transactions.steps(flush, node.membership)
        count = len(flush.records) + 3
        for _ in range(count if until is None else until % (count + 1)):
            if next(steps, self) is self:
                return None
        return steps

    def _advances(
        self, node: Node, batches: list[Batch], wanted: dict[TP, int | None]
    ) -> Iterator[tuple[TP, Advance]]:
        ends = {batch.tp: batch.after for batch in batches}
        for tp, watermark in wanted.items():
            if tp in node.engine.folds:
                position = ends.get(tp, node.engine.folds[tp].position)
                reason = "EMPTY" if watermark is None else "IDLE"
                yield tp, Advance(position, watermark or 0, reason)

    def _replace(self, node: Node, problem: Exception) -> None:
        """A worker ends by itself, and is started again."""
        self._ended += 1
        if self._ended > HOPELESS:
            raise Stuck("workers end again and again") from problem
        self.kill(node)
        self.join()

    def _chosen(self, node: Node, bits: int) -> list[TP]:
        return [tp for place, tp in enumerate(sorted(node.positions)) if bits >> place & 1]

    def kill(self, node: Node) -> None:
        """A worker is gone, with all it had in memory."""
        self.nodes.remove(node)

    def wake(self) -> None:
        """The oldest sleeper goes on, as if nothing had happened; then it sees that it has."""
        if not self.sleepers:
            return
        node, commit = self.sleepers.pop(0)
        try:
            for _ in commit:
                pass
            self.flush(node, checkpoint=ALL)
        except Fenced:
            self.refused += 1

    # -- the end ------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take everything that there is."""
        while True:
            self.log.write_markers()
            for node in self.nodes:
                self.fetch(node, list(node.positions), 1_000)
            if not any(node.pending for node in self.nodes):
                return
            for node in list(self.nodes):
                assert self.flush(node) is None

    def finish(self) -> None:
        """Let whatever is open end, take the rest, and log that nothing older is to come."""
        self.log.slow_markers = False
        while self.sleepers:
            self.wake()
        self.log.time_out_transactions()
        if not self.nodes:
            self.join()
        self.rebalance()
        self.drain()
        for node in list(self.nodes):
            ends = {
                tp: None if stage.watermark_ms is None else END_MS
                for tp, stage in node.engine.folds.items()
            }
            assert self.flush(node, ends) is None
        self.drain()
        for node in list(self.nodes):
            assert self.flush(node, checkpoint=ALL) is None
