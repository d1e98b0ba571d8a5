"""The jars of Apache Kafka: fetched once from Maven Central, checked against the list beside."""

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.errors import StackError

KAFKA_VERSION = "4.3.1"
DOWNLOAD_MEGABYTES = 45

# Kafka's own dependencies name no logger; with the simple one its warnings reach our log file.
_COORDINATES = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
_CHECKSUMS = Path(__file__).with_name(f"kafka-{KAFKA_VERSION}.sha256")


def kafka_jars(cache: Path, tell: Callable[[str], None]) -> list[Path]:
    """Return the jars of a Kafka broker, all of them checked; fetch what the cache lacks.

    `tell` gets a line before anything is fetched: what, how large, where to.
    Raises StackError where they cannot be fetched, or are not the expected bytes.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / "kafka.lock"):
        if not (cache / "kafka").is_dir():
            tell(
                f"fetching Apache Kafka {KAFKA_VERSION} ({DOWNLOAD_MEGABYTES} MB, once) to {cache}"
            )
        jars = _resolve(cache)
        if _faults(jars):
            # An interrupted download leaves an environment that looks complete.
            tell("fetching Apache Kafka again: the cache is not complete")
            shutil.rmtree(cache / "kafka")
            jars = _resolve(cache)
        if faults := _faults(jars):
            raise StackError(
                f"kafka: {faults[0]}" + (f" (and {len(faults) - 1} more)" if faults[1:] else ""),
                f"find out who answers for Maven Central here, then delete {cache} and try again",
            )
    return jars


def _resolve(cache: Path) -> list[Path]:
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.env import EnvironmentBuilder, LinkStrategy
    from jgo.maven import MavenContext, PythonResolver

    context = MavenContext(
        resolver=PythonResolver(),
        repo_cache=cache / "kafka" / "maven",
        # A mirror is named in jgo's own configuration file: [repositories] central = ...
        remote_repos={"central": MAVEN_CENTRAL_URL, **GlobalSettings.load().repositories},
        timeout=60,
    )
    builder = EnvironmentBuilder(
        context=context, cache_dir=cache / "kafka" / "jgo", link_strategy=LinkStrategy.AUTO
    )
    try:
        return list(builder.from_endpoint(_COORDINATES).all_jars)
    except Exception as error:
        raise StackError(
            f"kafka: Apache Kafka {KAFKA_VERSION} could not be fetched"
            f" ({type(error).__name__}: {error})",
            "check the network and the proxy (HTTPS_PROXY), or name a Maven mirror in"
            " ~/.config/jgo.conf ([repositories] central = ADDRESS),"
            " or set ANDON_KAFKA_BOOTSTRAP_SERVERS to a broker you have",
        ) from error


def _faults(jars: list[Path]) -> list[str]:
    """Return what is missing, unknown or of other bytes than listed; nothing if all is well."""
    expected = {
        name: digest
        for digest, name in (line.split() for line in _CHECKSUMS.read_text().splitlines())
    }
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in jars}
    return [
        f"{name}: sha256 {found.get(name, 'missing')}, expected {expected.get(name, 'no such jar')}"
        for name in sorted(expected.keys() | found.keys())
        if found.get(name) != expected.get(name)
    ]


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
