"""Schema ids: from a Confluent-compatible registry, or from the files where there is none."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Protocol
from uuid import UUID

import fastavro

from schemas.contract import load_contract
from schemas.errors import UnknownSchema

SCHEMAS_DIRECTORY = Path(__file__).parent


class SchemaRegistry(Protocol):
    """Knows the schema behind an id, and the id of what we write."""

    def schema_id(self, contract: str, topic: str) -> int:
        """Return the id under which the newest version of the contract is written to the topic."""

    def schema(self, key: int | UUID) -> str:
        """Return the Avro schema of an id or guid; raise UnknownSchema, RegistryUnavailable."""


class FileRegistry:
    """Ids that follow from the schemas alone, so that every process gives the same ones.

    An id is the first 31 bits of the SHA-256 of the schema's canonical form; a guid its first 128.
    It knows the newest and every released version below `directory`.
    """

    def __init__(self, directory: Path = SCHEMAS_DIRECTORY) -> None:
        self._directory = directory

    @cached_property
    def _schemas(self) -> Mapping[int | UUID, str]:
        known: dict[int | UUID, str] = {}
        for path in sorted(self._directory.glob("released/*/*.avsc")) + sorted(
            self._directory.glob("avro/*.avsc")
        ):
            text = path.read_text(encoding="utf-8")
            key = file_schema_id(text)
            if key in known and fingerprint(known[key]) != fingerprint(text):
                raise ValueError(f"{path}: schema id {key} is taken by another schema")
            known[key] = known[UUID(bytes=fingerprint(text)[:16])] = text
        return known

    def schema_id(self, contract: str, topic: str) -> int:
        """Return the id of the newest version; the topic does not matter here."""
        return file_schema_id(load_contract(contract, self._directory / "avro").text)

    def schema(self, key: int | UUID) -> str:
        """Return the schema of an id or guid, or raise UnknownSchema."""
        try:
            return self._schemas[key]
        except KeyError:
            raise UnknownSchema(f"schema {key}: not among the schema files") from None


def open_registry(url: str | None, *, auto_register: bool = False) -> SchemaRegistry:
    """Return the registry server at `url`, or the files where there is none."""
    if not url:
        return FileRegistry()
    # The client's HTTP library would take a fifth of a worker's start.
    from schemas.registry_server import ConfluentRegistry

    return ConfluentRegistry(url, auto_register=auto_register)


@cache
def fingerprint(schema: str) -> bytes:
    """Return the SHA-256 of the canonical form, which docs and defaults do not change."""
    canonical = fastavro.schema.to_parsing_canonical_form(json.loads(schema))
    return hashlib.sha256(canonical.encode()).digest()


def file_schema_id(schema: str) -> int:
    """Return the id of a schema in the file registry, from 1 to 2^31 - 1."""
    return int.from_bytes(fingerprint(schema)[:4], "big") & 0x7FFFFFFF or 1
