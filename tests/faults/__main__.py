"""`python -m tests.faults`: the long form, from the command line."""

import json
import shutil
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from streams.cli.children import Interrupted, interruptible
from streams.cli.common import say
from tests.faults.harness import Run, run


class Format(StrEnum):
    """How the report is printed."""

    TEXT = "text"
    JSON = "json"


def faults(
    seed: Annotated[int, typer.Option(help="Other seeds, other loads and faults.")] = 1,
    events: Annotated[int, typer.Option(min=20_000, help="Events to send, about.")] = 1_000_000,
    kills: Annotated[int, typer.Option(min=1, help="Workers to kill, at least.")] = 50,
    pace: Annotated[float, typer.Option(min=1, help="Events a second while faults are on.")] = 2000,
    format: Annotated[Format, typer.Option(help="How to print.")] = Format.TEXT,  # noqa: A002
    keep: Annotated[
        Path | None, typer.Option(help="Directory to work in, and to leave logs and topics in.")
    ] = None,
) -> None:
    """Kill, pause, cut and empty whatever there is, under load, and compare every number after.

    Exit code 1 if anything differs or does not recover.
    """
    directory = keep or Path(tempfile.mkdtemp(prefix="andon-faults-"))
    try:
        with interruptible():
            report = run(Run(seed, events, kills, pace), directory.absolute(), say)
    except Interrupted as interrupted:
        raise typer.Exit(interrupted.exit_code) from None
    except TimeoutError as problem:
        say(f"seed {seed}: {problem}")
        raise typer.Exit(1) from problem
    finally:
        if keep is None:
            shutil.rmtree(directory, ignore_errors=True)
    typer.echo(json.dumps(report.plain()) if format is Format.JSON else "\n".join(report.lines()))
    if not report.ok:
        raise typer.Exit(1)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(faults)
    app()
