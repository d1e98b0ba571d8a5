"""The link: a TCP proxy between the workers and the broker that delays, cuts, and watches.

It reads the frames that clients send, so that something can be done in the very moment in which,
say, a commit is asked for.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Self, TypeVar

_CHUNK = 1 << 16
_T = TypeVar("_T")


class Request(IntEnum):
    """Kinds of requests, by their number in Kafka's protocol."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    JOIN_GROUP = 11
    SYNC_GROUP = 14
    INIT_PRODUCER_ID = 22
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


@dataclass(slots=True)
class Trap:
    """Does something when a request of a kind comes by, before or after it is passed on.

    `act` gets the client's port and tells whether that was the one; then the trap is spent.
    """

    request: Request
    act: Callable[[int], bool]
    after: bool
    sprung: threading.Event = field(default_factory=threading.Event)


class Link:
    """A proxy on `port` for the broker on `target_port`, both of this machine, in its own thread.

    A context: connections and thread end with it.
    """

    def __init__(self, port: int, target_port: int) -> None:
        self._port = port
        self._target_port = target_port
        self._delay_s = 0.0
        self._is_cut = False
        self._trap: Trap | None = None
        self._connections: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", self._port))
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self._call(self._drop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def delay(self, seconds: float) -> None:
        """Hold whatever comes, in either direction, for so long from now on."""
        self._delay_s = seconds

    def cut(self) -> None:
        """End all connections, and every new one at once, until `mend`; by any thread."""
        self._is_cut = True
        for connection in list(self._connections):
            self._loop.call_soon_threadsafe(connection.cancel)

    def mend(self) -> None:
        """Let connections through again."""
        self._is_cut = False

    def set_trap(
        self, request: Request, act: Callable[[int], bool], *, after: bool
    ) -> threading.Event:
        """Set the one trap, instead of any other; return what is set once it has sprung."""
        trap = Trap(request, act, after)
        self._trap = trap
        return trap.sprung

    def disarm(self) -> None:
        """Take the trap away."""
        self._trap = None

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        done: Future[_T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return done.result()

    async def _drop(self) -> None:
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        broker: asyncio.StreamWriter | None = None
        try:
            if not self._is_cut:
                answers, broker = await asyncio.open_connection("127.0.0.1", self._target_port)
                port = writer.get_extra_info("peername")[1]
                await _first_to_end(
                    self._pass_requests(reader, broker, port), self._pass_answers(answers, writer)
                )
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # either side is gone, or is to be
        finally:
            self._connections.discard(task)
            for end in (writer, broker):
                if end is not None:
                    end.transport.abort()

    async def _pass_requests(
        self, reader: asyncio.StreamReader, broker: asyncio.StreamWriter, port: int
    ) -> None:
        while True:
            size = await reader.readexactly(4)
            frame = size + await reader.readexactly(int.from_bytes(size, "big"))
            kind = int.from_bytes(frame[4:6], "big")
            await self._hold()
            self._spring(kind, port, after=False)
            broker.write(frame)
            await broker.drain()
            self._spring(kind, port, after=True)

    async def _pass_answers(
        self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while chunk := await answers.read(_CHUNK):
            await self._hold()
            writer.write(chunk)
            await writer.drain()

    async def _hold(self) -> None:
        if self._delay_s:
            await asyncio.sleep(self._delay_s)

    def _spring(self, kind: int, port: int, *, after: bool) -> None:
        trap = self._trap
        if trap is None or (trap.request, trap.after) != (kind, after):
            return
        if trap.act(port):
            self._trap = None
            trap.sprung.set()


async def _first_to_end(*ways: Coroutine[Any, Any, None]) -> None:
    """Run both ways of a connection until one ends, then end the other."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        with suppress(Exception):
            await asyncio.gather(*tasks, return_exceptions=True)
