"""The permanent scenarios, as `deploy/bench/scenarios.yaml` lists them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from ruamel.yaml import YAML

from streams.bench.load import AGENTS, QUEUES, Stretch, Variant

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SCENARIOS_FILE = DEPLOY / "bench" / "scenarios.yaml"

#: A quick run has this fraction of the events: to see that all works, not how fast it is.
QUICK = 10

_CONTRACTS: Final = {"interaction", "survey", "evaluation"}
_AT_A_RATE: Final = {"steady", "endurance", "recovery"}
Positive = Annotated[int, Field(gt=0)]
Kind = Literal["catch-up", "at-once", "steady", "rebuild", "burst", "recovery", "endurance"]
Suite = Literal["standard", "scale", "recovery", "long"]


class ScenarioError(Exception):
    """The scenarios cannot be used; the text says which entry and why."""

    exit_code = 2
    next_step = f"correct {SCENARIOS_FILE}"


class Phase(BaseModel):
    """A stretch of a burst: so many events a second, of wall clock and event time, for so long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    rate: Positive
    seconds: Positive

    @property
    def events(self) -> int:
        """How many events are sent in it."""
        return self.rate * self.seconds


class Curve(BaseModel):
    """Which curve a scenario is a point of: what is varied, and how much of it there is here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    axis: str
    at: str


class Scenario(BaseModel):
    """What is measured: a load, the definitions it meets, and how it arrives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    title: str
    kind: Kind
    suite: Suite = "standard"
    kpis: str
    rules: str | None = None
    extra_rules: str | None = None
    per_hundred: Mapping[str, Positive]
    seed: int
    per_second: Positive = 1_000
    events: Positive
    rate: Positive | None = None
    warm_up_s: Annotated[int, Field(ge=0)] = 0
    phases: tuple[Phase, ...] = ()
    whole: bool = False
    queues: Positive = QUEUES
    agents: Positive = AGENTS
    failed_in: Annotated[int, Field(ge=0)] = 0
    partitions: Positive | None = None
    workers: Positive = 1
    windows: str | None = None
    kills: Positive = 3
    settle_min: Annotated[int, Field(ge=0)] = 0
    judged_one_in: Positive = 1
    curve: Curve | None = None

    @model_validator(mode="before")
    @classmethod
    def _phases_say_how_many(cls, entry: Any) -> Any:
        if isinstance(entry, dict) and "phases" in entry and "events" not in entry:
            phases = TypeAdapter(tuple[Phase, ...]).validate_python(entry["phases"])
            return {**entry, "events": sum(phase.events for phase in phases)}
        return entry

    @model_validator(mode="after")
    def _is_whole(self) -> "Scenario":
        if sum(self.per_hundred.values()) != 100:
            raise ValueError(f"per_hundred: {sum(self.per_hundred.values())}, expected 100 in all")
        if unknown := self.per_hundred.keys() - _CONTRACTS:
            raise ValueError(f"per_hundred: {sorted(unknown)}, expected {sorted(_CONTRACTS)}")
        if (self.rate is None) == (self.kind in _AT_A_RATE):
            raise ValueError(
                f"rate: {self.rate}, expected one with steady, endurance and recovery, none without"
            )
        if bool(self.phases) != (self.kind == "burst"):
            raise ValueError(f"phases: {len(self.phases)}, expected some with burst, none without")
        return self

    @property
    def warm_up_events(self) -> int:
        """Events that are sent before those that are measured."""
        return (self.rate or 0) * self.warm_up_s

    @property
    def variant(self) -> Variant:
        """In what the load differs from the usual one."""
        if self.kind == "recovery" and self.rate is not None:
            stretches: tuple[Stretch, ...] = (
                Stretch(self.events, self.per_second),
                Stretch(self.events, self.rate),
            )
        else:
            stretches = tuple(Stretch(phase.events, phase.rate) for phase in self.phases)
        return Variant(self.queues, self.agents, self.failed_in, stretches)

    @property
    def kpis_dir(self) -> Path:
        """The registry of KPIs."""
        return DEPLOY / self.kpis

    @property
    def extra_rules_dir(self) -> Path | None:
        """Rules beside those, None for no others."""
        return None if self.extra_rules is None else DEPLOY / self.extra_rules

    @property
    def rules_dir(self) -> Path | None:
        """The rules, None for no rule at all."""
        return None if self.rules is None else DEPLOY / self.rules

    def lasting(self, hours: float) -> "Scenario":
        """Return the scenario with so many hours of events at its rate."""
        return self.sized(max(1, int(hours * 3_600 * (self.rate or 0))), quick=False)

    def sized(self, events: int | None, *, quick: bool) -> "Scenario":
        """Return the scenario with as many events, or a quick one, or itself."""
        size = events or (max(1, self.events // QUICK) if quick else self.events)
        if not self.phases:
            return self.model_copy(update={"events": size})
        phases = tuple(
            phase.model_copy(update={"seconds": max(1, phase.seconds * size // self.events)})
            for phase in self.phases
        )
        return self.model_copy(
            update={"phases": phases, "events": sum(phase.events for phase in phases)}
        )


def load_scenarios(file: Path = SCENARIOS_FILE) -> dict[str, Scenario]:
    """Return the scenarios by id, in the order of the file; raise ScenarioError."""
    try:
        entries = YAML(typ="safe").load(file)
        found = TypeAdapter(list[Scenario]).validate_python(entries)
    except (OSError, ValidationError) as problem:
        raise ScenarioError(f"{file.name}: {problem}") from problem
    scenarios = {scenario.id: scenario for scenario in found}
    if len(scenarios) != len(found):
        raise ScenarioError(f"{file.name}: an id occurs twice, expected each once")
    return scenarios
