"""Plain objects, as JSON lines hold them, to whole records of a contract."""

from base64 import b64decode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.contract import Contract, expanded, kind
from schemas.errors import ContractViolation

_EXPECTED: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "string": ("a string", lambda v: isinstance(v, str)),
    "int": ("a 32-bit integer", lambda v: _is_integer(v, 31)),
    "long": ("a 64-bit integer", lambda v: _is_integer(v, 63)),
    "double": ("a number", lambda v: isinstance(v, int | float) and not isinstance(v, bool)),
    "boolean": ("true or false", lambda v: isinstance(v, bool)),
    "bytes": ("bytes", lambda v: isinstance(v, bytes)),
}

_SHOWN = 40

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def whole_record(contract: Contract, value: Any) -> dict[str, Any]:
    """Return the record that a plain object stands for, every field present.

    Enums are strings, instants integers (ms) or RFC 3339 strings with an offset, bytes base64,
    absent fields take their defaults. Raise ContractViolation for an unknown, a missing or an
    ill-typed field.
    """
    return _record(contract.name, expanded(contract.schema), value, "")


def _record(contract: str, schema: Mapping[str, Any], value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ContractViolation(contract, path or "record", f"{_show(value)}, expected an object")
    names = [f["name"] for f in schema["fields"]]
    for unknown in value.keys() - set(names):
        known = ", ".join(names)
        raise ContractViolation(contract, _join(path, str(unknown)), f"unknown, expected {known}")
    return {f["name"]: _field(contract, f, value, _join(path, f["name"])) for f in schema["fields"]}


def _field(contract: str, f: Mapping[str, Any], value: Mapping[str, Any], path: str) -> Any:
    if f["name"] in value:
        return _value(contract, f["type"], value[f["name"]], path)
    if "default" not in f:
        raise ContractViolation(contract, path, "absent, expected a value")
    return f["default"]


def _value(contract: str, avro_type: Any, value: Any, path: str) -> Any:
    if isinstance(avro_type, list):
        if value is None:
            return None
        (avro_type,) = (branch for branch in avro_type if branch != "null")
    name = kind(avro_type)
    if name == "record":
        return _record(contract, avro_type, value, path)
    if name == "array":
        if not isinstance(value, list | tuple):
            raise ContractViolation(contract, path, f"{_show(value)}, expected a list")
        return [
            _value(contract, avro_type["items"], v, f"{path}[{i}]") for i, v in enumerate(value)
        ]
    if name == "enum":
        if value not in avro_type["symbols"]:
            problem = f"{_show(value)}, expected one of {', '.join(avro_type['symbols'])}"
            raise ContractViolation(contract, path, problem)
        return value
    if isinstance(value, str) and name in _FROM_TEXT and avro_type != "long":
        return _FROM_TEXT[name](contract, value, path)
    expected, fits = _EXPECTED[name]
    if not fits(value):
        raise ContractViolation(contract, path, f"{_show(value)}, expected {expected}")
    return float(value) if name == "double" else value


def _instant(contract: str, value: str, path: str) -> int:
    expected = "milliseconds since 1970 or RFC 3339 with an offset"
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        raise ContractViolation(contract, path, f"{_show(value)}, expected {expected}") from None
    if instant.tzinfo is None:
        raise ContractViolation(contract, path, f"{_show(value)}, expected {expected}")
    return (instant - _EPOCH) // timedelta(milliseconds=1)


def _bytes(contract: str, value: str, path: str) -> bytes:
    try:
        return b64decode(value, validate=True)
    except ValueError:
        raise ContractViolation(contract, path, f"{_show(value)}, expected base64") from None


_FROM_TEXT = {"long": _instant, "bytes": _bytes}


def _is_integer(value: Any, bits: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**bits) <= value < 2**bits


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _show(value: Any) -> str:
    return repr(value)[:_SHOWN]
