"""Schema ids: from a Confluent-compatible registry, or from the files where there is none."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import fastavro
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from schemas.contract import load_contract
from schemas.errors import RegistryUnavailable, UnknownSchema

SCHEMAS_DIRECTORY = Path(__file__).parent

_NOT_FOUND = 404


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


class ConfluentRegistry:
    """A registry server; subjects are named after the topic (`<topic>-value`).

    What we write must be registered already, unless `auto_register` allows us to do it.
    Answers are kept for the life of the process, since an id never changes its schema.
    """

    def __init__(
        self,
        url: str,
        *,
        auto_register: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._client = SchemaRegistryClient({"url": url, **(config or {})})
        self._url = url
        self._auto_register = auto_register
        self._ids: dict[tuple[str, str], int] = {}

    def schema_id(self, contract: str, topic: str) -> int:
        """Return the registered id of the newest version; raise UnknownSchema if there is none."""
        subject = f"{topic}-value"
        if (contract, subject) not in self._ids:
            schema = Schema(load_contract(contract).text, schema_type="AVRO")
            self._ids[contract, subject] = self._registered(subject, schema)
        return self._ids[contract, subject]

    def _registered(self, subject: str, schema: Schema) -> int:
        with _answers(self._url, f"{subject}: the newest version is not registered"):
            if self._auto_register:
                return int(self._client.register_schema(subject, schema))
            return int(self._client.lookup_schema(subject, schema).schema_id or 0)

    def schema(self, key: int | UUID) -> str:
        """Return the schema of an id or guid; raise UnknownSchema, RegistryUnavailable."""
        with _answers(self._url, f"schema {key}: unknown"):
            if isinstance(key, UUID):
                return str(self._client.get_schema_by_guid(str(key)).schema_str)
            return str(self._client.get_schema(key).schema_str)


@contextmanager
def _answers(url: str, not_found: str) -> Iterator[None]:
    """Turn 404 into UnknownSchema, and every other failure into RegistryUnavailable."""
    try:
        yield
    except SchemaRegistryError as problem:
        if problem.http_status_code == _NOT_FOUND:
            raise UnknownSchema(f"{not_found} at {url}") from problem
        raise RegistryUnavailable(f"{url}: {problem}") from problem
    except Exception as problem:  # the client lets errors of its HTTP library through
        raise RegistryUnavailable(f"{url}: {problem}") from problem


def open_registry(url: str | None, *, auto_register: bool = False) -> SchemaRegistry:
    """Return the registry server at `url`, or the files where there is none."""
    return ConfluentRegistry(url, auto_register=auto_register) if url else FileRegistry()


@cache
def fingerprint(schema: str) -> bytes:
    """Return the SHA-256 of the canonical form, which docs and defaults do not change."""
    canonical = fastavro.schema.to_parsing_canonical_form(json.loads(schema))
    return hashlib.sha256(canonical.encode()).digest()


def file_schema_id(schema: str) -> int:
    """Return the id of a schema in the file registry, from 1 to 2^31 - 1."""
    return int.from_bytes(fingerprint(schema)[:4], "big") & 0x7FFFFFFF or 1
