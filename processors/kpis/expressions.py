"""SQL expressions over a source's columns, compiled with Polars and checked before any event.

Only what Polars and DuckDB compute alike is let in: operators, CASE and the functions below.
"""

import difflib
import re
from typing import Final

import polars as pl

# fmt: off
FUNCTIONS: Final = frozenset((
    "ABS", "CAST", "CEIL", "COALESCE", "FLOOR", "GREATEST", "LEAST", "LOWER", "NULLIF",
    "STARTS_WITH", "UPPER",
))
_WORDS: Final = frozenset((
    "AND", "BETWEEN", "CASE", "ELSE", "IN", "IS", "LIKE", "NOT", "OR", "THEN", "WHEN",
))
# fmt: on
_QUOTED: Final = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"")
_CALL: Final = re.compile(r"\b([A-Za-z_]\w*)\s*\(")


class ExpressionError(ValueError):
    """An expression cannot be used over these columns; the message says what was found."""


def compile_condition(sql: str, schema: pl.Schema) -> pl.Expr:
    """Return the compiled condition: Boolean without nulls, null counts as false.

    Raises ExpressionError if it is no condition over the columns of ``schema``.
    """
    expression, dtype = compile_expression(sql, schema)
    if dtype != pl.Boolean:
        raise ExpressionError(f"found a value of type {dtype}, expected a condition")
    return expression.fill_null(value=False)


def compile_sum(sql: str, schema: pl.Schema, precision: float | None) -> pl.Expr:
    """Return Int64 without nulls: true is 1, null 0, a double whole multiples of ``precision``.

    Raises ExpressionError if the value is none of these, or a double comes without a precision.
    """
    expression, dtype = compile_expression(sql, schema)
    if dtype.is_float() or dtype.is_decimal():
        if precision is None:
            raise ExpressionError(f"found a value of type {dtype}, expected a precision with it")
        units = expression.cast(pl.Float64) * round(1 / precision)
        expression = units.round(0, mode="half_away_from_zero")
    elif not (dtype.is_integer() or dtype == pl.Boolean):
        raise ExpressionError(f"found a value of type {dtype}, expected a condition or a number")
    elif precision is not None:
        raise ExpressionError(f"found a precision on a value of type {dtype}, expected a double")
    # Not strict: NaN and infinity have no integer, and one such event must not stop a worker.
    return expression.cast(pl.Int64, strict=False).fill_null(0)


def compile_duration(sql: str, schema: pl.Schema) -> pl.Expr:
    """Return Int64 milliseconds or null; raises ExpressionError if the value is no integer."""
    expression, dtype = compile_expression(sql, schema)
    if not dtype.is_integer():
        raise ExpressionError(f"found a value of type {dtype}, expected whole milliseconds")
    return expression.cast(pl.Int64)


def compile_expression(sql: str, schema: pl.Schema) -> tuple[pl.Expr, pl.DataType]:
    """Return the compiled expression and its type over ``schema``.

    Raises ExpressionError for what is no SQL expression, names an unknown column or function,
    names no column at all, or does not fit the columns' types.
    """
    check_calls(sql)
    try:
        # In brackets an alias or a second expression is a syntax error.
        expression = pl.sql_expr(f"({sql}\n)")
        names = expression.meta.root_names()
    except pl.exceptions.PolarsError as error:
        raise ExpressionError(
            f"found {sql!r}, expected an SQL expression ({_first(error)})"
        ) from error
    _check_columns(names, schema)
    try:
        result = pl.DataFrame(schema=schema).select(expression)
    except pl.exceptions.PolarsError as error:
        raise ExpressionError(f"found {sql!r}, whose types do not fit: {_first(error)}") from error
    return expression, result.dtypes[0]


def check_calls(sql: str) -> None:
    """Raise ExpressionError for a function that is not in FUNCTIONS, aggregates among them."""
    for name in _CALL.findall(_QUOTED.sub("''", sql)):
        if name.upper() not in FUNCTIONS | _WORDS:
            raise ExpressionError(
                f"found function {name}, expected one of {', '.join(sorted(FUNCTIONS))}"
            )


def suggest(name: str, known: list[str]) -> str:
    """Return "; did you mean X?" for the closest of ``known``, or nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _check_columns(names: list[str], schema: pl.Schema) -> None:
    if not names:
        raise ExpressionError("found no column, expected one (event_id IS NOT NULL counts all)")
    for name in names:
        if name not in schema:
            raise ExpressionError(f"found unknown column {name}{suggest(name, list(schema))}")


def _first(error: Exception) -> str:
    return str(error).splitlines()[0]
