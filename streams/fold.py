"""Fold, wired: batches of one input partition in; applied events, partials and set-aside out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from faust.types import TP

from processors.actions import immediate_action_records
from processors.fold import WATERMARK, Section, SourceState, admit, concatenate, fold
from processors.merge import Stretch
from processors.watermark import BEFORE_ALL_MS
from schemas.catalogue import DEAD_LETTERS, LATE
from schemas.codec import Codec
from schemas.errors import Reason
from streams.columnar import Batch
from streams.dead_letters import dead_letter, late_event
from streams.definitions import Definitions, InputPlan
from streams.records import Record
from streams.state import Advance, Progress, Saved, SourceBlocks

OFFSET = "_offset"
PARTITION = "_partition"


class PositionGap(Exception):
    """Records between our progress and a fetched batch are missing."""


def trimmed(position: int, batch: Batch) -> list[Any]:
    """Return the batch's records from ``position`` on.

    Raises :class:`PositionGap` if the batch begins after it.
    """
    if batch.before > position:
        raise PositionGap(
            f"{batch.tp.topic}[{batch.tp.partition}]: found a batch from {batch.before}, expected "
            f"one from {position}: restart the worker; if it comes back, rebuild"
        )
    if batch.before == position:
        return batch.records
    return [record for record in batch.records if record.offset >= position]


@dataclass(slots=True)
class Taken:
    """What one flush takes from one input partition."""

    stretch: Stretch
    applied: pl.DataFrame
    aside: list[Record]
    append_time_ms: int | None


@dataclass(slots=True)
class FoldStage:
    """One input partition that this worker owns."""

    partition: int
    plan: InputPlan
    codec: Codec
    definitions: Definitions
    state: SourceState
    blocks: SourceBlocks
    announced: bool
    checkpoint: int | None = None
    advances: list[Advance] = field(default_factory=list)
    reasons: dict[Reason, int] = field(default_factory=dict)

    @classmethod
    def recovered(
        cls, partition: int, plan: InputPlan, definitions: Definitions, saved: Saved, start: int
    ) -> FoldStage:
        """Return the stage at its checkpoint, or at ``start``, the beginning of the log."""
        blocks = SourceBlocks()
        state = blocks.load(saved)
        if saved.checkpoint is None:
            state.position = start
        checkpoint = state.position if saved.checkpoint is not None else None
        codec = definitions.codec(plan.topic.name)
        known = saved.progress is not None and saved.progress.watermark_ms is not None
        return cls(partition, plan, codec, definitions, state, blocks, known, checkpoint)

    @property
    def position(self) -> int:
        """The offset of the next record to take."""
        return self.state.position

    @property
    def watermark_ms(self) -> int | None:
        """The watermark, None while no event was seen and no advance was made."""
        watermark = self.state.watermark_ms
        return None if watermark == BEFORE_ALL_MS else watermark

    def take(self, batches: Sequence[Batch]) -> Taken:
        """Decode and decide about the batches' records, in their order; move the state on."""
        start = self.state.position
        records: list[Any] = []
        for batch in batches:
            records += trimmed(self.state.position, batch)
            self.state.position = max(self.state.position, batch.after)
        decoded = self.codec.columns(
            [record.value for record in records],
            [record.timestamp for record in records],
            [record.headers for record in records],
        )
        for rejected in decoded.rejected:
            self.reasons[rejected.reason] = self.reasons.get(rejected.reason, 0) + 1
        admission = admit(self.state, decoded.frame, len(records), self.plan.lateness)
        return Taken(
            self.stretch(start),
            self._applied(decoded.frame, admission.applied, admission.watermarks, decoded, records),
            self._aside(records, decoded, admission.expired, admission.watermarks),
            min((record.timestamp for record in records), default=None),
        )

    def stretch(self, start: int) -> Stretch:
        """Return the stretch from ``start`` to the position, with the watermark there."""
        topic = self.plan.topic.name
        return Stretch(topic, self.partition, start, self.state.position, self.watermark_ms)

    def advance(self, advance: Advance) -> None:
        """Apply a logged advance at the present position."""
        self.advances.append(advance)
        if advance.reason != "EMPTY":
            self.state.advance(advance.watermark_ms)

    def progress(self, writer: str) -> Progress:
        """Return the progress record of the state as it is."""
        return Progress(
            self.state.position,
            writer,
            self.checkpoint,
            self.watermark_ms,
            self.state.account,
            tuple(self.advances),
        )

    def _applied(
        self,
        frame: pl.DataFrame,
        applied: Any,
        watermarks: Any,
        decoded: Any,
        records: list[Any],
    ) -> pl.DataFrame:
        frame = frame.with_columns(pl.Series(WATERMARK, watermarks, pl.Int64))
        if any(self.definitions.rules.immediate(plan.source) for plan in self.plan.folds):
            offsets = np.array([record.offset for record in records], dtype=np.int64)
            frame = frame.with_columns(
                pl.Series(OFFSET, offsets[decoded.index], pl.Int64),
                pl.lit(self.partition).alias(PARTITION),
            )
        return frame if applied.all() else frame.filter(pl.Series(applied))

    def _aside(
        self, records: list[Any], decoded: Any, expired: Any, watermarks: Any
    ) -> list[Record]:
        dead = self.definitions.catalogue[DEAD_LETTERS].partitions
        late = self.definitions.catalogue[LATE].partitions
        grace = self.plan.lateness.grace_ms
        tp = TP(self.plan.topic.name, self.partition)
        return [
            *(dead_letter(tp, records[bad.index], bad, dead) for bad in decoded.rejected),
            *(
                late_event(tp, records[decoded.index[row]], int(watermarks[row]), grace, late)
                for row in np.flatnonzero(expired)
            ),
        ]


def fold_topic(plan: InputPlan, taken: Sequence[Taken]) -> list[Section]:
    """Fold the events that several partitions of a topic applied, at once."""
    events = concatenate([found.applied for found in taken])
    return [section for source in plan.folds for section in fold(source, events)]


def immediate_actions(
    definitions: Definitions, plan: InputPlan, taken: Sequence[Taken], created_ms: int
) -> list[dict[str, Any]]:
    """Return the actions of rules that look at single events; as of just after each event."""
    actions: list[dict[str, Any]] = []
    for source in plan.folds:
        rules = definitions.rules.immediate(source.source)
        if not rules:
            continue
        events = concatenate([found.applied for found in taken])
        prepared = definitions.registry.prepare(source.source, events)
        for rule in rules:
            for row in prepared.filter(rule.expression).iter_rows(named=True):
                position = {
                    "topic": plan.topic.name,
                    "partition": row[PARTITION],
                    "position": row[OFFSET] + 1,
                }
                actions += immediate_action_records(rule, [row], [position], created_ms)
    return actions
