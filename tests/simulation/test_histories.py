"""Whatever happens to workers, what stands in the log in the end is what one loop would count.

Histories are made of fetches, flushes, checkpoints, idle advances, compactions, deaths at every
step of a commit, aborted commits, sleepers that wake in the middle of a takeover, fetched records
that are thrown away or come twice, and workers that come and go. The engine and the recovery are
the product's own; only Kafka is played, by a log in memory.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
import structlog
from hypothesis import event, given, seed
from hypothesis import strategies as st

from processors.merge import ChainBroken
from streams.recovery import Refused
from tests.builders import INTERACTIONS, NOON_MS, least_definitions, record, small_definitions
from tests.laws import law
from tests.simulation.group import Group, Stuck
from tests.simulation.play import HOLE, KINDS, POISON, Entries, Play, Step, check
from tests.timeline import Event, Source, histories

#: Histories of the law over the least definitions, and the parts they are played in.
MANY, PARTS = 10_000, 4


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


steps = st.lists(
    st.builds(Step, st.sampled_from(KINDS), st.tuples(*[st.integers(0, 1_000)] * 5)),
    min_size=4,
    max_size=16,
)


@law(20)
@given(inputs(), steps)
def test_no_history_changes_what_is_counted_or_decided(entries, history):
    """All or nothing, one writer, decisions once, and every event accounted for."""
    play = Play(entries, Group(small_definitions()))
    play.run(history)
    check(entries, play.group, compare_actions=True)
    event(f"{min(play.group.refused, 3)} sleepers refused")
    event(f"{min(play.died_committing, 3)} died in the middle of a commit")


# -- ten thousand ---------------------------------------------------------------------------------


class Dice:
    """Numbers out of bytes, which are drawn far quicker than a tree of choices."""

    def __init__(self, data: bytes) -> None:
        self._data = iter(data)

    def roll(self, sides: int) -> int:
        """Return a number below ``sides``; 0 when the bytes are used up."""
        return next(self._data, 0) % sides


def short_history(data: bytes) -> tuple[Entries, list[Step]]:
    """Return a few calls in two partitions, and what happens to those who count them."""
    dice = Dice(data)
    history = [
        Step(KINDS[dice.roll(len(KINDS))], tuple(dice.roll(256) for _ in range(5)))
        for _ in range(2 + dice.roll(6))
    ]
    return {(INTERACTIONS, p): _calls(dice, p) for p in (0, 1)[: 1 + dice.roll(2)]}, history


def _calls(dice: Dice, partition: int) -> list[Any]:
    entries: list[Any] = []
    time = NOON_MS
    for number in range(1 + dice.roll(6)):
        chance = dice.roll(16)
        time += (dice.roll(56) - 30) * 1_000
        if chance == 0 and entries:
            entries.append(entries[dice.roll(len(entries))])
        elif chance in (1, 2):
            entries.append((POISON, HOLE)[chance - 1])
        entries.append(_call(dice, f"{partition}-{number}", time))
    return entries


def _call(dice: Dice, name: str, time: int) -> Event:
    wait = (None, 5_000, 35_000, 90_000)[dice.roll(4)]
    return record(
        INTERACTIONS,
        name,
        time,
        event_type="OFFERED" if wait is None else "ANSWERED",
        queue_wait_ms=wait,
        queue_id=("billing", "sales")[dice.roll(2)],
        agent_id=None,
        team_id=None,
    )


def play_short(data: bytes, *, out: str | None = None, without: Sequence[str] = ()) -> Group:
    """Play a short history, and hold its outcome to the properties."""
    entries, history = short_history(data)
    play = Play(entries, Group(least_definitions(), out=out))
    play.run([step for step in history if step.kind not in without])
    check(entries, play.group, compare_actions=data[-1] % 8 == 0)
    return play.group


bytes_of_a_history = st.binary(min_size=48, max_size=128)


def hold_part(part: int) -> None:
    """Play one part of the many histories."""

    @seed(part)
    @law(MANY // PARTS)
    @given(bytes_of_a_history)
    def holds(data: bytes) -> None:
        play_short(data)

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    holds()


@pytest.mark.timeout(1_200)
def test_ten_thousand_histories_hold_the_properties():
    """The same over the least definitions, many times, on two processors."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for played in [pool.submit(hold_part, part) for part in range(PARTS)]:
            played.result()


@law(100)
@given(bytes_of_a_history, st.tuples(*[st.integers(0, 255)] * 5), st.integers(0, 8))
def test_a_torn_transaction_is_seen_and_never_added_up(data, dice, place):
    """A commit that one partition of the partials lacks breaks the chain, or nothing was in it."""
    entries, history = short_history(data)
    play = Play(entries, Group(least_definitions()))
    try:
        play.run([*history[:place], Step("tear", dice), *history[place:]])
    except (ChainBroken, Refused, Stuck):
        event("seen")
    else:
        event("nothing was in it")
        check(entries, play.group, compare_actions=True)
