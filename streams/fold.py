"""Fold, wired: batches of one input partition in; applied events, partials and set-aside out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
from faust.types import TP
from numpy.typing import NDArray

from processors.actions import immediate_action_records
from processors.fold import (
    WATERMARK,
    WEIGHT,
    Admission,
    Section,
    SourceState,
    admit,
    fold,
    with_earlier,
)
from processors.merge import Stretch
from processors.watermark import BEFORE_ALL_MS
from schemas.catalogue import DEAD_LETTERS, LATE
from schemas.codec import Codec, Decoded
from schemas.errors import Reason
from schemas.headers import schema_key
from streams.columnar import Batch, read_together
from streams.dead_letters import dead_letter, late_event
from streams.definitions import Definitions, InputPlan
from streams.records import Record, Records, joined
from streams.state import Advance, Progress, Saved, SourceBlocks

OFFSET = "_offset"
PARTITION = "_partition"


class KeptUnreadable(Exception):
    """A version that is to be taken back cannot be read as the record that was counted."""


class PositionGap(Exception):
    """Records between our progress and a fetched batch are missing."""


def trimmed(position: int, batch: Batch) -> Records:
    """Return the records from ``position`` on of a batch that is read.

    Raises :class:`PositionGap` if the batch begins after it.
    """
    if batch.before > position:
        raise PositionGap(
            f"{batch.tp.topic}[{batch.tp.partition}]: found a batch from {batch.before}, expected "
            f"one from {position}: restart the worker; if it comes back, rebuild"
        )
    assert isinstance(batch.records, Records)
    return batch.records.between(position, batch.after)


@dataclass(slots=True)
class Taken:
    """What one flush takes from input partitions of one topic: so many records.

    ``applied`` has, of a restatable topic, the versions before each event behind the events.
    """

    stretches: list[Stretch]
    count: int
    applied: pl.DataFrame
    aside: list[Record]
    append_time_ms: int | None


@dataclass(slots=True)
class FoldStage:
    """One input partition that this worker owns.

    ``announced`` says that merges know where its time stands, ``begun`` that they know of it.
    ``to_make`` are advances that an earlier epoch has logged at the positions ahead, in order.
    """

    partition: int
    plan: InputPlan
    codec: Codec
    definitions: Definitions
    state: SourceState
    blocks: SourceBlocks
    announced: bool
    begun: bool
    checkpoint: int | None = None
    advances: list[Advance] = field(default_factory=list)
    to_make: list[Advance] = field(default_factory=list)
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
        begun = saved.progress is not None
        return cls(partition, plan, codec, definitions, state, blocks, known, begun, checkpoint)

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
        return take_together([(self, batches)])

    def accept(self, batches: Sequence[Batch]) -> Records:
        """Move the position on, and return the records that were not taken before."""
        records: list[Records] = []
        for batch in batches:
            records.append(trimmed(self.state.position, batch))
            self.state.position = max(self.state.position, batch.after)
        return joined(records)

    def decide(self, records: Records, decoded: Decoded) -> tuple[Admission, list[Record]]:
        """Decide about accepted records; return what became of the rows, and what is set aside."""
        for rejected in decoded.rejected:
            self.reasons[rejected.reason] = self.reasons.get(rejected.reason, 0) + 1
        kept = self._kept(records, decoded) if self.plan.topic.restatable else None
        lateness, reached = self.plan.lateness, self._reached(records, decoded)
        admission = admit(self.state, decoded.frame, len(records), lateness, kept, reached)
        return admission, self._aside(records, decoded, admission)

    def stretch(self, start: int) -> Stretch:
        """Return the stretch from ``start`` to the position, with the watermark there."""
        topic, end = self.plan.topic.name, self.state.position
        return Stretch(topic, self.partition, start, end, self.watermark_ms, not self.begun)

    def advance(self, advance: Advance) -> None:
        """Apply a logged advance at the present position."""
        self.advances.append(advance)
        if advance.reason != "EMPTY":
            self.state.advance(advance.watermark_ms)

    def _reached(self, records: Records, decoded: Decoded) -> list[tuple[int, int]]:
        """Return what is to be made once more on the way to the position, by row of the frame."""
        count = sum(advance.position <= self.state.position for advance in self.to_make)
        due, self.to_make = self.to_make[:count], self.to_make[count:]
        self.advances += due
        offsets = records.offsets[decoded.index]
        rows = np.searchsorted(offsets, [advance.position for advance in due])
        return [(row, due[i].watermark_ms) for i, row in enumerate(rows.tolist())]

    def read(self, kept: list[bytes]) -> pl.DataFrame:
        """Return kept records as rows; raises :class:`KeptUnreadable`."""
        decoded = self.codec.columns(kept, [])
        for bad in decoded.rejected:
            raise KeptUnreadable(
                f"{self.plan.topic.name}: found {bad.message} in a version that "
                "was counted, expected to read it once more to take it back: the contract has "
                "become stricter; undo that, or rebuild"
            )
        return decoded.frame

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

    def _kept(self, records: Records, decoded: Decoded) -> list[bytes]:
        """Return each row's record with all in it that reading it takes."""
        values, headers = records.values, records.headers
        return [
            values[i]
            if schema_key(headers[i]) is None
            else self.codec.encode(decoded.frame.row(row, named=True))
            for row, i in enumerate(decoded.index.tolist())
        ]

    def _aside(self, records: Records, decoded: Decoded, admission: Admission) -> list[Record]:
        dead = self.definitions.catalogue[DEAD_LETTERS].partitions
        late = self.definitions.catalogue[LATE].partitions
        grace = self.plan.lateness.grace_ms
        tp, watermarks = TP(self.plan.topic.name, self.partition), admission.watermarks
        return [
            *(dead_letter(tp, records[bad.index], bad, dead) for bad in decoded.rejected),
            *(
                late_event(tp, records[decoded.index[row]], int(watermarks[row]), grace, late)
                for row in np.flatnonzero(admission.expired)
            ),
        ]


def take_together(several: Sequence[tuple[FoldStage, Sequence[Batch]]]) -> Taken:
    """Take the batches of each of several partitions of one topic.

    All are decoded at once, and what is applied is one frame: that costs as much for one record as
    for hundreds.
    """
    starts = [stage.position for stage, _ in several]
    columns = iter(read_together([batch for _, batches in several for batch in batches]))
    accepted = [stage.accept([*islice(columns, len(batches))]) for stage, batches in several]
    records = joined(accepted)
    codec = several[0][0].codec
    decoded = codec.columns(records.values, records.timestamps, records.headers)
    admissions: list[Admission] = []
    stretches, aside, first = [], [], 0
    for (stage, _), start, own in zip(several, starts, accepted, strict=True):
        admission, own_aside = stage.decide(own, decoded.of(first, first + len(own)))
        admissions.append(admission)
        aside += own_aside
        stretches.append(stage.stretch(start))
        first += len(own)
    partitions = np.repeat([stage.partition for stage, _ in several], [*map(len, accepted)])
    return Taken(
        stretches,
        len(records),
        _applied(several[0][0], decoded, Admission.joined(admissions), records, partitions),
        aside,
        int(records.timestamps.min()) if len(records) else None,
    )


def _applied(
    stage: FoldStage,
    decoded: Decoded,
    admission: Admission,
    records: Records,
    partitions: NDArray[np.intp],
) -> pl.DataFrame:
    """Return the events that count; ``stage`` is that of any of their partitions."""
    columns = [pl.Series(WATERMARK, admission.watermarks, pl.Int64)]
    if any(stage.definitions.rules.immediate(plan.source) for plan in stage.plan.folds):
        columns += [
            pl.Series(OFFSET, records.offsets[decoded.index], pl.Int64),
            pl.Series(PARTITION, partitions[decoded.index], pl.Int32),
        ]
    # An expression over a frame costs as much as thousands of its rows.
    frame = decoded.frame.hstack(columns)
    if stage.plan.topic.restatable:
        return with_earlier(frame, admission, stage.read)
    applied = admission.applied
    return frame if applied.all() else frame.filter(pl.Series(applied))


def fold_topic(plan: InputPlan, taken: Taken) -> list[Section]:
    """Fold the events of a topic that were applied."""
    return [section for source in plan.folds for section in fold(source, taken.applied)]


def immediate_actions(
    definitions: Definitions, plan: InputPlan, taken: Taken, created_ms: int
) -> list[dict[str, Any]]:
    """Return what rules that look at single events decide; as of just after each event."""
    actions: list[dict[str, Any]] = []
    for source in plan.folds:
        rules = definitions.rules.immediate(source.source)
        if not rules:
            continue
        restated = _restated(taken.applied)
        prepared = definitions.registry.prepare(source.source, taken.applied)
        for rule in rules:
            for place, met in sorted(_met(prepared.filter(rule.expression)).items()):
                versions = {version: met.get(version, []) for version in restated.get(place, met)}
                as_of = _as_of(plan, place)
                actions += immediate_action_records(rule, versions, as_of, created_ms)
    return actions


_Place = tuple[int, int]  # partition and offset of a record


def _met(rows: pl.DataFrame) -> dict[_Place, dict[int, list[dict[str, Any]]]]:
    """Return rows that meet a rule by the place of their event, and by its version."""
    found: dict[_Place, dict[int, list[dict[str, Any]]]] = {}
    for row in rows.iter_rows(named=True):
        versions = found.setdefault((row[PARTITION], row[OFFSET]), {})
        versions.setdefault(row["version"], []).append(row)
    return found


def _restated(events: pl.DataFrame) -> dict[_Place, list[int]]:
    """Return, by the place of each event that restates, its versions so far and its own."""
    found: dict[_Place, list[int]] = {}
    if WEIGHT not in events.columns or events[WEIGHT].min() == 1:
        return found
    columns = events.select(PARTITION, OFFSET, "version", WEIGHT).sort("version")
    places = columns.filter(pl.col(WEIGHT) < 1).select(PARTITION, OFFSET).unique()
    for partition, offset, version, _ in columns.join(
        places, on=[PARTITION, OFFSET], how="semi", maintain_order="left"
    ).iter_rows():
        found.setdefault((partition, offset), []).append(version)
    return found


def _as_of(plan: InputPlan, place: _Place) -> list[dict[str, Any]]:
    return [{"topic": plan.topic.name, "partition": place[0], "position": place[1] + 1}]
