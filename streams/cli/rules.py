"""`andon rules`: check rule files before a worker reads them, and list what they say."""

from pathlib import Path
from typing import Annotated, Any

import typer

from processors.kpis import Registry, RegistryError, load_registry
from processors.rules import ImmediateRule, Rule, RuleBook, load_rules
from processors.rules.cases import check_cases
from processors.rules.texts import duration_text
from schemas.contract import contract_schemas
from streams.cli import CommandError
from streams.cli.common import Format, FormatOption, print_json_lines, say
from streams.settings import load_settings

app = typer.Typer(no_args_is_help=True, help="Check rule files, and list what they say.")

DirectoryArgument = Annotated[
    Path | None,
    typer.Argument(help="Directory of rule files; without it the rules_dir of the settings."),
]


@app.command()
def check(directory: DirectoryArgument = None) -> None:
    """Compile all rules, run their tests, and name every fault with file and line.

    Example: andon rules check deploy/rules. Exit code 1 if there is any fault.
    """
    directory, registry, book = _load(directory)
    checked = check_cases(directory, book, registry)
    for rule_id in checked.untested:
        say(f"{rule_id}: has no test; say in {rule_id}.test.yaml when it fires and when not")
    if checked.faults:
        raise CommandError(
            "\n  ".join([f"{len(checked.faults)} faults:", *map(str, checked.faults)]),
            "correct the rule or its test, then `andon rules check` again",
        )
    say(f"no fault: rules {len(book.rules)}, tests of them {checked.cases}")


@app.command(name="list")
def list_rules(directory: DirectoryArgument = None, format: FormatOption = Format.TABLE) -> None:  # noqa: A002
    """List the rules: what each proposes, to whom, and when.

    Example: andon rules list --format json
    """
    rows = [_row(rule) for rule in _load(directory)[2].rules]
    if format is Format.JSON:
        print_json_lines(rows)
    elif format is Format.CSV:
        _print_csv(rows)
    else:
        _print_lines(rows)


def _load(directory: Path | None) -> tuple[Path, Registry, RuleBook]:
    settings = load_settings()
    directory = directory or settings.rules_dir
    try:
        registry = load_registry(settings.kpis_dir, contract_schemas())
    except RegistryError as error:
        raise CommandError(str(error), f"correct the KPIs in {settings.kpis_dir}") from error
    return directory, registry, load_rules(directory, registry)


def _row(rule: Rule | ImmediateRule) -> dict[str, Any]:
    common = {
        "rule_id": rule.id,
        "version": rule.version,
        "action_type": rule.proposal.action_type,
        "severity": rule.proposal.severity,
        "approval": rule.proposal.approval,
        "recipient": rule.proposal.recipient.role,
        "subject": list(rule.subject),
    }
    if isinstance(rule, ImmediateRule):
        return {**common, "over": rule.source, "window": "each event", "when": rule.where}
    every = f"{duration_text(rule.window_ms)} every {duration_text(rule.every_ms)}"
    return {**common, "over": rule.scope.id, "window": every, "when": _condition(rule)}


def _condition(rule: Rule) -> str:
    minima = ", ".join(f"{rule.scope.kpis[i].id} {n}" for i, n in rule.minimum_n.items())
    sustain = f" for {duration_text(rule.sustain_ms)}" if rule.sustain_ms else ""
    count = rule.quorum.at_least
    members = f" for at least {count} of a {', '.join(rule.subject)}" if count > 1 else ""
    return f"{rule.when.text}{sustain}{members} (least n: {minima})"


def _print_csv(rows: list[dict[str, Any]]) -> None:
    import csv
    import sys

    writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows({**row, "subject": " ".join(row["subject"])} for row in rows)


def _print_lines(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        typer.secho(f"{row['rule_id']}, version {row['version']}", bold=True)
        typer.echo(f"  {row['action_type']} to {row['recipient']}, {row['approval']}")
        typer.echo(f"  over {row['over']}, {row['window']}: {row['when']}")
