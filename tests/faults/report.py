"""What a run has shown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Recovery:
    """One fault, how it went, and how long it took until everything was fresh again."""

    fault: str
    after_events: int
    how: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """The account of a run; it has passed if there are no differences."""

    seed: int
    sent: Mapping[str, int]
    recoveries: Sequence[Recovery]
    kills: int
    restarts: int
    ends: Mapping[str, int]
    account: Mapping[str, int]
    kpi_records: int
    actions: int
    differences: Sequence[str]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    def plain(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {"ok": self.ok, **asdict(self)}

    def lines(self) -> Iterator[str]:
        """Yield the report for people."""
        yield f"seed {self.seed}"
        yield f"events sent: {sum(self.sent.values()):,}"
        yield from (f"  {count:>9,} {kind}" for kind, count in self.sent.items())
        yield "faults, and seconds until everything was fresh again (min, median, max):"
        for fault in sorted({each.fault for each in self.recoveries}):
            took = [each.seconds for each in self.recoveries if each.fault == fault]
            figures = "  ".join(f"{s:5.1f}" for s in (min(took), median(took), max(took)))
            yield f"  {len(took):>4} {fault:<36} {figures}"
        yield f"workers killed: {self.kills}; ended by themselves, started again: {self.restarts}"
        yield from (f"  {count:>4} {reason}" for reason, count in self.ends.items())
        account = ", ".join(f"{count:,} {name}" for name, count in self.account.items())
        yield f"account: {account}"
        yield f"compared: {self.kpi_records:,} KPI records, {self.actions} actions, Redis"
        yield from (f"  {each}" for each in self.differences)
        yield f"differences: {len(self.differences)}"
        yield f"duration: {self.seconds:.0f} s"
