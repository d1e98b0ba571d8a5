"""What the documents promise: links that lead somewhere, and tests that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DECISIONS = sorted((ROOT / "streams/decisions").glob("*.md"))
FOLDERS = ("streams", "schemas", "processors", "sinks", "deploy")
DOCUMENTS = [
    ROOT / "README.md",
    *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md")),
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file(path: Path) -> None:
    """A moved file takes the links to it along."""
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))

    assert [] == [target for target in targets if not (path.parent / target).exists()]


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_names_tests_that_would_fail(path: Path) -> None:
    """Each record has its parts in their order, and its confirmation is tests that exist."""
    text = path.read_text(encoding="utf-8")
    parts = ["Context", "Drivers", "Options", "Choice", "Consequences", "Confirmation"]
    assert parts == re.findall(r"^## (.+)$", text, re.MULTILINE)

    named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", text.partition("## Confirmation")[2])
    assert named
    assert [] == _missing(named)


def test_the_architecture_names_tests_that_are_there() -> None:
    """What it says would be seen is seen by something."""
    text = (ROOT / "streams/ARCHITECTURE.md").read_text(encoding="utf-8")

    named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", text)
    assert len(named) > 20
    assert [] == _missing(named)


def _missing(named: list[tuple[str, str]]) -> list[str]:
    return [
        f"{file}::{test}"
        for file, test in named
        if not (ROOT / file).exists() or f"def {test}(" not in (ROOT / file).read_text()
    ]


def test_decisions_are_numbered_without_gaps() -> None:
    """A record is superseded, never taken away."""
    numbers = [int(path.name[:4]) for path in DECISIONS]

    assert list(range(1, len(numbers) + 1)) == numbers
