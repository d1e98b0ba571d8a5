"""The plan of faults: what is done, after how many events, and in which moment; from the seed."""

from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle
from typing import Final

from streams.sources.events import seeded


class Fault(StrEnum):
    """What can be done to a running system, as the report calls it."""

    KILL = "worker killed"
    ZOMBIE = "worker asleep beyond its session"
    BROKER_KILL = "broker killed"
    COORDINATOR_KILL = "broker killed in a commit"
    BROKER_PAUSE = "broker paused"
    SLOW_LINK = "slow link"
    CUT_LINK = "link cut"
    JOIN = "worker added"
    LEAVE = "worker removed"
    COMPACTION = "all killed, changelogs compacted"
    REDIS_KILL = "Valkey killed, back empty"


class Moment(StrEnum):
    """When exactly something is killed: in any moment, or as a request goes by on the link.

    Held is before the broker has the request, sent is when it has it and nobody hears the answer.
    """

    ANY = "at any moment"
    PRODUCING = "producing"
    OFFSETS = "offsets held"
    COMMIT_HELD = "commit held"
    COMMIT_SENT = "commit sent"
    JOINING = "joining the group"
    SYNCING = "assigned its partitions"
    RECOVERING = "in recovery"


_KILLED_AT: Final = (
    Moment.ANY, Moment.COMMIT_SENT, Moment.PRODUCING, Moment.OFFSETS, Moment.COMMIT_HELD,
)  # fmt: skip
_IN_COMMIT: Final = (Fault.COORDINATOR_KILL, Fault.CUT_LINK)
_AGAIN_AT: Final = (Moment.RECOVERING, Moment.JOINING, Moment.SYNCING)

# Nothing is done in the first events and the last, so that there is a before and an after.
_CALM: Final = (0.05, 0.10)


@dataclass(frozen=True, slots=True)
class Step:
    """One fault, due when so many events are processed; ``again`` is when a second worker dies.

    ``share`` in [0, 1) is for whatever else there is to choose: victims, lengths of outages.
    """

    after_events: int
    fault: Fault
    moment: Moment
    again: Moment | None
    share: float


def plan(seed: int, events: int, kills: int) -> list[Step]:
    """Return the steps of a run: so many workers killed at least, and every other fault too.

    Every third kill is a double one. There is one of each other fault for 16 kills, at least one.
    """
    rng = seeded(seed, "faults")
    killed_at, again_at = cycle(_KILLED_AT), cycle(_AGAIN_AT)
    chosen: list[tuple[Fault, Moment, Moment | None]] = []
    done = 0
    while done < kills:
        again = next(again_at) if len(chosen) % 3 == 1 else None
        chosen.append((Fault.KILL, next(killed_at), again))
        done += 1 if again is None else 2
    others = [fault for fault in Fault if fault is not Fault.KILL]
    in_commit = cycle((Moment.COMMIT_SENT, Moment.COMMIT_HELD, Moment.PRODUCING))
    chosen += [
        (fault, next(in_commit) if fault in _IN_COMMIT else Moment.ANY, None)
        for fault in others * max(1, round(kills / 16))
    ]
    rng.shuffle(chosen)
    _alternate(chosen)
    first, last = round(events * _CALM[0]), round(events * (1 - _CALM[1]))
    stretch = (last - first) / len(chosen)
    return [
        Step(round(first + stretch * (n + rng.random() * 0.5)), *each, rng.random())
        for n, each in enumerate(chosen)
    ]


def _alternate(chosen: list[tuple[Fault, Moment, Moment | None]]) -> None:
    """Let a worker join before one leaves, and so on, wherever the two have come to lie."""
    turns = cycle((Fault.JOIN, Fault.LEAVE))
    for place, (fault, moment, again) in enumerate(chosen):
        if fault in (Fault.JOIN, Fault.LEAVE):
            chosen[place] = (next(turns), moment, again)
