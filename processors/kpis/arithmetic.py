"""The arithmetic of KPIs: measures times whole numbers, added up, so that integers stay exact."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_ALLOWED: Final = "measures, whole numbers, + - * and brackets"


@dataclass(frozen=True, slots=True)
class Linear:
    """``constant`` plus the sum of coefficient x measure; ``terms`` are sorted by measure."""

    text: str
    terms: tuple[tuple[str, int], ...]
    constant: int = 0

    @property
    def measures(self) -> frozenset[str]:
        """The ids of the measures it names."""
        return frozenset(name for name, _ in self.terms)


def parse_linear(text: str) -> Linear:
    """Return the linear form that ``text`` says; raises ValueError for other arithmetic.

    >>> parse_linear("2 * (offered - short)").terms
    (('offered', 2), ('short', -2))
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"found {text!r}, expected {_ALLOWED}") from error
    coefficients = dict(_coefficients(tree, text))
    constant = coefficients.pop("", 0)
    # A measure that cancels out is still one that the KPI names, and needs.
    return Linear(text, tuple(sorted(coefficients.items())), constant)


def _coefficients(node: ast.expr, text: str) -> Mapping[str, int]:
    # The constant goes under the name "".
    match node:
        case ast.Name(id=name):
            return {name: 1}
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            return {"": number}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _scaled(_coefficients(operand, text), -1)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as sign, right=right):
            factor = 1 if isinstance(sign, ast.Add) else -1
            return _added(_coefficients(left, text), _scaled(_coefficients(right, text), factor))
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _multiplied(_coefficients(left, text), _coefficients(right, text), text)
    raise ValueError(f"found {ast.unparse(node)!r} in {text!r}, expected {_ALLOWED}")


def _added(left: Mapping[str, int], right: Mapping[str, int]) -> Mapping[str, int]:
    names = dict.fromkeys((*left, *right))
    return {name: left.get(name, 0) + right.get(name, 0) for name in names}


def _scaled(coefficients: Mapping[str, int], factor: int) -> Mapping[str, int]:
    return {name: factor * coefficient for name, coefficient in coefficients.items()}


def _multiplied(left: Mapping[str, int], right: Mapping[str, int], text: str) -> Mapping[str, int]:
    if left.keys() <= {""}:
        return _scaled(right, left[""])
    if right.keys() <= {""}:
        return _scaled(left, right[""])
    raise ValueError(f"found two measures multiplied in {text!r}, expected {_ALLOWED}")
