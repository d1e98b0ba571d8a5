"""What the judge found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from streams.verify.ledger import Account


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where what was published is not what the input implies.

    ``final`` is false where it may still change: such a difference is a fault only once all input
    was processed and published. ``window`` is kind, size and start, or empty; ``key`` the values
    joined with commas.
    """

    scope: str
    key: str
    window: str
    what: str
    found: str
    expected: str
    final: bool = True


@dataclass(frozen=True, slots=True)
class Findings:
    """The differences of one comparison: how many, and the first of them."""

    final: int
    provisional: int
    first: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """The KPI records of one scope and window kind: how many there are, how many differ."""

    scope: str
    window: str
    records: int
    final_records: int
    final_kpis: int
    differing: int
    provisional_differing: int


@dataclass(frozen=True, slots=True)
class Lag:
    """Records of a partition that were there and not yet processed."""

    topic: str
    partition: int
    records: int


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict: accounts, comparisons, differences and what could not be judged.

    ``differences`` holds the first ones of each kind, ``difference_count`` counts all of them;
    ``provisional`` and ``provisional_count`` likewise for what may still change.
    """

    accounts: tuple[Account, ...]
    compared: tuple[Compared, ...]
    actions: int
    episodes: int
    differences: tuple[Difference, ...]
    difference_count: int
    provisional: tuple[Difference, ...]
    provisional_count: int
    lags: tuple[Lag, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing final differs and every account balances."""
        return not self.difference_count and all(each.balances for each in self.accounts)

    @property
    def complete(self) -> bool:
        """Whether what may still change agrees as well."""
        return self.ok and not self.provisional_count

    @property
    def records(self) -> int:
        """KPI records compared."""
        return sum(each.records for each in self.compared)

    @property
    def final_records(self) -> int:
        """KPI records compared all of whose KPIs must be final."""
        return sum(each.final_records for each in self.compared)

    @property
    def final_kpis(self) -> int:
        """Final KPI values compared."""
        return sum(each.final_kpis for each in self.compared)

    def account(self) -> dict[str, int]:
        """Return the account of all input partitions together, by outcome."""
        names = ("consumed", "applied", "duplicates", "expired", "dead_lettered")
        return {name: sum(getattr(each, name) for each in self.accounts) for name in names}

    def plain(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        totals = {
            "records": self.records,
            "final_records": self.final_records,
            "final_kpis": self.final_kpis,
        }
        return {"ok": self.ok, "complete": self.complete, **totals, **asdict(self)}
