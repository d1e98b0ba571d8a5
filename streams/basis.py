"""What saved state rests on: recorded beside it, and compared before anything goes on from it.

Sums follow from the fingerprint of measures, scopes and times, from the number of partitions, and
from the very topic that was read: one of the same name, made anew, has other records under the same
offsets. KPI formulas and rules may change, but only forwards: the version of what changed rises,
and a worker whose definitions were replaced in a partition does not get to work on it again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: So many sets of definitions are remembered: a worker with an older one would pass for new.
EDITIONS = 32


@dataclass(frozen=True, slots=True)
class Versioned:
    """The version that a KPI or a rule states, and the fingerprint of what it says."""

    version: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Basis:
    """What the state of one partition rests on.

    ``topic_id`` is empty where the broker tells none (before Kafka 2.8). ``editions`` are the sets
    of definitions under which the partition was processed, the newest last; ``versions`` the KPIs
    and rules of all of them, each as it was last.
    """

    definitions: str
    partitions: int
    topic_id: str
    editions: tuple[str, ...]
    versions: Mapping[str, Versioned] = field(default_factory=dict)

    def dump(self) -> bytes:
        """Return it as JSON."""
        values = asdict(self)
        values["versions"] = {
            name: [known.version, known.fingerprint] for name, known in self.versions.items()
        }
        return json.dumps(values, separators=(",", ":"), sort_keys=True).encode()

    @classmethod
    def load(cls, value: bytes) -> Basis:
        """Return what :meth:`dump` wrote."""
        values: dict[str, Any] = json.loads(value)
        values["editions"] = tuple(values["editions"])
        values["versions"] = {name: Versioned(*known) for name, known in values["versions"].items()}
        return cls(**values)

    def followed_by(self, ours: Basis) -> Basis:
        """Return what state rests on once ``ours`` goes on from it."""
        if ours.editions[-1:] == self.editions[-1:]:
            return self
        return Basis(
            ours.definitions,
            ours.partitions,
            ours.topic_id or self.topic_id,
            (*self.editions, *ours.editions)[-EDITIONS:],
            {**self.versions, **ours.versions},
        )


def misfits(saved: Basis, ours: Basis, anew: str) -> Iterator[str]:
    """Yield why ``ours`` cannot go on from state that rests on ``saved``; each says what to do.

    ``anew`` says how everything is built anew.
    """
    if saved.definitions != ours.definitions:
        yield (
            f"found state by definitions {saved.definitions}, expected {ours.definitions}: a "
            f"measure, scope, parameter or topic time has changed; undo that, or {anew}"
        )
    if saved.partitions != ours.partitions:
        yield (
            f"found state of a topic of {saved.partitions} partitions, expected "
            f"{ours.partitions}: {anew}"
        )
    if saved.topic_id and ours.topic_id and saved.topic_id != ours.topic_id:
        yield (
            f"found state of the topic with id {saved.topic_id}, expected {ours.topic_id}: the "
            f"topic was deleted and made anew; {anew}"
        )
    if ours.editions[-1] in saved.editions[:-1]:
        yield (
            f"found state by newer definitions {saved.editions[-1]}, expected our own "
            f"{ours.editions[-1]}, which they replaced: give this worker the files of the others; "
            "to go back on purpose, raise the version of each KPI and rule that you take back"
        )
        return
    yield from _unraised(saved, ours)


def _unraised(saved: Basis, ours: Basis) -> Iterator[str]:
    """Yield the KPIs and rules that say something else, under a version that has not risen."""
    for name, now in ours.versions.items():
        before = saved.versions.get(name)
        if before is None or before.fingerprint == now.fingerprint:
            continue
        if now.version <= before.version:
            yield (
                f"{name}: found version {now.version} of another content than version "
                f"{before.version}, which this state was made by; expected above "
                f"{before.version}: raise its version, or undo the change"
            )
