"""The permanent scenarios, as `deploy/bench/scenarios.yaml` lists them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from ruamel.yaml import YAML

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SCENARIOS_FILE = DEPLOY / "bench" / "scenarios.yaml"

#: A quick run has this fraction of the events: to see that all works, not how fast it is.
QUICK = 10

_CONTRACTS: Final = {"interaction", "survey", "evaluation"}
Positive = Annotated[int, Field(gt=0)]


class ScenarioError(Exception):
    """The scenarios cannot be used; the text says which entry and why."""

    exit_code = 2
    next_step = f"correct {SCENARIOS_FILE}"


class Scenario(BaseModel):
    """What is measured: a load, the definitions it meets, and how it arrives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    title: str
    kind: Literal["catch-up", "steady", "rebuild"]
    kpis: str
    rules: str | None = None
    per_hundred: Mapping[str, Positive]
    seed: int
    per_second: Positive = 1_000
    events: Positive
    rate: Positive | None = None
    warm_up_s: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _is_whole(self) -> "Scenario":
        if sum(self.per_hundred.values()) != 100:
            raise ValueError(f"per_hundred: {sum(self.per_hundred.values())}, expected 100 in all")
        if unknown := self.per_hundred.keys() - _CONTRACTS:
            raise ValueError(f"per_hundred: {sorted(unknown)}, expected {sorted(_CONTRACTS)}")
        if (self.rate is None) == (self.kind == "steady"):
            raise ValueError(f"rate: {self.rate}, expected one with steady and none without")
        return self

    @property
    def warm_up_events(self) -> int:
        """Events that are sent before those that are measured."""
        return (self.rate or 0) * self.warm_up_s

    @property
    def kpis_dir(self) -> Path:
        """The registry of KPIs."""
        return DEPLOY / self.kpis

    @property
    def rules_dir(self) -> Path | None:
        """The rules, None for no rule at all."""
        return None if self.rules is None else DEPLOY / self.rules

    def sized(self, events: int | None, *, quick: bool) -> "Scenario":
        """Return the scenario with as many events, or a quick one, or itself."""
        size = events or (max(1, self.events // QUICK) if quick else self.events)
        return self.model_copy(update={"events": size})


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
