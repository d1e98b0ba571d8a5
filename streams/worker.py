"""A worker: collects batches, flushes them, recovers partitions, logs idle advances.

It lives in Faust's event loop. Folding and merging run there too, a flush at a time; only waiting
for the broker happens in a thread, so that batches are collected meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import structlog
from faust.types import TP

from processors.watermark import BEFORE_ALL_MS
from schemas.catalogue import PARTIALS
from schemas.errors import Reason
from streams.columnar import Batch, Consumer, FetchState, Hooks, Membership
from streams.definitions import Definitions
from streams.flush import Engine, Flush, Transaction
from streams.fold import FoldStage
from streams.log import KafkaLog
from streams.memory import Trimmer
from streams.metrics import METRICS
from streams.recovery import Recovery, Superseded
from streams.settings import Settings
from streams.state import Advance
from streams.watchdog import STANDS_BY, Place, Standing, Watchdog

log = structlog.get_logger(__name__)

#: A partition that holds nothing is announced as empty after this long.
EMPTY_AFTER_S = 2.0

#: How long a revocation may wait for the running flush: well below a session timeout.
REVOCATION_S = 4.0

#: What a flush should take at most: the event loop does nothing else meanwhile, and the group waits
#: for it when it rebalances. A backlog is many flushes, not one.
FLUSH_S = 0.5

#: What it may take with a worker far behind: nobody waits for its figures, and large flushes cost
#: less.
HURRIED_FLUSH_S = 1.5

#: How many times longer than usual it goes from checkpoint to checkpoint, and so from publication
#: to publication: both cost as much as a second of events, and who takes over has the backlog to
#: work off before anything is fresh again.
HURRIED_CHECKPOINTS = 3

#: So many collected events are worth a flush of their own, before its time.
ENOUGH_EVENTS = 60_000

#: How long what has come waits for that of other partitions, which arrives in the same moment.
COMPANY_S = 0.01

#: Partials that have waited so long are a backlog too: there is always more of them. On a full
#: machine a single wave of publication holds them up for a second, and must not put off the next.
BACKLOG_S = 3.0

#: Its multiples lie far from each other in any interval, however many there are.
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2

#: How far a partition may run ahead of the others in a rebuild, in event time.
AHEAD_MS = 600_000

#: How often quiet partitions are looked for.
QUIET_LOOK_S = 0.25

_LOOK_EVERY_S = 0.02
_MEASURE_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What a flush leaves behind in an input partition, to be told of once it is committed."""

    tp: TP
    account: dict[str, int]
    reasons: dict[Reason, int]
    watermark_ms: int | None


class TooManyDeadLetters(Exception):
    """So many records cannot be used that something else than a record is wrong."""


class Worker:
    """The partitions of one group member, and the loop that flushes them."""

    def __init__(
        self,
        settings: Settings,
        definitions: Definitions,
        open_transactions: Callable[[str], Transaction],
    ) -> None:
        self.settings = settings
        self.definitions = definitions
        self.transactional_id = f"{settings.application_id}-{uuid.uuid4().hex}"
        self.engine = Engine(
            definitions, self.transactional_id, 0, pace_ms=settings.flush_interval_ms
        )
        self.hooks = Hooks(
            lambda: self.engine.positions,
            self.before_revocation,
            self._on_membership,
            self._has_room,
            self._wanted,
        )
        self.failed = asyncio.Event()
        self.done = asyncio.Event()
        self._committed_to: dict[TP, int] = {}
        self._recovering = False
        self._steps = 0
        self._told_of: set[str] = set()
        self.watchdog = Watchdog(settings.kafka_client(), settings.stall_timeout_s, self.standing)
        self._transactions = open_transactions(self.transactional_id)
        self._io = ThreadPoolExecutor(1, "flush")
        self._consumer: Consumer | None = None
        self._announced: Membership | None = None
        self._membership: Membership | None = None
        self._last_membership: Membership | None = None
        self._flushing = asyncio.Lock()
        self._commit: asyncio.Task[None] | None = None
        self._arrived = asyncio.Event()
        self._pending: list[Batch] = []
        self._pending_since: dict[bool, float] = {}  # by whether they are partials
        self._event_limit = float(settings.flush_max_events)
        self._partials_limit = float(settings.fetch_budget_bytes)
        self._last_batch: dict[TP, float] = {}
        self._quiet_since: dict[TP, float] = {}
        self._last_sums: dict[TP, float] = {}
        self._last_advance: dict[TP, float] = {}
        self._idle_from: dict[TP, int] = {}
        self._judged: dict[TP, tuple[int, int]] = {}
        self._folded = self._merged = time.monotonic()
        self._saved: dict[TP, float] = {}
        self._measured = 0.0
        self._looked = 0.0
        self._trimmer = Trimmer()
        self._input_ended = False

    # -- what the transport and the agents call -------------------------------------------------

    def collect(self, batch: Batch) -> None:
        """Keep a batch for the next flush; one of another generation is not ours to count."""
        if self._membership is None or batch.generation != self._membership.generation:
            return
        self._pending_since.setdefault(batch.tp.topic == PARTIALS, time.monotonic())
        self._pending.append(batch)
        self._last_batch[batch.tp] = time.monotonic()
        self._quiet_since.pop(batch.tp, None)
        self._idle_from.pop(batch.tp, None)
        self._arrived.set()

    async def before_revocation(self) -> None:
        """Let the running flush end, then forget what is collected: it will be fetched again."""
        self._membership = None
        try:
            async with asyncio.timeout(REVOCATION_S), self._flushing:
                await self._committed()
                self._pending = []
                self._pending_since = {}
        except TimeoutError:
            self._die("flush_outlasted_revocation", TimeoutError(f"{REVOCATION_S} s"))

    def _has_room(self) -> bool:
        pending = self._pending
        return (
            sum(batch.nbytes for batch in pending) < self.settings.fetch_budget_bytes
            and sum(len(batch.records) for batch in pending) < 2 * self.settings.flush_max_events
        )

    def _wanted(self, partitions: set[TP]) -> set[TP]:
        """Leave out, in a rebuild, inputs far ahead in event time of others that have much to give.

        A topic of few events would be through long before the others, and every window of its
        time would be open until they are there.
        """
        folds = self.engine.folds
        if self.engine.published is None:
            return partitions
        behind = [s.state.watermark_ms for tp, s in folds.items() if self._lag(tp) > ENOUGH_EVENTS]
        limit_ms = min(behind, default=-BEFORE_ALL_MS) + AHEAD_MS
        return {
            tp for tp in partitions if tp not in folds or folds[tp].state.watermark_ms <= limit_ms
        }

    def _on_membership(self, membership: Membership) -> None:
        self._announced = membership

    async def take_over(self, consumer: Consumer) -> None:
        """Recover what was assigned; return at once if the group rebalances meanwhile."""
        membership, before = self._announced, self._last_membership
        if membership is None:
            return
        self._consumer = consumer
        consumed = self.definitions.sources
        assigned = {tp for tp in consumer.assignment() if tp.topic in consumed}
        held = set(self.engine.positions)
        kept = held & assigned if _is_next(before, membership) else set()
        self.engine.forget(sorted(held - kept))
        for tp in held - assigned:
            METRICS.forget(tp.topic, tp.partition)
        started = time.monotonic()
        recovery = Recovery(
            KafkaLog(self.settings.kafka_client()),
            self.engine,
            lambda: self._announced == membership,
            on_records=self._get_on,
        )
        loop = asyncio.get_running_loop()
        self._recovering = True
        try:
            await loop.run_in_executor(self._io, recovery.run, assigned - kept)
        except Superseded:
            self.engine.forget(sorted(set(self.engine.positions) - kept))
            return
        except Exception as problem:  # noqa: BLE001 - whatever it is, this state is not to be used
            self._die("recovery_failed", problem)
            return
        finally:
            self._recovering = False
        seconds = time.monotonic() - started
        METRICS.recovery(seconds)
        log.info(
            "partitions_taken_over",
            generation=membership.generation,
            partitions=len(assigned),
            recovered=len(assigned - kept),
            seconds=round(seconds, 3),
        )
        for tp in assigned - kept:
            if tp in self.engine.folds:
                # Dead letters met again on the way are no new ones.
                self.engine.folds[tp].reasons.clear()
        self._committed_to = self.engine.positions
        now = time.monotonic()
        turns = {tp: self._turn(tp, now) for tp in self.engine.positions}
        self._saved = turns | {tp: s for tp, s in self._saved.items() if tp in kept}
        self._last_sums = dict.fromkeys(assigned, now)
        self._quiet_since.clear()
        self._last_advance.clear()
        self._idle_from.clear()
        self._judged = {
            tp: (stage.state.account.consumed, stage.state.account.dead_lettered)
            for tp, stage in self.engine.folds.items()
        }
        self._last_membership = self._membership = membership

    # -- the loop -------------------------------------------------------------------------------

    async def run(self, exit_when_idle_s: float | None) -> None:
        """Flush whatever is due until :meth:`stop`, or until all has been quiet for so long."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._io, self._start_transactions)
            while not self.done.is_set():
                await self._wait()
                await self._flush_if_due()
                if exit_when_idle_s is not None and self._is_quiet(exit_when_idle_s):
                    await self._end()
        except Exception as problem:  # noqa: BLE001 - on doubt the process ends, and recovers
            self._die("flush_failed", problem)

    def _start_transactions(self) -> None:
        self._transactions.start()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_EVERY_S):
                await self._arrived.wait()
        except TimeoutError:
            pass

    async def _flush_if_due(self) -> None:
        if self._membership is None or self.done.is_set():
            self._arrived.clear()
            await asyncio.sleep(_LOOK_EVERY_S)
            return
        now = time.monotonic()
        self.engine.hurries = self._is_far_behind(now)
        METRICS.far_behind(self.engine.hurries)
        due = self._due(now)
        advances = self._due_advances(now)
        # What was folded last is on its way: what nobody waits for would hold its merge up.
        alone = not due and self._merged >= self._folded
        checkpoint = self._due_checkpoints(now, alone=alone)
        if due or advances or checkpoint or self.engine.is_due(_now_ms(), alone=alone):
            await self.flush(advances=advances, checkpoint=checkpoint)
        else:
            # What waits, waits for company; look again when more arrives, or in a moment.
            self._arrived.clear()
        self._measure(now)

    def _due_checkpoints(self, now: float, *, alone: bool) -> set[TP]:
        """Return the partitions whose state is to be written down.

        In a flush of its own it holds nobody up; if none comes for one of the inputs' intervals, it
        goes with any.
        """
        every_s = self.settings.checkpoint_interval_s
        if self.engine.hurries:
            every_s *= HURRIED_CHECKPOINTS
        if not alone:
            every_s += self.settings.flush_interval_ms / 1000
        return {tp for tp, saved in self._saved.items() if now - saved >= every_s}

    def _turn(self, tp: TP, now: float) -> float:
        """Return when it was last a partition's turn to be written down, once an interval.

        With its checkpoint all that has changed in a partition is published, and scopes of a longer
        interval keep the pace from there. All partitions at once would hold up what is published
        most often, in the worker and in whoever reads its records. Steps of the golden ratio keep
        any number of them apart, in the intervals of scopes as well, which are parts of this one.
        """
        every_s = self.settings.checkpoint_interval_s
        return now - (now - tp.partition * GOLDEN_RATIO * every_s) % every_s

    def _due(self, now: float) -> set[bool]:
        """Tell what is due: partials (True) after a moment, inputs (False) by time or number.

        The time of inputs is that since the last were taken: they keep their pace, however long a
        flush takes, and what comes after a silence waits for nothing.
        The two are taken apart: inputs folded with every merge would make partials at once again,
        and a busy loop of tiny flushes.
        """
        due = set()
        for partials, since in self._pending_since.items():
            waited_s = now - since
            is_due = waited_s >= COMPANY_S
            if not partials:
                count = sum(len(b.records) for b in self._pending if b.tp.topic != PARTIALS)
                most = self.settings.flush_max_events if self.engine.hurries else ENOUGH_EVENTS
                enough = min(self._event_limit, most)
                is_time = (now - self._folded) * 1000 >= self.settings.flush_interval_ms
                is_due = (is_due and is_time) or count >= enough
            if is_due:
                due.add(partials)
        return due

    async def flush(
        self,
        *,
        advances: dict[TP, Advance] | None = None,
        publish_all: bool = False,
        checkpoint: Collection[TP] = (),
    ) -> None:
        """Take what is collected through one transaction. Whatever fails ends the process.

        The commit goes on when this returns: the next flush is worked out meanwhile, and waits for
        it. So does everything that must know the outcome.
        """
        async with self._flushing:
            membership = self._membership
            if membership is None:
                return
            everything = publish_all or bool(advances)
            due = {True, False} if everything else self._due(time.monotonic())
            if self.engine.is_behind:
                due.discard(True)
            batches = self._next_batches(due)
            started = time.monotonic()
            if False in due:
                self._folded = started
            if True in due:
                self._merged = started
            flush = self.engine.flush(
                batches,
                _now_ms(),
                advances=advances,
                publish_all=publish_all,
                checkpoint=checkpoint,
            )
            self._last_sums.update(dict.fromkeys(flush.added, started))
            self._check_dead_letters()
            self._saved |= {tp: self._turn(tp, started) for tp in flush.saved}
            if not flush:
                # Nothing has changed: the last checkpoint is as good as one of now.
                self._note_checkpoints(flush)
                return
            self._set_limits(batches, time.monotonic() - started)
            figures = self._figures(flush)
            await self._committed()
            if self.failed.is_set():
                # What follows from a flush that may not be in the log must not get there either.
                return
            self._commit = asyncio.create_task(self._put(flush, membership, started, figures))

    async def _put(
        self, flush: Flush, membership: Membership, started: float, figures: list[Figures]
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._io, self._transactions.commit, flush, membership)
        except Exception as problem:  # noqa: BLE001 - nobody knows what the log holds now
            self._die("commit_failed", problem)
        else:
            self._count(flush, time.monotonic() - started, figures)

    async def _committed(self) -> None:
        """Wait until the outcome of the last commit is known."""
        if self._commit is not None:
            await asyncio.shield(self._commit)

    def _check_dead_letters(self) -> None:
        """Stop before a bad deploy of a producer drains a topic into the dead letters."""
        for tp, stage in self.engine.folds.items():
            account = stage.state.account
            consumed, dead = self._judged.setdefault(tp, (account.consumed, account.dead_lettered))
            seen, bad = account.consumed - consumed, account.dead_lettered - dead
            if seen < self.settings.dead_letter_minimum:
                continue
            if bad > self.settings.dead_letter_limit * seen:
                raise TooManyDeadLetters(
                    f"{tp.topic}[{tp.partition}]: {bad} of {seen} records are dead letters, "
                    f"expected at most a share of {self.settings.dead_letter_limit}: mend the "
                    "producer (see `andon dead-letters list`), or raise ANDON_DEAD_LETTER_LIMIT"
                )
            self._judged[tp] = (account.consumed, account.dead_lettered)

    def _next_batches(self, due: set[bool]) -> list[Batch]:
        """Take from what is due as much as a flush should hold; the rest stays, in order."""
        limits = {True: self._partials_limit, False: self._event_limit}
        taken: list[Batch] = []
        rest: list[Batch] = []
        for batch in self._pending:
            partials = batch.tp.topic == PARTIALS
            if partials not in due:
                rest.append(batch)
                continue
            size = batch.nbytes if partials else len(batch.records)
            share = limits[partials] / size if size else 1.0
            if not any((b.tp.topic == PARTIALS) == partials for b in taken):
                # A record that is larger than the limit still has to go.
                share = max(share, 1 / len(batch.records))
            limits[partials] -= size
            first, second = batch.split(share)
            taken += first
            rest += second
        self._pending = rest
        left = {batch.tp.topic == PARTIALS for batch in rest}
        self._pending_since = {
            partials: since for partials, since in self._pending_since.items() if partials in left
        }
        return taken

    def _set_limits(self, batches: list[Batch], seconds: float) -> None:
        """Let the next flush take as much as this one's pace allows, at most twice as much."""
        aim_s = HURRIED_FLUSH_S if self.engine.hurries else FLUSH_S
        pace = min(2.0, aim_s / max(seconds, 0.01))
        events = sum(len(b.records) for b in batches if b.tp.topic != PARTIALS)
        partials = sum(b.nbytes for b in batches if b.tp.topic == PARTIALS)
        if events >= self._event_limit / 2 or pace < 1:
            limit = max(1_000.0, pace * (events or self._event_limit))
            self._event_limit = min(limit, float(self.settings.flush_max_events))
        if partials and (partials >= self._partials_limit / 2 or pace < 1):
            limit = max(100_000.0, pace * partials)
            self._partials_limit = min(limit, float(self.settings.fetch_budget_bytes))

    async def stop(self) -> None:
        """End gracefully: flush what is collected, and write the state down whole."""
        # The loop must begin nothing more: nobody would wait for it, and its open transaction would
        # hold the successor up.
        self.done.set()
        try:
            if await self._save():
                await self._committed()
        except Exception as problem:  # noqa: BLE001
            self._die("last_flush_failed", problem)

    async def _save(self) -> bool:
        """Publish all and write the state down whole; return False if that is for others to do."""
        while self._membership is not None and not self.failed.is_set():
            await self.flush(publish_all=True, checkpoint=self.engine.positions)
            if not self.engine.is_behind:
                return True
        return False

    def _die(self, event: str, problem: BaseException) -> None:
        """End the process without ceremony: memory may differ from the log, so nothing is saved."""
        log.critical(event, error=str(problem), exc_info=problem)
        self._membership = None
        self.failed.set()
        self.done.set()

    # -- quiet partitions -----------------------------------------------------------------------

    def _look_for_quiet(self, now: float) -> bool:
        """Note since when each partition is seen to have no more to give; tell if it was time to.

        Nobody looks during a flush, which may outlast a silence: that it is quiet after it says
        nothing of before.
        """
        if now - self._looked < QUIET_LOOK_S:
            return False
        self._looked = now
        for tp in self.engine.positions:
            if self._is_caught_up(tp):
                self._quiet_since.setdefault(tp, now)
            else:
                self._quiet_since.pop(tp, None)
        return True

    def _due_advances(self, now: float) -> dict[TP, Advance]:
        """Return the advances of partitions that have been quiet for long enough."""
        advances: dict[TP, Advance] = {}
        # After the end a further advance says nothing, and its partials nobody would wait for.
        if not self._look_for_quiet(now) or self._input_ended:
            return advances
        for tp, stage in self.engine.folds.items():
            quiet_s = now - self._quiet_since.get(tp, now)
            if not stage.announced and quiet_s >= EMPTY_AFTER_S:
                advances[tp] = Advance(stage.position, 0, "EMPTY")
            elif quiet_s >= self.settings.idle_timeout_s:
                advance = self._idle_advance(tp, stage, now, quiet_s)
                if advance is not None:
                    advances[tp] = advance
        return advances

    def _idle_advance(self, tp: TP, stage: FoldStage, now: float, quiet_s: float) -> Advance | None:
        if stage.watermark_ms is None or now - self._last_advance.get(tp, 0.0) < 5.0:
            return None
        # Event time passes at the clock's pace while nothing comes: also in a replay of old data.
        base = self._idle_from.setdefault(tp, stage.watermark_ms)
        self._last_advance[tp] = now
        return Advance(stage.position, base + int(quiet_s * 1000), "IDLE")

    def _is_caught_up(self, tp: TP) -> bool:
        """Tell whether all that is known to be in a partition was taken.

        What was fetched may still be on its way to us.
        """
        known = self._fetch_state(tp)
        if known is None or known.handed_on != self.engine.positions[tp]:
            return False
        # What the fetcher knows of the end is as old as its last answer, should it have stalled.
        return known.position >= max(known.stable, self.watchdog.ends.get(tp, 0))

    def _is_far_behind(self, now: float) -> bool:
        waited_s = now - self._pending_since.get(True, now)
        # Who has nearly made it goes on to the end: what is published before is published again.
        limit = ENOUGH_EVENTS // 2 if self.engine.hurries else ENOUGH_EVENTS
        return waited_s > BACKLOG_S or sum(map(self._lag, self.engine.folds)) > limit

    def _lag(self, tp: TP) -> int:
        """Return how much is known to lie before a partition, fetched or not."""
        known = self._fetch_state(tp)
        return 0 if known is None else known.stable - self.engine.folds[tp].position

    def _fetch_state(self, tp: TP) -> FetchState | None:
        return None if self._consumer is None else self._consumer.fetch_state(tp)

    def _is_quiet(self, seconds: float) -> bool:
        if self._membership is None or not self.engine.positions:
            return False
        # What advances of quiet inputs bring to the merges breaks no silence: it comes for ever,
        # until the input has ended. Then it is what others have to say of the end, and waited for.
        of_merges = self._quiet_since if self._input_ended else self._last_sums
        since = dict.fromkeys(self.engine.folds, self._quiet_since)
        since |= dict.fromkeys(self.engine.merges, of_merges)
        now = time.monotonic()
        return all(
            now - times.get(tp, now) >= seconds and self._is_caught_up(tp)
            for tp, times in since.items()
        )

    async def _end(self) -> None:
        """Log that nothing older than now is to come, let that pass through, and be done."""
        self._input_ended = True
        now_ms = _now_ms()
        advances = {
            tp: Advance(
                stage.position, now_ms, "END" if stage.watermark_ms is not None else "EMPTY"
            )
            for tp, stage in self.engine.folds.items()
        }
        log.info("input_ended", partitions=len(advances))
        await self.flush(advances=advances)
        ended = time.monotonic()
        quiet_s = 3 * self.settings.flush_interval_ms / 1000
        while not self.done.is_set():
            await self._wait()
            await self._flush_if_due()
            merges = list(self.engine.merges)
            passed = all(self._last_batch.get(tp, 0.0) >= ended for tp in merges)
            # Another that ends takes our partitions away for a moment: then nothing is saved yet.
            if (passed or not advances) and self._is_quiet(quiet_s) and await self._save():
                await self.stop()

    # -- figures --------------------------------------------------------------------------------

    def _figures(self, flush: Flush) -> list[Figures]:
        """Return what the state says of the partitions that the flush advances, as it is now."""
        figures = []
        for tp, stage in self.engine.folds.items():
            if tp in flush.offsets:
                reasons, stage.reasons = stage.reasons, {}
                account = asdict(stage.state.account)
                figures.append(Figures(tp, account, reasons, stage.watermark_ms))
        return figures

    def _count(self, flush: Flush, seconds: float, figures: list[Figures]) -> None:
        self._committed_to.update(flush.offsets)
        METRICS.flush(seconds, flush.events)
        METRICS.kpi_records(flush.kpi_records)
        self._note_checkpoints(flush)
        now_ms = _now_ms()
        for since_ms in flush.kpi_since_ms:
            METRICS.kpi_latency(max(0.0, (now_ms - since_ms) / 1000))
        for action_type, count in flush.actions.items():
            METRICS.actions(action_type, count)
        for found in figures:
            place = (found.tp.topic, found.tp.partition)
            METRICS.account(*place, found.account)
            for reason, count in found.reasons.items():
                METRICS.dead_letters(*place, reason, count)
            if found.watermark_ms is not None:
                METRICS.watermark(*place, found.watermark_ms)

    @staticmethod
    def _note_checkpoints(flush: Flush) -> None:
        for tp in flush.saved:
            METRICS.checkpoint(tp.topic, tp.partition)

    def _measure(self, now: float) -> None:
        if now - self._measured < _MEASURE_EVERY_S:
            return
        self._measured = now
        self._trimmer.look()
        for tp, fold in self.engine.folds.items():
            METRICS.state_bytes(tp.topic, tp.partition, fold.state.seen.nbytes)
        for tp, merge in self.engine.merges.items():
            METRICS.state_bytes(tp.topic, tp.partition, merge.merge.nbytes)
            METRICS.rows_too_late(tp.topic, tp.partition, merge.merge.too_late)
            self._tell_of_others(merge.others)

    def _tell_of_others(self, others: dict[str, str]) -> None:
        """Tell once of each set of definitions that others fold by, with the same sums as ours."""
        for edition, writer in others.items():
            if edition not in self._told_of:
                log.warning(
                    "other_definitions",
                    found=f"partials by {writer} with KPI formulas or rules {edition}",
                    expected=self.definitions.edition,
                    next_step="give all workers the same files, unless they are being replaced now",
                )
        self._told_of.update(others)
        others.clear()

    def standing(self) -> Standing:
        """Return what the worker is at, and how far its partitions are."""
        if self._membership is None:
            doing = "recovers partitions" if self._recovering else "waits for partitions"
            return Standing(doing, self._steps, {})
        collected = {batch.tp for batch in self._pending}
        positions = self.engine.positions
        wanted = self._wanted(set(positions))
        places = {}
        for tp, position in positions.items():
            known = self._fetch_state(tp)
            fetched = None if known is None else known.position
            committed = self._committed_to[tp]
            is_held = tp in collected or position != committed
            places[tp] = Place(fetched, committed, is_held, tp in wanted)
        return Standing("processes" if places else STANDS_BY, self._steps, places)

    def _get_on(self) -> None:
        self._steps += 1

    def ready(self) -> tuple[bool, str]:
        """Tell whether all assigned partitions are recovered, and what is missing if not."""
        if self.failed.is_set():
            return False, "failed"
        if self._membership is None:
            return False, "partitions are not yet assigned and recovered"
        return True, f"{len(self.engine.positions)} partitions"


def _is_next(before: Membership | None, now: Membership) -> bool:
    """Tell whether nobody else can have had our partitions between two memberships."""
    return (
        before is not None
        and before.member_id == now.member_id
        and before.generation + 1 == now.generation
    )


def _now_ms() -> int:
    return int(time.time() * 1000)
