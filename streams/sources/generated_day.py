"""A day of a contact centre that never was: a pure function of a seed and a date."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import date, datetime
from random import Random
from typing import Final
from zoneinfo import ZoneInfo

from streams.sources.centre import (
    HOUR_MS,
    MINUTE_MS,
    QUEUES,
    ZONE,
    Planted,
    Problems,
    agents,
    planted,
    problems,
)
from streams.sources.events import SourceEvent, in_order_of_time, seeded
from streams.sources.feedback import GENERATED_PREFIX, Handled, Marks, Mood, evaluation, surveys
from streams.sources.queueing import Simulation
from streams.sources.restatements import restatements

__all__ = ["DEFAULT_DATE", "DEFAULT_SEED", "Planted", "generate_day", "planted"]

SOURCE: Final = "/andon/sources/day/generated"
DEFAULT_DATE: Final = date(2026, 9, 14)
"""A Monday that lies far enough back for every window of it to become final."""
DEFAULT_SEED: Final = 7

_BATCH_HOURS: Final = (10, 11)
_BATCH_SIZE: Final = 5


def generate_day(seed: int = DEFAULT_SEED, day: date = DEFAULT_DATE) -> list[SourceEvent]:
    """Return the events of one day in the order of their time.

    The same seed and date give the same events, whatever the process or the machine. Some surveys
    are answered on the day after; some surveys and evaluations are stated once more.
    """
    put = problems(seed)
    midnight_ms = int(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(ZONE)).timestamp())
    prefix = f"{GENERATED_PREFIX}{day:%Y%m%d}"
    rng = seeded(seed, day, "contacts")
    simulation = Simulation(QUEUES, agents(), put, midnight_ms * 1000, prefix, rng)
    events = [SourceEvent("interaction", record, SOURCE) for record in simulation.run()]
    events += _surveys(simulation.handled, put, seeded(seed, day, "surveys"))
    events += _evaluations(
        simulation.handled, put, midnight_ms * 1000, seeded(seed, day, "evaluations")
    )
    again = list(restatements(events, put, seeded(seed, day, "restatements")))
    return in_order_of_time(events + again)


def _surveys(handled: Iterable[Handled], put: Problems, rng: Random) -> list[SourceEvent]:
    praise = Mood(answers=0.9, content=1.0)
    return [
        event
        for one in handled
        for event in surveys(
            one, praise if one.agent_id == put.praised_agent else Mood(), SOURCE, rng
        )
    ]


def _evaluations(
    handled: Iterable[Handled], put: Problems, midnight_ms: int, rng: Random
) -> list[SourceEvent]:
    by_agent: dict[str, list[Handled]] = defaultdict(list)
    for one in handled:
        by_agent[str(one.agent_id)].append(one)
    events = []
    for agent_id, contacts in sorted(by_agent.items()):
        if agent_id in put.training_agents:
            events += _batch(contacts, put, midnight_ms, rng)
        elif agent_id == put.coaching_agent:
            low = Marks(low={put.coaching_question: "PERSON"})
            events += [_soon(one, low, rng) for one in contacts[1:40:3]]
        elif agent_id == put.praised_agent:
            events += [_soon(one, Marks(flawless=True), rng) for one in contacts[2:40:6]]
        else:
            events += _few(contacts, agent_id in put.failed_agents, rng)
    return events


def _few(contacts: list[Handled], fails: bool, rng: Random) -> list[SourceEvent]:
    """Return one to three evaluations of an agent, the first of them failed if he ``fails``."""
    chosen = rng.sample(contacts, min(len(contacts), rng.randint(1, 3)))
    return [
        _soon(one, Marks(failed=fails and number == 0), rng) for number, one in enumerate(chosen)
    ]


def _batch(
    contacts: list[Handled], put: Problems, midnight_ms: int, rng: Random
) -> list[SourceEvent]:
    """Return a morning's batch of one agent's first contacts, and a few more over the day."""
    low = Marks(low={put.training_question: "TRAINING"})
    first_ms, last_ms = (midnight_ms + hour * HOUR_MS for hour in _BATCH_HOURS)
    ready = [one for one in contacts if one.completed_ms < first_ms][:_BATCH_SIZE]
    batch = [evaluation(one, low, rng.randrange(first_ms, last_ms), SOURCE, rng) for one in ready]
    later = [one for one in contacts if one.completed_ms >= last_ms]
    return batch + [_soon(one, low, rng) for one in later[3:30:7]]


def _soon(handled: Handled, marks: Marks, rng: Random) -> SourceEvent:
    event_time_ms = handled.completed_ms + rng.randrange(15 * MINUTE_MS, 40 * MINUTE_MS)
    return evaluation(handled, marks, event_time_ms, SOURCE, rng)
