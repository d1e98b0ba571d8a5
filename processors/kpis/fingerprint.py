import hashlib
import json
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from typing import Any


def fingerprint(*definitions: object) -> str:
    """Return the SHA-256, as hex, of definitions (dataclasses, mappings, sequences, scalars).

    Fields that do not take part in comparison (compiled expressions) do not take part here.
    """
    text = json.dumps(_canonical(definitions), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _canonical(getattr(value, f.name)) for f in fields(value) if f.compare}
    match value:
        case Mapping():
            return {key: _canonical(item) for key, item in value.items()}
        case Set():
            return sorted(value)
        case tuple() | list():
            return [_canonical(item) for item in value]
        case _:
            return value
