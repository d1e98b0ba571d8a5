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
        self._flat = tuple(check for check in checks if check.each is None)
        self._arrays = {
            array: tuple(check for check in checks if check.each == array)
            for array in dict.fromkeys(check.each for check in checks if check.each)
        }

    @property
    def columns(self) -> Mapping[str, Sequence[str]]:
        """The columns that are asked; of those that are arrays with the fields that are."""
        flat: dict[str, Sequence[str]] = dict.fromkeys(_asked(self._flat), ())
        return flat | {array: _asked(checks) for array, checks in self._arrays.items()}

    def violations(self, frame: pl.DataFrame) -> dict[int, ContractViolation]:
        """Return the first violation of each row that has one, by row number."""
        found: dict[int, ContractViolation] = {}
        for row, field, problem in self._findings(frame):
            found.setdefault(row, ContractViolation(self._contract, field, problem))
        return found

    def _findings(self, frame: pl.DataFrame) -> Iterator[tuple[int, str, str]]:
        yield from _broken(frame, self._flat)
        for array, checks in self._arrays.items():
            elements = frame.get_column(array).explode().struct.unnest()
            broken = list(_broken(elements, checks))
            if broken:
                numbered = frame.select(pl.col(array), row=pl.int_range(pl.len()))
                rows = numbered.explode(array).get_column("row")
                yield from ((rows[element], *problem) for element, *problem in broken)


def _asked(checks: Sequence[Check]) -> list[str]:
    return sorted({n for check in checks for n in pl.sql_expr(check.check).meta.root_names()})


def _integer_checks(contract: Contract) -> Iterator[Check]:
    """Yield the range of Avro's int, which the columnar reader leaves to us."""
    for f in contract.schema["fields"]:
        if kind(without_null(f["type"])) == "int":
            within = f"{f['name']} BETWEEN -2147483648 AND 2147483647"
            yield Check(f["name"], within, "a 32-bit integer")


def _broken(frame: pl.DataFrame, checks: tuple[Check, ...]) -> Iterator[tuple[int, str, str]]:
    """Yield row, field and problem of every predicate that is false; null counts as true."""
    if not checks or not frame.height:
        return
    broken = [~pl.sql_expr(check.check) for check in checks]
    (found,) = frame.select(b.any().alias(str(i)) for i, b in enumerate(broken)).rows()
    for check, is_broken, any_broken in zip(checks, broken, found, strict=True):
        if not any_broken:
            continue
        column = check.field.rpartition(".")[2]
        rows = frame.select(is_broken.fill_null(value=False).arg_true()).to_series()
        for row, value in zip(rows, frame.get_column(column).gather(rows), strict=True):
            yield row, check.field, f"{repr(value)[:_SHOWN]}, expected {check.expected}"
