"""The nemesis: carries the plan out, and measures how long each recovery takes.

What is measured is strict: from the last kill, or from when the cause is gone (the broker back,
the sleeper awake), until of every partition of the KPI topic a record written after that is
committed, and every input partition has moved on.
"""

import signal
import time
from collections.abc import Callable, Mapping
from random import Random
from typing import Final

from streams.bench.freshness import Mark, Watch
from streams.sources.events import seeded
from tests.faults.crew import Crew
from tests.faults.link import Link, Request
from tests.faults.plan import Fault, Moment, Step
from tests.faults.report import Recovery
from tests.faults.servers import Servers
from tests.waiting import wait_until

PATIENCE_S: Final = 180.0
_LONGEST_CREW: Final = 3
_AGAIN_WITHIN_S: Final = 20.0
_MOMENT_WITHIN_S: Final = 15.0
# All that the topics hold: on a quiet machine 20,000 records a second.
_FILLED_WITHIN_S: Final = 300.0
_SLOW_S: Final = 4.0

_REQUESTS: Final[Mapping[Moment, tuple[Request, bool]]] = {
    Moment.PRODUCING: (Request.PRODUCE, True),
    Moment.OFFSETS: (Request.TXN_OFFSET_COMMIT, False),
    Moment.COMMIT_HELD: (Request.END_TXN, False),
    Moment.COMMIT_SENT: (Request.END_TXN, True),
    Moment.JOINING: (Request.JOIN_GROUP, True),
    Moment.SYNCING: (Request.SYNC_GROUP, True),
    Moment.RECOVERING: (Request.LIST_OFFSETS, True),
}


class Nemesis:
    """Does to crew, link and servers what the steps say."""

    def __init__(self, seed: int, crew: Crew, link: Link, servers: Servers, watch: Watch) -> None:
        self._rng: Random = seeded(seed, "victims")
        self._crew = crew
        self._link = link
        self._servers = servers
        self._watch = watch
        self._how: list[str] = []
        self._ways: Mapping[Fault, Callable[[Step], Mark]] = {
            Fault.KILL: self._kill,
            Fault.ZOMBIE: self._put_to_sleep,
            Fault.BROKER_KILL: self._kill_broker,
            Fault.COORDINATOR_KILL: self._kill_broker,
            Fault.BROKER_PAUSE: self._pause_broker,
            Fault.SLOW_LINK: self._slow_link,
            Fault.CUT_LINK: self._cut_link,
            Fault.JOIN: self._add_worker,
            Fault.LEAVE: self._remove_worker,
            Fault.COMPACTION: self._compact,
            Fault.REDIS_KILL: self._kill_redis,
        }

    def strike(self, step: Step) -> Recovery:
        """Do what the step says, and see it recover. Raises TimeoutError if it does not."""
        self._how = [] if step.moment is Moment.ANY else [str(step.moment)]
        mark = self._ways[step.fault](step)
        seconds = self.await_fresh(mark, str(step.fault))
        how = ", ".join(self._how)
        return Recovery(str(step.fault), step.after_events, how, round(seconds, 2))

    def await_fresh(self, mark: Mark, what: str) -> float:
        """Return how many seconds after the mark everything had moved on."""
        try:
            wait_until(lambda: self._watch.is_fresh_since(mark), what, PATIENCE_S)
        except TimeoutError as late:
            raise TimeoutError(f"{late}: {self._watch.missing_since(mark)}") from None
        return time.time() - mark.at_ms / 1000

    # -- workers --------------------------------------------------------------------------------

    def _kill(self, step: Step) -> Mark:
        self._at(step.moment, self._crew.kill_owner, step.share, _MOMENT_WITHIN_S)
        if step.again is not None:
            self._how.append(f"then another {step.again}")
            self._at(step.again, self._crew.kill_owner, step.share, _AGAIN_WITHIN_S)
        return self._watch.mark()

    def _at(
        self, moment: Moment, kill: Callable[[int], bool], share: float, within_s: float
    ) -> None:
        """Kill when the moment comes; at any moment if that is the plan, or none has come."""
        if moment is not Moment.ANY:
            request, after = _REQUESTS[moment]
            if self._link.set_trap(request, kill, after=after).wait(within_s):
                return
            self._link.disarm()
            self._how.append("which did not come")
        time.sleep(share)
        self._crew.kill_any(self._rng)

    def _put_to_sleep(self, _: Step) -> Mark:
        sleeper = self._rng.choice(self._crew.alive)
        sleeper.signal(signal.SIGSTOP)
        try:
            seconds = self.await_fresh(self._watch.mark(), "others take over from the sleeper")
        finally:
            sleeper.signal(signal.SIGCONT)
        self._how.append(f"taken over in {seconds:.1f} s")
        mark = self._watch.mark()
        self._await_members("the sleeper is a member again, or gone")
        return mark

    def _await_members(self, what: str) -> None:
        wait_until(lambda: self._watch.members() == len(self._crew.alive), what, PATIENCE_S)

    def _add_worker(self, _: Step) -> Mark:
        self._crew.size = min(_LONGEST_CREW, self._crew.size + 1)
        mark = self._watch.mark()
        wait_until(lambda: len(self._crew.alive) == self._crew.size, "a worker more", PATIENCE_S)
        self._await_members("the new worker is a member")
        return mark

    def _remove_worker(self, _: Step) -> Mark:
        leaver = self._crew.dismiss(self._rng)
        mark = self._watch.mark()
        wait_until(lambda: not leaver.alive, "a worker ends when asked to", PATIENCE_S)
        return mark

    def _compact(self, _: Step) -> Mark:
        with self._servers.eager_compaction() as await_compaction:
            # Segments end when something is appended to them: let the workers do so for a while.
            self.await_fresh(self._watch.mark(), "progress while segments are short")
            self._crew.hold()
            try:
                self._crew.kill(self._crew.alive)
                gone = await_compaction(PATIENCE_S)
            finally:
                self._crew.go_on()
        self._how.append(f"{gone} superseded records gone")
        return self._watch.mark()

    # -- servers and the way to them ------------------------------------------------------------

    def _kill_broker(self, step: Step) -> Mark:
        self._when(step.moment, self._servers.kill_kafka)
        time.sleep(3 * step.share)
        self._servers.start_kafka()
        return self._watch.mark()

    def _when(self, moment: Moment, act: Callable[[], None]) -> None:
        """Act when the moment comes."""
        if moment is Moment.ANY:
            act()
            return
        request, after = _REQUESTS[moment]
        if not self._link.set_trap(request, lambda _: not act(), after=after).wait(
            _MOMENT_WITHIN_S
        ):
            raise TimeoutError(f"nobody came to {moment} within {_MOMENT_WITHIN_S:g} s")

    def _pause_broker(self, step: Step) -> Mark:
        seconds = 2 + 9 * step.share
        self._how.append(f"for {seconds:.1f} s")
        with self._servers.kafka_asleep():
            time.sleep(seconds)
        return self._watch.mark()

    def _slow_link(self, step: Step) -> Mark:
        delay_s = 0.05 + 0.25 * step.share
        self._how.append(f"{delay_s * 1000:.0f} ms each way")
        self._link.delay(delay_s)
        try:
            time.sleep(_SLOW_S)
        finally:
            self._link.delay(0.0)
        return self._watch.mark()

    def _cut_link(self, step: Step) -> Mark:
        seconds = 4 * step.share
        self._how.append(f"for {seconds:.1f} s")
        self._when(step.moment, self._link.cut)
        try:
            time.sleep(seconds)
        finally:
            self._link.mend()
        return self._watch.mark()

    def _kill_redis(self, _: Step) -> Mark:
        is_full = self._servers.replace_redis()
        mark = self._watch.mark()
        wait_until(is_full, "Redis is filled again", _FILLED_WITHIN_S)
        self._how.append(f"filled again in {time.time() - mark.at_ms / 1000:.1f} s")
        return mark
