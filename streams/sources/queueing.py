"""A small simulation of queues: contacts arrive, wait, are answered, passed on or lost.

It exists to give a generated day waits, abandons and service levels that follow from staffing
instead of being drawn. All instants are epoch milliseconds UTC.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

from streams.sources.centre import HOUR_MS, MINUTE_MS, Agent, Problems, Queue
from streams.sources.feedback import Handled

_SURGE_HOURS: Final = (12, 16)
_SURGE_CONTACTS_PER_HOUR: Final = 45
_SLOW_WRAP_UP_HOURS: Final = (12, 16)
_ARRIVALS_BY_HOUR: Final = (3, 6, 9, 10, 10, 9, 9, 10, 10, 8, 6, 5, 4, 3, 2)
_MAX_LEGS: Final = 3


@dataclass(frozen=True, slots=True)
class Contact:
    """An interaction as it stands in one queue."""

    interaction_id: str
    customer_id: str
    issue_id: str
    channel: str
    queue_id: str
    leg: int = 1
    direction: str = "INBOUND"
    offered_ms: int = 0
    is_repeat: bool = False


@dataclass(slots=True)
class _Staff:
    """The agents of one set of queues: those who wait for work, longest first, and who waits."""

    queue_ids: tuple[str, ...]
    idle: deque[Agent] = field(default_factory=deque)
    waiting: dict[str, deque[Contact]] = field(default_factory=dict)


class Simulation:
    """Plays one local day that begins at ``midnight_ms``; ``run`` gives its interaction records.

    Everything depends on ``rng`` and the arguments; the same ones give the same records.
    """

    def __init__(
        self,
        queues: tuple[Queue, ...],
        agents: tuple[Agent, ...],
        problems: Problems,
        midnight_ms: int,
        id_prefix: str,
        rng: Random,
    ) -> None:
        self._queues: Mapping[str, Queue] = {queue.queue_id: queue for queue in queues}
        self._agents = agents
        self._problems = problems
        self._midnight_ms = midnight_ms
        self._id_prefix = id_prefix
        self._rng = rng
        self._numbers = itertools.count(1)
        self._agenda: list[tuple[int, int, Callable[[int], None]]] = []
        self._order = itertools.count()
        self._staff: dict[str, _Staff] = {}
        self._steps: dict[str, int] = {}
        self.records: list[dict[str, Any]] = []
        self.handled: list[Handled] = []

    def run(self) -> list[dict[str, Any]]:
        """Play the day to its end and return the interaction records in the order they happened."""
        self._open_queues()
        for queue in self._queues.values():
            self._plan_arrivals(queue)
        self._plan_surge()
        while self._agenda:
            now_ms, _, happen = heapq.heappop(self._agenda)
            happen(now_ms)
        return sorted(self.records, key=lambda record: int(record["event_time"]))

    def _open_queues(self) -> None:
        for agent in self._agents:
            staff = self._staff.setdefault(agent.queue_ids[0], _Staff(agent.queue_ids))
            for queue_id in agent.queue_ids:
                self._staff[queue_id] = staff
                staff.waiting.setdefault(queue_id, deque())
            late_ms = self._rng.randrange(4 * MINUTE_MS)
            self._at(self._hour(agent.starts) + late_ms, self._then(self._free, agent))
        for queue in self._queues.values():
            self._at(self._hour(queue.closes), self._then(self._close, queue))

    def _plan_arrivals(self, queue: Queue) -> None:
        hours = range(queue.opens, queue.closes)
        weights = [_ARRIVALS_BY_HOUR[hour - 7] for hour in hours]
        for hour, weight in zip(hours, weights, strict=True):
            share = weight / sum(weights)
            for _ in range(_poisson(self._rng, queue.contacts * share)):
                self._at(
                    self._hour(hour) + self._rng.randrange(HOUR_MS),
                    self._then(self._arrive, self._new_contact(queue)),
                )

    def _plan_surge(self) -> None:
        issue_id = self._problems.passed_around_issue
        queue = next(queue for queue in self._queues.values() if issue_id in queue.issues)
        first, last = _SURGE_HOURS
        for _ in range((last - first) * _SURGE_CONTACTS_PER_HOUR):
            arrives_ms = self._hour(first) + self._rng.randrange((last - first) * HOUR_MS)
            contact = replace(self._new_contact(queue), issue_id=issue_id)
            self._at(arrives_ms, self._then(self._arrive, contact))

    def _new_contact(self, queue: Queue) -> Contact:
        rng = self._rng
        return Contact(
            interaction_id=f"{self._id_prefix}-{next(self._numbers):05d}",
            customer_id=f"customer-{rng.randrange(90_000):05d}",
            issue_id=rng.choices(list(queue.issues), list(queue.issues.values()))[0],
            channel=rng.choices(list(queue.channels), list(queue.channels.values()))[0],
            queue_id=queue.queue_id,
        )

    def _arrive(self, now_ms: int, contact: Contact) -> None:
        queue = self._queues[contact.queue_id]
        if contact.leg == 1 and self._rng.random() < queue.self_service:
            self._record(contact, "LEFT_IVR", now_ms)
            return
        if len(self._waiting(contact)) >= queue.capacity:
            self._record(contact, "BLOCKED", now_ms)
            return
        contact = replace(contact, offered_ms=now_ms)
        self._record(contact, "OFFERED", now_ms)
        self._find_agent(now_ms, contact)

    def _find_agent(self, now_ms: int, contact: Contact) -> None:
        idle = self._staff[contact.queue_id].idle
        while idle:
            agent = idle.popleft()
            if now_ms < self._hour(agent.ends):
                self._ring(now_ms, contact, agent)
                return
        self._wait(now_ms, contact)

    def _wait(self, now_ms: int, contact: Contact) -> None:
        queue = self._queues[contact.queue_id]
        if contact.offered_ms < now_ms:
            self._waiting(contact).appendleft(contact)
        else:
            self._waiting(contact).append(contact)
        if contact.channel in ("EMAIL", "SOCIAL"):
            leaves_ms = now_ms + round(1000 * queue.patience_s)
            self._at(leaves_ms, self._then(self._flow_out, contact, "TIMEOUT"))
            return
        leaves_ms = now_ms + 1 + round(1000 * self._rng.expovariate(1 / queue.patience_s))
        self._at(leaves_ms, self._then(self._abandon, contact))
        if queue.callbacks and contact.direction == "INBOUND" and self._rng.random() < 0.25:
            self._at(now_ms + 2 * MINUTE_MS, self._then(self._flow_out, contact, "CALLBACK"))

    def _abandon(self, now_ms: int, contact: Contact) -> None:
        if self._leave_queue(contact):
            self._record(contact, "ABANDONED", now_ms, queue_wait_ms=now_ms - contact.offered_ms)
            if self._rng.random() < 0.3:
                self._call_again(now_ms, contact, 20 * MINUTE_MS)

    def _flow_out(self, now_ms: int, contact: Contact, reason: str) -> None:
        if not self._leave_queue(contact):
            return
        wait_ms = now_ms - contact.offered_ms
        self._record(contact, "FLOWED_OUT", now_ms, queue_wait_ms=wait_ms, flow_out_reason=reason)
        if reason == "CALLBACK":
            called = replace(contact, leg=contact.leg + 1, direction="CALLBACK")
            later_ms = now_ms + self._rng.randrange(15 * MINUTE_MS, 50 * MINUTE_MS)
            if later_ms < self._hour(self._queues[contact.queue_id].closes):
                self._at(later_ms, self._then(self._arrive, called))

    def _close(self, now_ms: int, queue: Queue) -> None:
        for contact in tuple(self._staff[queue.queue_id].waiting[queue.queue_id]):
            self._flow_out(now_ms, contact, "CLOSED")

    def _ring(self, now_ms: int, contact: Contact, agent: Agent) -> None:
        if contact.channel in ("VOICE", "VIDEO") and self._rng.random() < 0.02:
            ring_ms = self._rng.randrange(15_000, 22_000)
            missed_ms = now_ms + ring_ms
            self._record(contact, "MISSED", missed_ms, agent, ring_ms=ring_ms)
            self._at(missed_ms, self._then(self._find_agent, contact))
            self._at(missed_ms + 40_000, self._then(self._free, agent))
            return
        self._answer(now_ms + self._rng.randrange(1_000, 5_000), contact, agent)

    def _answer(self, now_ms: int, contact: Contact, agent: Agent) -> None:
        wait_ms = now_ms - contact.offered_ms
        times = {"offered_time": contact.offered_ms, "answered_time": now_ms}
        self._record(contact, "ANSWERED", now_ms, agent, queue_wait_ms=wait_ms, **times)
        queue = self._queues[contact.queue_id]
        parts = self._handle_times(now_ms, queue, agent)
        ends_ms = now_ms + parts["talk_ms"] + parts["hold_ms"]
        transferred = self._rng.random() < self._transfer_share(now_ms, contact)
        if transferred:
            self._transfer(ends_ms, contact, agent)
        done_ms = ends_ms + parts["after_contact_work_ms"]
        resolved = not transferred and self._is_resolved(contact)
        self._complete(done_ms, contact, agent, transferred, resolved, **parts, **times)
        pause_ms = self._rng.choice([0] * 14 + [12 * MINUTE_MS]) + self._rng.randrange(8_000)
        self._at(done_ms + pause_ms, self._then(self._free, agent))

    def _complete(
        self,
        now_ms: int,
        contact: Contact,
        agent: Agent,
        transferred: bool,
        resolved: bool,
        **parts: Any,
    ) -> None:
        rng = self._rng
        disposition = "transferred" if transferred else "resolved" if resolved else "follow-up"
        mood = ("NEUTRAL", "POSITIVE") if resolved else ("NEGATIVE", "NEUTRAL")
        self._record(
            contact,
            "COMPLETED",
            now_ms,
            agent,
            disposition_code=disposition,
            resolved=resolved,
            customer_sentiment=rng.choice(mood),
            knowledge_article_id=f"article-{contact.issue_id}" if rng.random() < 0.3 else None,
            recording_ref=f"recording-{contact.interaction_id}-{contact.leg}",
            **parts,
        )
        if not transferred:
            self._hand_over(now_ms, contact, agent, resolved)
        if not transferred and not resolved and rng.random() < 0.35:
            self._call_again(now_ms, contact, HOUR_MS)

    def _hand_over(self, now_ms: int, contact: Contact, agent: Agent, resolved: bool) -> None:
        self.handled.append(
            Handled(
                interaction_id=contact.interaction_id,
                completed_ms=now_ms,
                resolved=resolved,
                channel=contact.channel,
                queue_id=contact.queue_id,
                agent_id=agent.agent_id,
                team_id=agent.team_id,
                issue_id=contact.issue_id,
            )
        )

    def _call_again(self, now_ms: int, contact: Contact, after_ms: int) -> None:
        queue = self._queues[contact.queue_id]
        again_ms = now_ms + self._rng.randrange(after_ms, 4 * after_ms)
        # One repeat is enough for a customer: without a bound an unresolved issue feeds itself.
        if contact.is_repeat or again_ms >= self._hour(queue.closes):
            return
        again = replace(
            contact,
            interaction_id=f"{self._id_prefix}-{next(self._numbers):05d}",
            leg=1,
            direction="INBOUND",
            is_repeat=True,
        )
        self._at(again_ms, self._then(self._arrive, again))

    def _transfer(self, now_ms: int, contact: Contact, agent: Agent) -> None:
        # QUEUE is left out: a transfer by a queue's own rules is not the agent's doing.
        kind = self._rng.choice(("WARM", "WARM", "COLD", "COLD", "ESCALATION", "EXTERNAL"))
        self._record(contact, "TRANSFERRED", now_ms, agent, transfer_kind=kind)
        passed_on = replace(contact, leg=contact.leg + 1, queue_id=self._other_queue(contact))
        target = self._queues[passed_on.queue_id]
        if self._is_within(now_ms, (target.opens, target.closes)):
            self._at(now_ms, self._then(self._arrive, passed_on))

    def _other_queue(self, contact: Contact) -> str:
        others = {"billing": "technical-support", "technical-support": "billing"}
        return others.get(contact.queue_id, contact.queue_id)

    def _free(self, now_ms: int, agent: Agent) -> None:
        if now_ms >= self._hour(agent.ends):
            return
        staff = self._staff[agent.queue_ids[0]]
        for queue_id in staff.queue_ids:
            if staff.waiting[queue_id]:
                self._ring(now_ms, staff.waiting[queue_id].popleft(), agent)
                return
        staff.idle.append(agent)

    def _handle_times(self, now_ms: int, queue: Queue, agent: Agent) -> dict[str, int]:
        rng = self._rng
        held = queue.channels.keys() <= {"VOICE", "VIDEO"} and rng.random() < 0.25
        wrap_up_s = queue.after_contact_work_s
        if agent.team_id == self._problems.slow_wrap_up_team:
            wrap_up_s *= 7 if self._is_within(now_ms, _SLOW_WRAP_UP_HOURS) else 1
        return {
            "talk_ms": round(1000 * queue.talk_s * rng.lognormvariate(-0.08, 0.4)),
            "hold_ms": rng.randrange(15_000, 90_000) if held else 0,
            "hold_count": 1 if held else 0,
            "after_contact_work_ms": round(1000 * wrap_up_s * rng.lognormvariate(-0.08, 0.4)),
        }

    def _transfer_share(self, now_ms: int, contact: Contact) -> float:
        if contact.leg >= _MAX_LEGS or contact.channel in ("EMAIL", "SOCIAL"):
            return 0.0
        passed_around = contact.issue_id == self._problems.passed_around_issue
        if passed_around and self._is_within(now_ms, _SURGE_HOURS):
            return 0.8
        return 0.05

    def _is_resolved(self, contact: Contact) -> bool:
        unresolved = contact.issue_id == self._problems.unresolved_issue
        return self._rng.random() < (0.28 if unresolved else 0.84)

    def _leave_queue(self, contact: Contact) -> bool:
        waiting = self._waiting(contact)
        if contact not in waiting:
            return False
        waiting.remove(contact)
        return True

    def _waiting(self, contact: Contact) -> deque[Contact]:
        return self._staff[contact.queue_id].waiting[contact.queue_id]

    def _record(
        self,
        contact: Contact,
        event_type: str,
        event_time_ms: int,
        agent: Agent | None = None,
        **more: Any,
    ) -> None:
        number = self._steps[contact.interaction_id] = (
            self._steps.get(contact.interaction_id, 0) + 1
        )
        self.records.append(
            {
                "event_id": f"{contact.interaction_id}-{number:02d}",
                "version": 1,
                "event_time": event_time_ms,
                "event_type": event_type,
                "interaction_id": contact.interaction_id,
                "leg": contact.leg,
                "channel": contact.channel,
                "direction": contact.direction,
                "handler": "HUMAN",
                "queue_id": contact.queue_id,
                "site_id": "site-1",
                "agent_id": agent and agent.agent_id,
                "team_id": agent and agent.team_id,
                "customer_id": contact.customer_id,
                "issue_id": contact.issue_id,
                **more,
            }
        )

    def _is_within(self, now_ms: int, hours: tuple[int, int]) -> bool:
        return self._hour(hours[0]) <= now_ms < self._hour(hours[1])

    def _hour(self, hour: int) -> int:
        return self._midnight_ms + hour * HOUR_MS

    def _at(self, when_ms: int, happen: Callable[[int], None]) -> None:
        heapq.heappush(self._agenda, (when_ms, next(self._order), happen))

    @staticmethod
    def _then(method: Callable[..., None], *arguments: Any) -> Callable[[int], None]:
        return lambda now_ms: method(now_ms, *arguments)


def _poisson(rng: Random, mean: float) -> int:
    """Draw from a Poisson distribution by counting exponential gaps; for means up to hundreds."""
    gaps, total = -1, 0.0
    while total < mean:
        total -= math.log(1.0 - rng.random())
        gaps += 1
    return gaps
