"""The project's own promises: commands, lock, and what must not be in it."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.txt", "requirements-dev.txt")
PEER_LOCKS = tuple(
    str(lock.relative_to(ROOT)) for lock in (ROOT / "deploy/bench/peers").glob("*/requirements.txt")
)


def pins(lock: str) -> dict[str, set[str]]:
    """Return the pinned versions by project; markers may choose between several."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / lock).read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==(\S+)", line):
            found.setdefault(canonicalize_name(match[1]), set()).add(match[2])
    return found


def wanted(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][name] for name in extras)]
    return [Requirement(text) for group in groups for text in group]


@pytest.mark.parametrize(
    ("lock", "extras"), [(LOCKS[0], ("local", "build")), (LOCKS[1], ("local", "build", "dev"))]
)
def test_the_lock_holds_what_the_project_asks_for(lock: str, extras: tuple[str, ...]) -> None:
    """A dependency without a pin would be found missing only on a fresh machine."""
    pinned = pins(lock)

    assert [] == [
        f"{lock}: {requirement} is pinned as {pinned.get(canonicalize_name(requirement.name))}"
        for requirement in wanted(*extras)
        if not all(
            requirement.specifier.contains(version, prereleases=True)
            for version in pinned.get(canonicalize_name(requirement.name), {"none"})
        )
    ]


def test_running_and_development_have_the_same_versions() -> None:
    """What is tested is what is run."""
    run, development = (pins(lock) for lock in LOCKS)

    assert run == {name: development.get(name) for name in run}


@pytest.mark.parametrize("lock", LOCKS + PEER_LOCKS)
def test_the_lock_has_hashes_and_no_addresses(lock: str) -> None:
    """Every pin is checked by pip, and says nothing of where it was fetched from."""
    text = (ROOT / lock).read_text()
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text.partition("\n#    make lock\n")[2])

    assert [] == [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block]
    assert [] == re.findall(r"https?:|file:|--index|--find-links|@ ", text)


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_make_passes_file_and_arguments_on(tmp_path: Path) -> None:
    """`make demo DATA=FILE ARGS=...` is the command with the same file and arguments."""
    done = make("-n", "demo", f"VENV={tmp_path}/venv", "DATA=a b.tsv", "ARGS=--exit-when-done")

    command = f"exec {tmp_path}/venv/bin/andon demo --data 'a b.tsv' --exit-when-done"
    assert command == done.stdout.splitlines()[-1]


def test_make_sets_up_the_environment_first_and_says_how_large_it_is(tmp_path: Path) -> None:
    """On a fresh machine each target builds its virtual environment from the lock."""
    planned = make("-n", "test", f"VENV={tmp_path}/venv").stdout

    assert "--require-hashes --requirement requirements-dev.txt" in planned
    assert re.search(r"about \d+ MB to fetch", planned)
    assert "requirements.txt" in make("-n", "demo", f"VENV={tmp_path}/venv").stdout


def test_make_without_a_fit_python_says_which_it_needs(tmp_path: Path) -> None:
    """An old Python is told before anything is installed into it."""
    done = make("setup", f"VENV={tmp_path}/venv", "PYTHON=")

    assert 2 == done.returncode
    assert done.stderr.startswith("Python 3.11 to 3.14 is needed")
    assert not (tmp_path / "venv").exists()


def test_the_readme_lists_the_targets() -> None:
    """`make` alone shows them, each with a sentence, and the README has the same."""
    shown = [line.split()[1] for line in make("help").stdout.splitlines()]
    phony = re.search(r"^\.PHONY: help (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert phony[1].split() == shown[1:]

    readme = (ROOT / "README.md").read_text()
    assert [] == [target for target in shown[1:] if f"make {target}" not in readme]


def test_nothing_else_lies_at_the_top() -> None:
    """Every file has its folder."""
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    top = {Path(name).parts[0] for name in tracked.stdout.splitlines()}

    assert {name for name in top if not name.startswith(".")} <= {
        "streams", "schemas", "processors", "sinks", "deploy", "tests",
        "pyproject.toml", "README.md", "Makefile", *LOCKS,
    }  # fmt: skip
