"""`andon stack`: the local Kafka and Valkey."""

import dataclasses
import json

import typer
from rich.console import Console
from rich.table import Table

from deploy.local.stack import ServerStatus, Stack
from streams.cli.common import Format, FormatOption, say
from streams.settings import load_settings

app = typer.Typer(
    no_args_is_help=True,
    help="Start, stop and show the local Kafka and Valkey.",
    epilog="Example: andon stack up && andon stack status --format json",
)


@app.command()
def up() -> None:
    """Start a real Kafka and a real Valkey, unless they run.

    Their files lie under ANDON_STATE_DIR; the first start fetches Kafka. With
    ANDON_KAFKA_BOOTSTRAP_SERVERS or ANDON_REDIS_URL set, that server is used and none is started.

    Example: andon stack up
    """
    settings = load_settings()
    stack = Stack.of(settings, tell=say)
    stack.up()
    _table(stack.status())
    say(f"files and logs: {settings.state_dir}; stop with `andon stack down`")


@app.command()
def down() -> None:
    """Stop what `andon stack up` has started; topics and data stay for the next start.

    Example: andon stack down
    """
    stopped = Stack.of(load_settings()).down()
    say(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@app.command()
def status(output: FormatOption = Format.TABLE) -> None:
    """Show what runs, where, and whether it answers; exit 1 unless both do.

    Example: andon stack status --format json
    """
    servers = Stack.of(load_settings()).status()
    if output is Format.TABLE:
        _table(servers)
    else:
        for server in servers:
            typer.echo(json.dumps(dataclasses.asdict(server), default=str))
    if any(server.state != "running" for server in servers):
        raise typer.Exit(1)


def _table(servers: list[ServerStatus]) -> None:
    table = Table("server", "state", "address", "pid", box=None)
    for server in servers:
        pid = "from the settings" if server.own else str(server.pid or "")
        table.add_row(server.name, server.state, server.address or "", pid)
    Console().print(table)
