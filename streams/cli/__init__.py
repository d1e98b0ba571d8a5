"""The command `andon`: a table of commands, each imported only when it is run."""

import signal
import sys
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class Command(NamedTuple):
    """Where a command is written (`module:attribute`, a function or a Typer) and what it does."""

    target: str
    summary: str


# One line a command, in the order of `andon --help`.
COMMANDS: dict[str, Command] = {
    "demo": Command("streams.cli.demo:demo", "Play a day through everything, and sum it up."),
    "stack": Command("streams.cli.stack:app", "Start, stop and show the local Kafka and Valkey."),
    "topics": Command("streams.cli.topics:app", "Create the topics, and compare them."),
    "send": Command("streams.cli.send:send", "Send JSON lines of one contract, each checked."),
    "replay": Command("streams.cli.replay:replay", "Send a file of recorded events to the topics."),
    "simulate": Command("streams.cli.simulate:simulate", "Send a generated day to the topics."),
    "worker": Command("streams.cli.worker:worker", "Keep KPIs up to date, and propose actions."),
    "rebuild": Command(
        "streams.cli.rebuild:rebuild", "Recompute state and KPI records from the input topics."
    ),
    "deliver": Command("streams.cli.deliver:deliver", "Keep Redis as the topics say."),
    "wallboard": Command("streams.cli.wallboard:wallboard", "Show the boards as a live page."),
    "kpis": Command("streams.cli.kpis:kpis", "Print the newest KPI record of each key."),
    "actions": Command("streams.cli.actions:actions", "Print what the rules have decided."),
    "explain": Command(
        "streams.cli.explain:explain", "Recompute what actions quote, and show the events."
    ),
    "verify": Command(
        "streams.cli.verify:verify", "Recompute everything from the input, and compare."
    ),
    "bench": Command("streams.cli.bench:bench", "Measure a worker in permanent scenarios."),
    "rules": Command("streams.cli.rules:app", "Check rule files, and list what they say."),
    "dead-letters": Command(
        "streams.cli.dead_letters:app", "List what was set aside, and put mended records back."
    ),
}


class CommandError(Exception):
    """A failure to be told in two lines: what is wrong, and what to do next.

    Any exception with a `next_step` is treated so; `exit_code` is 1 (a problem was found) unless
    it has one of its own, 2 being wrong use.
    """

    def __init__(self, problem: str, next_step: str, exit_code: int = 1) -> None:
        super().__init__(problem)
        self.next_step = next_step
        self.exit_code = exit_code


class _Table(TyperGroup):
    """A group whose help needs no command's code, so that `andon --help` is quick."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        summary = COMMANDS[cmd_name].summary
        return TyperCommand(cmd_name, help=summary, short_help=summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if command is not None and name else command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if getattr(error, "next_step", None) is None:
                raise
            typer.echo(f"andon: {error}\nnext: {error.next_step}", err=True)  # type: ignore[attr-defined]
            raise typer.Exit(getattr(error, "exit_code", 1)) from error


def load(name: str) -> Any:
    """Import and return the command of this name."""
    module, _, attribute = COMMANDS[name].target.partition(":")
    target = getattr(import_module(module), attribute)
    if not isinstance(target, typer.Typer):
        single = typer.Typer(add_completion=False, rich_markup_mode="rich")
        single.command(name)(target)
        target = single
    target._add_completion = False  # noqa: SLF001 - or each sub-command would offer its own
    command = typer.main.get_command(target)
    command.name = name
    return command


app = typer.Typer(
    cls=_Table,
    help="Andon, the signal board of a contact centre: events in, KPIs and actions out.",
    epilog="Settings are ANDON_ variables or the YAML file that ANDON_CONFIG names.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"andon {version('andon')}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and end.", is_eager=True, callback=_version
    ),
) -> None:
    pass


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Run the command line; the exit code is 0 (well), 1 (a problem was found) or 2 (wrong use)."""
    # The polite signal of an orchestrator ends a command like Ctrl-C does: what it started is
    # stopped. Without this Python would be gone at once.
    signal.signal(signal.SIGTERM, _end)
    try:
        app(prog_name="andon")
    except BrokenPipeError:
        # `andon kpis | head`: the reader has gone, and Python would complain again at its own end.
        sys.stderr.close()
        sys.exit(0)
