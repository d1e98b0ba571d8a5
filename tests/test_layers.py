"""Imports point one way, and the pure part stays pure."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("schemas", "processors", "streams", "sinks", "deploy")
MODULES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))

# schemas <- processors <- streams -> sinks -> schemas; deploy starts things.
ALLOWED = {
    "schemas": {"schemas"},
    "processors": {"schemas", "processors"},
    "sinks": {"schemas", "sinks"},
    "streams": {"schemas", "processors", "streams", "sinks"},
    "streams/cli": {"schemas", "processors", "streams", "sinks", "deploy"},
    # The judge shares no fold, merge or formula code with what it judges.
    "streams/verify": {"schemas", "streams.settings", "streams.verify"},
    "deploy": {"schemas", "processors", "streams", "sinks", "deploy"},
}

# No clock, random, environment, log or network.
IMPURE_MODULES = {
    "aiohttp", "aiokafka", "asyncio", "confluent_kafka", "faust", "httpx", "logging", "os",
    "psutil", "random", "redis", "requests", "secrets", "socket", "streams", "structlog",
    "subprocess", "tempfile", "threading", "time", "urllib.request",
}  # fmt: skip
IMPURE_CALLS = {"now", "today", "utcnow", "uuid1", "uuid4", "getenv", "print", "default_rng"}


def layer_of(module: Path) -> str:
    name = module.relative_to(ROOT).as_posix()
    return max((layer for layer in ALLOWED if name.startswith(f"{layer}/")), key=len)


def imported(module: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(module.read_text(), module)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def belongs(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_there_are_modules() -> None:
    """The tests below do not pass for want of files."""
    assert set(PACKAGES) == {file.relative_to(ROOT).parts[0] for file in MODULES}


@pytest.mark.parametrize("layer", ALLOWED)
def test_imports_point_one_way(layer: str) -> None:
    """No layer knows of one above it; the message names the import to move."""
    ours = [module for module in MODULES if layer_of(module) == layer]

    assert [] == [
        f"{module.relative_to(ROOT)}:{line} imports {name}"
        for module in ours
        for name, line in imported(module)
        if belongs(name, set(PACKAGES)) and not belongs(name, ALLOWED[layer])
    ]


def test_processors_know_no_world() -> None:
    """Time, randomness and settings come in as arguments."""
    processors = [module for module in MODULES if layer_of(module) == "processors"]

    assert [] == [
        f"{module.relative_to(ROOT)}:{line} imports {name}"
        for module in processors
        for name, line in imported(module)
        if belongs(name, IMPURE_MODULES)
    ]
    assert [] == [
        f"{module.relative_to(ROOT)}:{node.lineno} calls {name}"
        for module in processors
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Call)
        for name in [getattr(node.func, "attr", getattr(node.func, "id", ""))]
        if name in IMPURE_CALLS
    ]


def test_help_is_quick() -> None:
    """`andon --help` loads none of the heavy libraries: commands are imported to be run."""
    heavy = "'polars', 'faust', 'confluent_kafka', 'pyarrow', 'duckdb', 'numpy', 'pydantic'"
    code = (
        "import sys, streams.cli\n"
        "try: streams.cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        f"print(sorted({{{heavy}}} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]\n" == done.stderr


def test_every_command_loads_and_shows_an_example() -> None:
    """No line of the table points at nothing, and every command's help has an example to copy."""
    from streams.cli import COMMANDS, load

    def leaves(name: str, command: Any, inherited: str = "") -> Iterator[tuple[str, str]]:
        text = f"{inherited} {command.help} {command.epilog}"
        below = getattr(command, "commands", {})
        if not below:
            yield name, text
        for sub_name, sub_command in below.items():
            yield from leaves(f"{name} {sub_name}", sub_command, text)

    assert [] == [
        name
        for entry in COMMANDS
        for name, text in leaves(f"andon {entry}", load(entry))
        if "Example" not in text or name.rpartition(" ")[0] not in text
    ]
