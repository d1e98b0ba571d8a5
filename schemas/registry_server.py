"""Schema ids from a Confluent-compatible registry."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from schemas.contract import load_contract
from schemas.errors import RegistryUnavailable, UnknownSchema

_NOT_FOUND = 404


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
