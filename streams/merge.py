"""Merge, wired: records of one partials partition in; blocks applied, rules advanced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from processors.merge import Merge, Outcome
from schemas.catalogue import PARTIALS
from schemas.codec import Codec
from streams.columnar import Batch, read_together
from streams.definitions import Definitions
from streams.fold import trimmed
from streams.partials import block_of
from streams.state import MergeBlocks, Progress, Saved


class ForeignDefinitions(Exception):
    """Partials were folded by other definitions than ours: a sum of both would mean nothing."""


class NewerEpoch(Exception):
    """Others are rebuilding: what we would add to is out of date."""


@dataclass(frozen=True, slots=True)
class Decided:
    """What a rule decided, and the positions that its figures include."""

    outcome: Outcome
    as_of: list[dict[str, Any]]


@dataclass(slots=True)
class MergeStage:
    """One partials partition that this worker owns.

    ``others`` are writers with other KPI formulas or rules than ours, by their edition; ``added``
    tells whether what was taken last had anything to add, and did not only say what time it is.
    """

    partition: int
    codec: Codec
    definitions: Definitions
    epoch: int
    merge: Merge
    blocks: MergeBlocks
    checkpoint: int | None = None
    append_time_ms: int | None = None
    as_of_id: int | None = None
    others: dict[str, str] = field(default_factory=dict)
    added: bool = False

    @classmethod
    def recovered(
        cls, partition: int, definitions: Definitions, saved: Saved, start: int, epoch: int
    ) -> MergeStage:
        """Return the stage at its checkpoint, or at ``start``, the beginning of the log."""
        merge, blocks = Merge(definitions.merge), MergeBlocks()
        merge.position = start
        blocks.load(merge, saved)
        checkpoint = merge.position if saved.checkpoint is not None else None
        codec = definitions.codec(PARTIALS)
        return cls(partition, codec, definitions, epoch, merge, blocks, checkpoint)

    @property
    def position(self) -> int:
        """The offset of the next record to take."""
        return self.merge.position

    def take(self, batches: Sequence[Batch]) -> list[Decided]:
        """Apply the batches' blocks in their order; return what rules decided.

        Time is looked at after each block, so that blocks read again in other batches, after a
        restart, lead to the same decisions: those were published, and are not made twice.
        """
        decided: list[Decided] = []
        self.added = False
        for batch in read_together(batches):
            for value in trimmed(self.merge.position, batch).values:
                self._apply(value)
                for outcome in self.merge.settle():
                    as_of = self.merge.seen_by_rules(outcome.rule.scope.id)
                    decided.append(Decided(outcome, as_of))
            self.merge.position = max(self.merge.position, batch.after)
        return decided

    def _apply(self, value: bytes | None) -> None:
        record = self.codec.read(value)
        if record["epoch"] > self.epoch:
            raise NewerEpoch(
                f"{PARTIALS}[{self.partition}]: found partials of rebuild epoch "
                f"{record['epoch']}, expected none above {self.epoch}: a rebuild has begun; start "
                "this worker again"
            )
        if record["epoch"] != self.epoch:
            return
        if record["definitions"] != self.definitions.fingerprint:
            raise ForeignDefinitions(
                f"{PARTIALS}[{self.partition}]: found partials of definitions "
                f"{record['definitions']} by {record['writer']}, expected "
                f"{self.definitions.fingerprint}: give all workers the same files, or run "
                "`andon rebuild` to build everything anew from the input topics"
            )
        if record["edition"] != self.definitions.edition:
            self.others[record["edition"]] = record["writer"]
        if record["append_time"] is not None:
            times = (self.append_time_ms, record["append_time"])
            self.append_time_ms = min(time for time in times if time is not None)
        self.added |= bool(record["sections"])
        self.merge.apply(block_of(record))

    def progress(self, writer: str) -> Progress:
        """Return the progress record of the state as it is."""
        return Progress(self.merge.position, writer, self.checkpoint)
