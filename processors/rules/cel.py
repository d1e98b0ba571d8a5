"""Conditions of rules: CEL over a scope's KPIs, compiled and type-checked at load.

Every variable is a double, n too, and CEL does not convert: a threshold is written ``60.0``.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from cel_expr_python import cel

from processors.kpis import Kpi
from processors.kpis.expressions import suggest
from processors.rules.figures import Figures, Part, Variable, variables_of

_TOKEN: Final = re.compile(
    r"\s+|(?P<text>\"[^\"]*\"|'[^']*')|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<sign>&&|\|\||[<>=!]=|.)",
    re.DOTALL,
)
_FAULT: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_UNKNOWN: Final = re.compile(r"undeclared reference to '([^']*)'")
_NESTING: Final = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}
_LOGIC: Final = frozenset({"&&", "||", "?"})
_MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}

Tokens = Sequence[str]


class ConditionError(ValueError):
    """A condition cannot be used over a scope's KPIs; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """``variable comparator threshold``, found in a condition."""

    variable: Variable
    comparator: str
    threshold: float

    def mask(self, figures: Figures) -> npt.NDArray[np.bool_]:
        """Return for which keys it is true, NaN being treated as CEL does."""
        return np.asarray(_COMPARE[self.comparator](figures.column(self.variable), self.threshold))


_COMPARE: Final = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled condition.

    ``comparisons`` are the simple ones anywhere in it, for evidence; ``required`` are those that
    must be true for the whole to be true, so that most keys are decided without CEL; all of them
    where ``is_decided`` says that there is nothing else in it.
    """

    text: str
    variables: tuple[Variable, ...]
    comparisons: tuple[Comparison, ...]
    required: tuple[Comparison, ...]
    is_decided: bool
    program: Any = field(compare=False, repr=False)

    @property
    def kpis(self) -> tuple[int, ...]:
        """Positions of the KPIs it names, in the order of the text."""
        return tuple(dict.fromkeys(v.kpi for v in self.variables))

    @property
    def needed(self) -> tuple[int, ...]:
        """Positions of the KPIs that must have a value: those named by more than n or target."""
        parts = {Part.VALUE, Part.LOWER, Part.UPPER}
        return tuple(dict.fromkeys(v.kpi for v in self.variables if v.part in parts))

    def holds(self, figures: Figures, row: int) -> bool:
        """Return whether it is true for one key; a KPI without value or a CEL error is no truth."""
        if np.isnan(figures.values[row, list(self.needed)]).any():
            return False
        return self.program.eval(data=figures.numbers(row, self.variables)).value() is True

    def mask(self, figures: Figures) -> npt.NDArray[np.bool_]:
        """Return for which keys it is true."""
        result = figures.known(self.needed)
        for comparison in self.required:
            result &= comparison.mask(figures)
        for row in () if self.is_decided else np.flatnonzero(result):
            result[row] = self.holds(figures, int(row))
        return result


class Vocabulary:
    """The variables of one scope, and the compiler of conditions over them."""

    def __init__(self, kpis: Sequence[Kpi]) -> None:
        self._kpis = kpis
        self.variables = variables_of(kpis)
        self._environment = cel.NewEnv(variables=dict.fromkeys(self.variables, cel.Type.DOUBLE))

    def compile(self, text: str) -> Condition:
        """Return the condition; raises ConditionError with line:column of each fault."""
        program = self._program(text)
        if program.return_type() != cel.Type.BOOL:
            found = program.return_type().name().lower()
            raise ConditionError(f"found a value of type {found}, expected a condition")
        tokens = _tokens(text)
        named = dict.fromkeys(t for t in tokens if t in self.variables)
        if not named:
            raise ConditionError("found no KPI, expected a condition over at least one")
        conjuncts = list(_conjuncts(tokens))
        required = tuple(self._comparisons(conjuncts))
        return Condition(
            text=text,
            variables=tuple(self.variables[name] for name in named),
            comparisons=tuple(self._comparisons(_leaves(tokens))),
            required=required,
            is_decided=0 < len(required) == len(conjuncts),
            program=program,
        )

    def _program(self, text: str) -> Any:
        try:
            return self._environment.compile(text)
        except RuntimeError as error:
            faults = _FAULT.findall(str(error))
            words = [f"{line}:{column}: {self._words(w)}" for line, column, w in faults]
            raise ConditionError("; ".join(words) or str(error).splitlines()[0]) from error

    def _words(self, fault: str) -> str:
        unknown = _UNKNOWN.match(fault)
        if unknown:
            name = unknown[1]
            return f"unknown name {name}" + suggest(name, sorted(self.variables))
        if "no matching overload" in fault and "int" in fault:
            return f"{fault}; numbers are doubles, write 60.0 for 60"
        return fault

    def _comparisons(self, parts: Iterable[Tokens]) -> Iterator[Comparison]:
        for tokens in parts:
            comparison = self._comparison(tokens)
            if comparison is not None:
                yield comparison

    def _comparison(self, tokens: Tokens) -> Comparison | None:
        at = [i for i, t in enumerate(tokens) if t in _MIRRORED]
        if len(at) != 1 or not _LOGIC.isdisjoint(tokens):
            return None
        left, comparator, right = tokens[: at[0]], tokens[at[0]], tokens[at[0] + 1 :]
        if len(left) != 1 or self._is_constant(left):
            left, comparator, right = right, _MIRRORED[comparator], left
        if len(left) != 1 or left[0] not in self.variables or not self._is_constant(right):
            return None
        threshold = self._constant(right)
        if threshold is None:
            return None
        return Comparison(self.variables[left[0]], comparator, threshold)

    def _is_constant(self, tokens: Tokens) -> bool:
        names = [t for t in tokens if t[0].isalpha() or t[0] == "_"]
        return all(n in self.variables and self.variables[n].part is Part.TARGET for n in names)

    def _constant(self, tokens: Tokens) -> float | None:
        # Of targets and numbers only; CEL itself works it out, so that both read it alike.
        try:
            program = self._environment.compile(" ".join(tokens))
        except RuntimeError:
            return None
        targets = {
            name: self._kpis[v.kpi].target
            for name, v in self.variables.items()
            if v.part is Part.TARGET
        }
        value = program.eval(data=targets).value()
        return value if isinstance(value, float) else None


def _tokens(text: str) -> list[str]:
    return [m[0] for m in _TOKEN.finditer(text) if not m[0].isspace()]


def _split(tokens: Tokens, separator: str) -> list[Tokens]:
    parts: list[list[str]] = [[]]
    depth = 0
    for sign in tokens:
        depth += _NESTING.get(sign, 0)
        if sign == separator and depth == 0:
            parts.append([])
        else:
            parts[-1].append(sign)
    return list(parts)


def _bare(tokens: Tokens) -> Tokens:
    # Without brackets that hold the whole of it.
    while len(tokens) > 2 and tokens[0] == "(" and _closing(tokens) == len(tokens) - 1:
        tokens = tokens[1:-1]
    return tokens


def _closing(tokens: Tokens) -> int:
    depth = 0
    for i, sign in enumerate(tokens):
        depth += _NESTING.get(sign, 0)
        if depth == 0:
            return i
    return -1


def _conjuncts(tokens: Tokens) -> Iterator[Tokens]:
    tokens = _bare(tokens)
    is_one = len(_split(tokens, "?")) > 1 or len(_split(tokens, "||")) > 1
    parts = [tokens] if is_one else _split(tokens, "&&")
    if len(parts) == 1:
        yield tokens
        return
    for part in parts:
        yield from _conjuncts(part)


def _leaves(tokens: Tokens) -> Iterator[Tokens]:
    tokens = _bare(tokens)
    if len(_split(tokens, "?")) > 1:
        return
    for separator in ("||", "&&"):
        parts = _split(tokens, separator)
        if len(parts) > 1:
            for part in parts:
                yield from _leaves(part)
            return
    yield tokens
