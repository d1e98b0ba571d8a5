"""A schema registry of one process: the part of Confluent's interface that clients use."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import NAMESPACE_OID, uuid5

from aiohttp import web
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse


@dataclass
class StubRegistry:
    """Schemas by id, from 1 in order of registration, and the ids of each subject.

    A new version must be able to read every older one of its subject, or is refused with 409.
    """

    url: str = ""
    schemas: dict[int, str] = field(default_factory=dict)
    subjects: dict[str, list[int]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    broken: bool = False

    def guid(self, schema_id: int) -> str:
        """Return the guid that the registry gave the schema."""
        return str(uuid5(NAMESPACE_OID, self.schemas[schema_id]))

    def register(self, subject: str, schema: str) -> int:
        """Return the id of the schema, which becomes the subject's newest version."""
        known = {text: schema_id for schema_id, text in self.schemas.items()}
        schema_id = known.get(schema, len(self.schemas) + 1)
        self.schemas[schema_id] = schema
        versions = self.subjects.setdefault(subject, [])
        if schema_id not in versions:
            versions.append(schema_id)
        return schema_id

    def is_compatible(self, subject: str, schema: str) -> bool:
        """Whether the schema reads what every version of the subject wrote."""
        checker = ReaderWriterCompatibilityChecker()
        return all(
            checker.get_compatibility(parse(schema), parse(self.schemas[old])).compatibility
            == SchemaCompatibilityType.compatible
            for old in self.subjects.get(subject, [])
        )

    async def _register(self, request: web.Request) -> web.Response:
        subject, schema = request.match_info["subject"], (await request.json())["schema"]
        if not self.is_compatible(subject, schema):
            return _error(409, "incompatible with an earlier schema")
        return web.json_response({"id": self.register(subject, schema)})

    async def _look_up(self, request: web.Request) -> web.Response:
        subject, schema = request.match_info["subject"], (await request.json())["schema"]
        for version, schema_id in enumerate(self.subjects.get(subject, []), 1):
            if json.loads(self.schemas[schema_id]) == json.loads(schema):
                return web.json_response(
                    {
                        "subject": subject,
                        "version": version,
                        "id": schema_id,
                        "guid": self.guid(schema_id),
                        "schema": self.schemas[schema_id],
                    }
                )
        return _error(40403, "schema not found", 404)

    async def _by_id(self, request: web.Request) -> web.Response:
        schema = self.schemas.get(int(request.match_info["id"]))
        return web.json_response({"schema": schema}) if schema else _error(40403, "not found", 404)

    async def _by_guid(self, request: web.Request) -> web.Response:
        by_guid = {self.guid(schema_id): text for schema_id, text in self.schemas.items()}
        schema = by_guid.get(request.match_info["guid"])
        return web.json_response({"schema": schema}) if schema else _error(40403, "not found", 404)

    @web.middleware
    async def _note(self, request: web.Request, handler) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        return _error(50001, "store is down", 500) if self.broken else await handler(request)

    def app(self) -> web.Application:
        """Return the server's routes."""
        app = web.Application(middlewares=[self._note])
        app.router.add_post("/subjects/{subject}/versions", self._register)
        app.router.add_post("/subjects/{subject}", self._look_up)
        app.router.add_get("/schemas/ids/{id}", self._by_id)
        app.router.add_get("/schemas/guids/{guid}", self._by_guid)
        return app


def _error(code: int, message: str, status: int | None = None) -> web.Response:
    return web.json_response({"error_code": code, "message": message}, status=status or code)


@contextmanager
def serve() -> Iterator[StubRegistry]:
    """Run a registry in a thread, on a free port, until the block ends."""
    registry = StubRegistry()
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(registry.app())

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        registry.url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield registry
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
