"""Rules: conditions over KPIs that become actions, as data, compiled and type-checked at load."""

from processors.rules.definition import (
    Evidence,
    Firing,
    GuardResult,
    ImmediateRule,
    Rule,
    RuleBook,
    RuleGroup,
    Sample,
    Suppressed,
)
from processors.rules.lifecycle import GroupState, advance
from processors.rules.load import RuleError, load_rules

__all__ = [
    "Evidence",
    "Firing",
    "GroupState",
    "GuardResult",
    "ImmediateRule",
    "Rule",
    "RuleBook",
    "RuleError",
    "RuleGroup",
    "Sample",
    "Suppressed",
    "advance",
    "load_rules",
]
