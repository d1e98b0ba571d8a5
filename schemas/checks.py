"""The predicates of a contract, asked of whole columns."""

from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from schemas.contract import Check, Contract, kind, without_null
from schemas.errors import ContractViolation

_SHOWN = 40


class Checks:
    """Finds the rows of a frame that break their contract; compiled once, used for every batch."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract.name
        checks = (*_integer_checks(contract), *contract.checks)
        self._flat = _Predicates([check for check in checks if check.each is None])
        self._arrays = {
            array: _Predicates([check for check in checks if check.each == array])
            for array in dict.fromkeys(check.each for check in checks if check.each)
        }

    @property
    def columns(self) -> Mapping[str, Sequence[str]]:
        """The columns that are asked; of those that are arrays with the fields that are."""
        flat: dict[str, Sequence[str]] = dict.fromkeys(self._flat.columns, ())
        return flat | {array: checks.columns for array, checks in self._arrays.items()}

    def violations(self, frame: pl.DataFrame) -> dict[int, ContractViolation]:
        """Return the first violation of each row that has one, by row number."""
        found: dict[int, ContractViolation] = {}
        for row, field, problem in self._findings(frame):
            found.setdefault(row, ContractViolation(self._contract, field, problem))
        return found

    def _findings(self, frame: pl.DataFrame) -> Iterator[tuple[int, str, str]]:
        yield from self._flat.broken(frame)
        for array, checks in self._arrays.items():
            elements = frame.get_column(array).explode().struct.unnest()
            broken = list(checks.broken(elements))
            if broken:
                numbered = frame.select(pl.col(array), row=pl.int_range(pl.len()))
                rows = numbered.explode(array).get_column("row")
                yield from ((rows[element], *problem) for element, *problem in broken)


def _integer_checks(contract: Contract) -> Iterator[Check]:
    """Yield the range of Avro's int, which the columnar reader leaves to us."""
    for f in contract.schema["fields"]:
        if kind(without_null(f["type"])) == "int":
            within = f"{f['name']} BETWEEN -2147483648 AND 2147483647"
            yield Check(f["name"], within, "a 32-bit integer")


class _Predicates:
    """Predicates over the same columns."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self._checks = [(check, ~pl.sql_expr(check.check)) for check in checks]
        self._any = pl.any_horizontal(is_broken for _, is_broken in self._checks).any()

    @property
    def columns(self) -> list[str]:
        """The columns that are asked."""
        return sorted({name for _, broken in self._checks for name in broken.meta.root_names()})

    def broken(self, frame: pl.DataFrame) -> Iterator[tuple[int, str, str]]:
        """Yield row, field and problem of every predicate that is false; null counts as true."""
        # Most frames break none, and one question costs less than one for each.
        if not self._checks or not frame.height or not frame.select(self._any).item():
            return
        for check, is_broken in self._checks:
            column = check.field.rpartition(".")[2]
            rows = frame.select(is_broken.fill_null(value=False).arg_true()).to_series()
            for row, value in zip(rows, frame.get_column(column).gather(rows), strict=True):
                yield row, check.field, f"{repr(value)[:_SHOWN]}, expected {check.expected}"
