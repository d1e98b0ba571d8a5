"""The jars of Apache Kafka: fetched once from Maven Central, checked against the list beside."""

import fcntl
import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from deploy.local.errors import StackError

# Not newer: from 4.3.0 to 4.4.0 a coordinator that starts while a partition has no leader takes it
# for deleted, writes no marker to it and calls the transaction complete (KAFKA-20734). Brokers here
# are alone and get killed: on a busy machine the fifth kill in a commit lost it.
KAFKA_VERSION = "4.2.2"
DOWNLOAD_MEGABYTES = 45

_COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    # Kafka's own dependencies name no logger; with the simple one its warnings reach our log file.
    "org.slf4j:slf4j-simple:1.7.36",
)
_CHECKSUMS = Path(__file__).with_name(f"kafka-{KAFKA_VERSION}.sha256")


def kafka_jars(cache: Path, tell: Callable[[str], None]) -> list[Path]:
    """Return the jars of a Kafka broker, all of them checked; fetch what the cache lacks.

    `tell` gets a line before anything is fetched: what, how large, where to.
    Raises StackError where they cannot be fetched, or are not the expected bytes.
    """
    expected = _expected()
    repository = cache / "kafka" / "maven"
    repository.mkdir(parents=True, exist_ok=True)
    with _alone(cache / "kafka.lock"):
        jars = _jars_in(repository)
        if _faults(jars, expected):
            tell(
                f"fetching Apache Kafka {KAFKA_VERSION} ({DOWNLOAD_MEGABYTES} MB, once) to {cache}"
            )
            # What an interrupted download left would pass for the whole.
            for name in expected.keys() & jars.keys():
                if _sha256(jars[name]) != expected[name]:
                    jars[name].unlink()
            _fetch(repository)
            jars = _jars_in(repository)
        if faults := _faults(jars, expected):
            raise StackError(
                f"kafka: {faults[0]}" + (f" (and {len(faults) - 1} more)" if faults[1:] else ""),
                "find out who answers for Maven Central on this network, then try again",
            )
    return [jars[name] for name in sorted(expected)]


def _fetch(repository: Path) -> None:
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext, PythonResolver

    # Resolution and download only: building one of jgo's environments would look for a JDK, and
    # where there is none fetch a whole one to sort the jars by.
    context = MavenContext(
        resolver=PythonResolver(),
        repo_cache=repository,
        # A mirror is named in jgo's own configuration file: [repositories] central = ...
        remote_repos={"central": MAVEN_CENTRAL_URL, **GlobalSettings.load().repositories},
        timeout=60,
    )
    try:
        wanted = [context.create_dependency(coordinate) for coordinate in _COORDINATES]
        direct, transitive = context.resolver.resolve(wanted)
        needed = [item for item in transitive if item.scope in ("compile", "runtime")]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda item: item.artifact.resolve(), [*direct, *needed]))
    except Exception as error:
        raise StackError(
            f"kafka: Apache Kafka {KAFKA_VERSION} could not be fetched"
            f" ({type(error).__name__}: {error})",
            "check the network and the proxy (HTTPS_PROXY), or name a Maven mirror in"
            " ~/.config/jgo.conf ([repositories] central = ADDRESS),"
            " or set ANDON_KAFKA_BOOTSTRAP_SERVERS to a broker you have",
        ) from error


def _expected() -> dict[str, str]:
    """Return the SHA-256 of each jar by its file name."""
    lines = (line.split() for line in _CHECKSUMS.read_text().splitlines())
    return {name: digest for digest, name in lines}


def _jars_in(repository: Path) -> dict[str, Path]:
    return {jar.name: jar for jar in repository.rglob("*.jar")}


def _faults(jars: Mapping[str, Path], expected: Mapping[str, str]) -> list[str]:
    """Return what is missing or of other bytes than listed; nothing if all is well."""
    found = {name: _sha256(jars[name]) if name in jars else "missing" for name in sorted(expected)}
    return [
        f"{name}: sha256 {found[name]}, expected {expected[name]}"
        for name in found
        if found[name] != expected[name]
    ]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
