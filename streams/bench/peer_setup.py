"""What the peers run in: environments of their own, made when they are missing, and then kept."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from streams.bench.scenarios import DEPLOY, QUICK

PEERS_DIR: Final = DEPLOY / "bench" / "peers"
PYTHON_COMMON: Final = PEERS_DIR / "common"

_SHOWN_LINES: Final = 8
_SETUP_S: Final = 900.0
_JAVA: Final = 17
_DONE: Final = "done"


class PeerMissing(Exception):
    """A peer cannot be set up on this machine; the text says what it lacks."""

    exit_code = 1
    next_step = "install what is named, or choose others with --peers"


@dataclass(frozen=True, slots=True)
class Peer:
    """An engine that does the reference job.

    ``events`` is how much of the load it does in some seconds, None for all of it. ``entry`` is a
    file of its directory, or a class in Java. ``needs`` says where it runs: in the environment of
    the product, in one of its own, or in a JVM. ``state`` says what a crash leaves of its state.
    ``output`` names the topic of its updates, ``own_output`` says that it makes that one itself.
    """

    id: str
    directory: str
    entry: str
    needs: Literal["nothing", "venv", "java"]
    events: int | None
    state: str
    output: str = "{id}-output"
    own_output: bool = False
    environment: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()

    def sized(self, events: int, *, quick: bool) -> "Peer":
        """Return the peer for a load of so many events; a quick one does a tenth of its own."""
        own = events if self.events is None else self.events // (QUICK if quick else 1)
        return replace(self, events=max(1, min(own, events)))

    @property
    def folder(self) -> Path:
        """Where its sources lie."""
        return PEERS_DIR / self.directory


@dataclass(frozen=True, slots=True)
class Ready:
    """A peer that can be started: its command, and of a JVM the libraries that it found."""

    peer: Peer
    command: list[str]
    versions: str = field(default="")

    @property
    def events(self) -> int:
        """How many events it is to do."""
        assert self.peer.events is not None, "sized first"
        return self.peer.events


_OPENED: Final = tuple(
    f"--add-opens=java.base/java.{name}=ALL-UNNAMED"
    for name in ("lang", "util", "util.concurrent", "time")
)
_FAUST: Final = Peer(
    id="faust",
    directory="faust",
    entry="plain_faust.py",
    needs="nothing",
    events=20_000,
    state="tables, changelog",
    output="{id}-sums-changelog",
    own_output=True,
)

PEERS: Final = {
    peer.id: peer
    for peer in (
        _FAUST,
        replace(_FAUST, id="faust-tuned", environment=(("PEER_TUNED", "1"),)),
        Peer(
            id="quix",
            directory="quix",
            entry="quix_app.py",
            needs="venv",
            events=30_000,
            state="RocksDB, changelog",
        ),
        Peer(
            id="bytewax",
            directory="bytewax",
            entry="bytewax_flow.py",
            needs="venv",
            events=300_000,
            state="recovery store, 5 s",
        ),
        Peer(
            id="loop",
            directory="loop",
            entry="bare_loop.py",
            needs="nothing",
            events=None,
            state="none",
        ),
        Peer(
            id="kafka-streams",
            directory="kafka-streams",
            entry="andon.peers.KafkaStreamsPeer",
            needs="java",
            events=None,
            state="RocksDB, changelog",
            options=("-Xmx2g",),
            libraries=("kafka-streams",),
        ),
        Peer(
            id="flink",
            directory="flink",
            entry="andon.peers.FlinkPeer",
            needs="java",
            events=None,
            state="heap, checkpoints 5 s",
            options=("-Xmx4g", *_OPENED),
            libraries=("flink-streaming-java", "flink-connector-kafka"),
        ),
    )
}

GROUPS: Final = {
    "python": [each.id for each in PEERS.values() if each.needs != "java"],
    "java": [each.id for each in PEERS.values() if each.needs == "java"],
    "all": list(PEERS),
    "none": [],
}


def made_ready(peer: Peer, cache: Path, tell: Callable[[str], None]) -> Ready:
    """Set a peer up if it is not yet, and return how it is started; raise PeerMissing."""
    if peer.needs == "java":
        return _java(peer, cache, tell)
    python = sys.executable if peer.needs == "nothing" else _venv(peer, cache, tell)
    return Ready(peer, [python, str(peer.folder / peer.entry)])


def _venv(peer: Peer, cache: Path, tell: Callable[[str], None]) -> str:
    lock = peer.folder / "requirements.txt"
    tag = f"py{sys.version_info.major}.{sys.version_info.minor}"
    place = cache / "peers" / f"{peer.id}-{tag}-{_digest([lock])}"
    python = place / "bin" / "python"
    if not (place / _DONE).exists():
        tell(f"{peer.id}: setting up an environment of its own, once")
        _clear(place)
        _done(peer, [sys.executable, "-m", "venv", str(place)])
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        # Nothing is compiled here: a peer without wheels for this Python is a peer that is missing.
        only = ["--only-binary", ":all:", "--require-hashes", "--requirement", str(lock)]
        _done(peer, [str(python), *install, *only])
        (place / _DONE).touch()
    return str(python)


def _java(peer: Peer, cache: Path, tell: Callable[[str], None]) -> Ready:
    java, maven = _found_java(peer), shutil.which("mvn")
    if maven is None:
        raise PeerMissing(f"{peer.id}: no mvn on the PATH, expected Maven")
    sources = [*peer.folder.rglob("*.java"), *PYTHON_COMMON.rglob("*.java")]
    place = cache / "peers" / f"{peer.id}-{_digest([peer.folder / 'pom.xml', *sorted(sources)])}"
    if not (place / _DONE).exists():
        tell(f"{peer.id}: building it with Maven, once")
        _clear(place)
        pom = str(peer.folder / "pom.xml")
        _done(peer, [maven, "-q", "-B", "-f", pom, f"-Dpeer.build={place}", "compile"])
        (place / _DONE).touch()
    versions = ", ".join(_jar_versions(place / "lib", peer.libraries))
    given = [f"-Dandon.peer.versions={versions}", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"]
    path = ["-cp", f"{place / 'classes'}{os.pathsep}{place / 'lib'}/*", peer.entry]
    return Ready(peer, [java, *peer.options, *given, *path], versions)


def _found_java(peer: Peer) -> str:
    """Return the `java` beside a compiler that is new enough: what Maven builds for."""
    home = os.environ.get("JAVA_HOME")
    compiler = str(Path(home) / "bin" / "javac") if home else shutil.which("javac")
    told = _told([compiler, "-version"]) if compiler else ""
    version = told.removeprefix("javac ").partition(".")[0]
    if compiler is None or not version.isdigit() or int(version) < _JAVA:
        found = told or "no javac in JAVA_HOME or on the PATH"
        raise PeerMissing(f"{peer.id}: {found}, expected a JDK {_JAVA} or newer")
    return str(Path(compiler).with_name("java"))


def _told(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).strip()


def _jar_versions(folder: Path, libraries: Iterable[str]) -> list[str]:
    """Return name and version of libraries, from the names of their files."""
    return [
        f"{name} {jar.stem.removeprefix(f'{name}-')}"
        for name in libraries
        for jar in folder.glob(f"{name}-[0-9]*.jar")
    ]


def _clear(place: Path) -> None:
    """Remove what is half done in this place, and what was done for other sources before."""
    for old in place.parent.glob(f"{place.name.rpartition('-')[0]}-*"):
        shutil.rmtree(old)


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _done(peer: Peer, command: Sequence[str]) -> None:
    """Run a command of the set-up; raise PeerMissing with the last that it said."""
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=_SETUP_S
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise PeerMissing(f"{peer.id}: {problem}") from problem
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()[-_SHOWN_LINES:]
        raise PeerMissing(f"{peer.id}: its set-up failed" + "".join(f"\n  {x}" for x in said))
