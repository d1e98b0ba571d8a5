"""Rules over ticks: inactive, pending, firing, and back, per rule and subject.

Everything is counted in ticks of event time. A tick is a function of the state and the figures; the
order in which keys are given, and a save and load of the state in between, change nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from processors.rules.definition import (
    Evidence,
    Firing,
    GuardResult,
    Key,
    Named,
    Rule,
    RuleGroup,
    Samples,
    Suppressed,
    SuppressionReason,
)
from processors.rules.evidence import quote, quote_guards
from processors.rules.figures import Figures
from processors.rules.texts import duration_text

RuleKey = tuple[str, int]
"""Id and version of a rule: a new version starts afresh."""


@dataclass(slots=True)
class Standing:
    """What is remembered of one rule and subject.

    ``episode_start_ms`` is the first tick of the run of ticks that meet the condition, None outside
    one. ``is_firing`` says that the run has lasted, ``is_done`` that its action is out. ``members``
    are the keys that meet it, ``inhibited`` those another rule has taken care of in this run.
    ``noted`` are the reasons already told for holding it back. ``few_start_ms`` is the first tick
    of a run that would count with more data, ``fired_ms`` the tick of the last action.
    """

    episode_start_ms: int | None = None
    is_firing: bool = False
    is_done: bool = False
    members: tuple[Key, ...] = ()
    inhibited: tuple[Key, ...] = ()
    noted: tuple[str, ...] = ()
    few_start_ms: int | None = None
    is_few_noted: bool = False
    fired_ms: int | None = None

    def end_episode(self) -> None:
        """Forget the run, but not when the last action was."""
        self.episode_start_ms = None
        self.is_firing = self.is_done = False
        self.members = self.inhibited = ()
        self.noted = ()

    def end_few(self) -> None:
        """Forget the run of ticks with too few data."""
        self.few_start_ms = None
        self.is_few_noted = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to remember."""
        times = (self.episode_start_ms, self.few_start_ms, self.fired_ms)
        return all(time is None for time in times)


@dataclass(slots=True)
class GroupState:
    """The standings of a group's rules; it is empty while no condition is met."""

    standings: dict[RuleKey, dict[Key, Standing]] = field(default_factory=dict)

    @property
    def is_idle(self) -> bool:
        """Whether ticks without any key may be skipped: they would end nothing, and decide nothing.

        It is so after one such tick. Cooldowns go on: they end by the time of a later tick.
        """
        standings = (s for of_rule in self.standings.values() for s in of_rule.values())
        return all(s.episode_start_ms is None and s.few_start_ms is None for s in standings)

    def dump(self) -> list[dict[str, Any]]:
        """Return the state as plain JSON values: one mapping per rule and subject, sorted."""
        return [
            {
                "rule_id": rule_id,
                "rule_version": version,
                "subject": list(subject),
                "episode_start_ms": s.episode_start_ms,
                "is_firing": s.is_firing,
                "is_done": s.is_done,
                "members": [list(key) for key in s.members],
                "inhibited": [list(key) for key in s.inhibited],
                "noted": list(s.noted),
                "few_start_ms": s.few_start_ms,
                "is_few_noted": s.is_few_noted,
                "fired_ms": s.fired_ms,
            }
            for (rule_id, version), standings in sorted(self.standings.items())
            for subject, s in sorted(standings.items())
        ]

    @classmethod
    def load(cls, rows: Sequence[Mapping[str, Any]]) -> "GroupState":
        """Return the state that :meth:`dump` gave."""
        state = cls()
        for row in rows:
            standings = state.standings.setdefault((row["rule_id"], row["rule_version"]), {})
            standings[tuple(row["subject"])] = Standing(
                episode_start_ms=row["episode_start_ms"],
                is_firing=row["is_firing"],
                is_done=row["is_done"],
                members=tuple(tuple(key) for key in row["members"]),
                inhibited=tuple(tuple(key) for key in row["inhibited"]),
                noted=tuple(row["noted"]),
                few_start_ms=row["few_start_ms"],
                is_few_noted=row["is_few_noted"],
                fired_ms=row["fired_ms"],
            )
        return state


def advance(
    group: RuleGroup,
    state: GroupState,
    tick_ms: int,
    keys: Sequence[Key],
    values: npt.NDArray[np.float64],
    n: npt.NDArray[np.int64],
    samples: Samples,
) -> list[Firing | Suppressed]:
    """Take ``state`` over one tick and return what its rules decide, by rule and then subject.

    ``values`` (NaN is null) and ``n`` are arrays [keys, kpis] in the order of the scope's KPIs,
    over the window that ends at ``tick_ms``, in epoch milliseconds. A key that is not given has no
    data. ``samples`` gives the events kept for a key and sample id.
    """
    tick = _Tick(group, tick_ms, keys, Figures(group.scope.kpis, values, n), samples)
    wanted = {(rule.id, rule.version) for rule in group.rules}
    state.standings = {k: s for k, s in state.standings.items() if k in wanted}
    outputs = []
    for rule in group.rules:
        standings = state.standings.setdefault((rule.id, rule.version), {})
        outputs += list(_RuleTick(rule, tick, state, standings).run())
    return outputs


@dataclass(slots=True)
class _Tick:
    """What the rules of a group see at one tick."""

    group: RuleGroup
    time_ms: int
    keys: Sequence[Key]
    figures: Figures
    samples: Samples
    _rows: dict[tuple[str, ...], dict[Key, list[int]]] = field(default_factory=dict)
    _subjects: dict[tuple[str, ...], list[Key]] = field(default_factory=dict)

    def subjects(self, columns: tuple[str, ...]) -> Sequence[Key]:
        """Return the value of some key columns for each row."""
        if columns == self.group.scope.key:
            return self.keys
        if columns not in self._subjects:
            at = [self.group.scope.key.index(column) for column in columns]
            parts = [[key[i] for key in self.keys] for i in at]
            self._subjects[columns] = (
                list(zip(*parts, strict=True)) if at else [()] * len(self.keys)
            )
        return self._subjects[columns]

    def rows(self, columns: tuple[str, ...]) -> dict[Key, list[int]]:
        """Return the rows of each value of some key columns, in the order of their keys."""
        if columns not in self._rows:
            found: dict[Key, list[int]] = {}
            ordered = sorted(range(len(self.keys)), key=self.keys.__getitem__)
            subjects = self.subjects(columns)
            for row in ordered:
                found.setdefault(subjects[row], []).append(row)
            self._rows[columns] = found
        return self._rows[columns]


class _RuleTick:
    """One rule at one tick."""

    def __init__(
        self, rule: Rule, tick: _Tick, state: GroupState, standings: dict[Key, Standing]
    ) -> None:
        self.rule = rule
        self.tick = tick
        self.state = state
        self.standings = standings
        met = rule.when.mask(tick.figures)
        self.met_rows: list[int] = np.flatnonzero(met).tolist()
        # One by one, Python reads its own lists faster than arrays.
        self.met: list[bool] = met.tolist()
        self.known: list[bool] = tick.figures.known(rule.when.needed).tolist()
        self.enough: list[bool] = tick.figures.enough(rule.minimum_n).tolist()

    def run(self) -> Iterator[Firing | Suppressed]:
        """Advance every subject that meets the condition or is remembered."""
        if not self.standings and not self.met_rows:
            return
        for subject, rows in sorted(self._touched().items()):
            standing = self.standings.setdefault(subject, Standing())
            yield from self._advance(subject, standing, rows)
            if standing.is_empty:
                del self.standings[subject]

    def _touched(self) -> dict[Key, list[int]]:
        subjects = self.tick.subjects(self.rule.subject)
        rows = self.tick.rows(self.rule.subject)
        touched = {*self.standings, *(subjects[row] for row in self.met_rows)}
        return {subject: rows.get(subject, []) for subject in touched}

    def _advance(
        self, subject: Key, standing: Standing, rows: list[int]
    ) -> Iterator[Firing | Suppressed]:
        self._cool(standing)
        population = sum(self.known[row] for row in rows)
        counted = [row for row in rows if self._counts(row, standing)]
        met = [row for row in rows if self.met[row]]
        is_breaching = self.rule.quorum.is_reached(len(counted), population)
        if is_breaching:
            yield from self._continue(subject, standing, counted, population)
        else:
            standing.end_episode()
        if not self.rule.quorum.is_reached(len(met), population):
            standing.end_few()
        elif not standing.is_few_noted:
            yield from self._continue_few(subject, standing, met, is_breaching)

    def _cool(self, standing: Standing) -> None:
        fired_ms = standing.fired_ms
        if fired_ms is not None and self.tick.time_ms >= fired_ms + self.rule.cooldown_ms:
            standing.fired_ms = None

    def _counts(self, row: int, standing: Standing) -> bool:
        if not self.enough[row]:
            return False
        if self.met[row]:
            return True
        # Once firing, a key leaves by the clear condition, not by the first better tick.
        clear = self.rule.clear
        return (
            clear is not None
            and standing.is_firing
            and self.tick.keys[row] in standing.members
            and self.known[row]
            and not clear.holds(self.tick.figures, row)
        )

    def _continue(
        self, subject: Key, standing: Standing, counted: list[int], population: int
    ) -> Iterator[Firing | Suppressed]:
        now_ms = self.tick.time_ms
        if standing.episode_start_ms is None:
            standing.episode_start_ms = now_ms
        standing.members = tuple(self.tick.keys[row] for row in counted)
        standing.inhibited = tuple(k for k in standing.members if self._is_inhibited(k, standing))
        if now_ms - standing.episode_start_ms >= self.rule.sustain_ms:
            standing.is_firing = True
        if standing.is_firing and not standing.is_done:
            yield from self._decide(subject, standing, counted, population)

    def _is_inhibited(self, key: Key, standing: Standing) -> bool:
        # For the rest of the episode: the end of the other rule's episode is no new problem here.
        return key in standing.inhibited or any(
            self._is_firing(rule, key)
            for rule in self.tick.group.rules
            if rule.id in self.rule.inhibited_by
        )

    def _is_firing(self, inhibitor: Rule, key: Key) -> bool:
        columns = dict(zip(self.rule.scope.key, key, strict=True))
        subject = tuple(columns[c] for c in inhibitor.subject)
        standing = self.state.standings[inhibitor.id, inhibitor.version].get(subject)
        return standing is not None and standing.is_firing

    def _decide(
        self, subject: Key, standing: Standing, counted: list[int], population: int
    ) -> Iterator[Firing | Suppressed]:
        assert standing.episode_start_ms is not None
        free = [row for row in counted if self.tick.keys[row] not in standing.inhibited]
        is_free = self.rule.quorum.is_reached(len(free), population)
        guards = quote_guards(self.rule.guards, self.tick.figures, free) if is_free else ()
        hold = self._hold(standing, guards) if is_free else self._inhibition()
        if hold is None:
            standing.is_done = True
            standing.fired_ms = self.tick.time_ms
            yield Firing(
                rule=self.rule,
                subject=self._named(subject),
                episode_start_ms=standing.episode_start_ms,
                tick_ms=self.tick.time_ms,
                population=population,
                evidence=self._evidence(free),
                guards=guards,
            )
        elif hold[1] not in standing.noted:
            standing.noted += (hold[1],)
            start_ms = standing.episode_start_ms
            yield self._suppressed(subject, start_ms, *hold, counted, guards)

    def _inhibition(self) -> tuple[SuppressionReason, str]:
        return "GUARD", f"taken care of by {' or '.join(self.rule.inhibited_by)}"

    def _hold(
        self, standing: Standing, guards: tuple[GuardResult, ...]
    ) -> tuple[SuppressionReason, str] | None:
        if standing.fired_ms is not None:
            return "COOLDOWN", f"proposed before, within {duration_text(self.rule.cooldown_ms)}"
        failed = [guard.expression for guard in guards if not guard.held]
        return ("GUARD", f"does not hold: {failed[0]}") if failed else None

    def _continue_few(
        self, subject: Key, standing: Standing, met: list[int], is_breaching: bool
    ) -> Iterator[Suppressed]:
        now_ms = self.tick.time_ms
        if standing.few_start_ms is None:
            standing.few_start_ms = now_ms
        if standing.is_firing:
            # What is left of an episode as its data leaves the window is no news.
            standing.is_few_noted = True
        elif not is_breaching and now_ms - standing.few_start_ms >= self.rule.sustain_ms:
            standing.is_few_noted = True
            free = [row for row in met if not self._is_inhibited(self.tick.keys[row], standing)]
            if free:
                yield self._too_few(subject, standing.few_start_ms, free)

    def _too_few(self, subject: Key, start_ms: int, rows: list[int]) -> Suppressed:
        kpis = self.tick.group.scope.kpis
        minima = ", ".join(f"{kpis[i].id} {n}" for i, n in self.rule.minimum_n.items())
        detail = f"fewer than the least n: {minima}"
        return self._suppressed(subject, start_ms, "TOO_FEW", detail, rows, ())

    def _suppressed(
        self,
        subject: Key,
        start_ms: int,
        reason: SuppressionReason,
        detail: str,
        rows: list[int],
        guards: tuple[GuardResult, ...],
    ) -> Suppressed:
        return Suppressed(
            rule=self.rule,
            subject=self._named(subject),
            episode_start_ms=start_ms,
            tick_ms=self.tick.time_ms,
            reason=reason,
            detail=detail,
            evidence=self._evidence(rows),
            guards=guards,
        )

    def _named(self, subject: Key) -> Named:
        return tuple(zip(self.rule.subject, subject, strict=True))

    def _evidence(self, rows: list[int]) -> tuple[Evidence, ...]:
        return quote(self.rule, self.tick.figures, self.tick.keys, rows, self.tick.samples)
