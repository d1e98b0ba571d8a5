"""The jars of Kafka, without a network: what is cached is checked, what is wrong is refused."""

import hashlib
from pathlib import Path

import pytest

from deploy.local import jars
from deploy.local.errors import StackError
from deploy.local.jars import kafka_jars

CONTENT = {"kafka.jar": b"broker", "slf4j-simple.jar": b"logger"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds all of a list of two jars; whoever fetches meets a closed port."""
    listed = tmp_path / "list.sha256"
    listed.write_text(
        "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in CONTENT.items())
    )
    monkeypatch.setattr(jars, "_CHECKSUMS", listed)
    for variable in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    repository = tmp_path / "cache" / "kafka" / "maven" / "org"
    repository.mkdir(parents=True)
    for name, data in CONTENT.items():
        (repository / name).write_bytes(data)
    return tmp_path / "cache"


def test_a_whole_cache_needs_no_network(cache: Path) -> None:
    """Nothing is fetched, and nothing is said."""
    told: list[str] = []

    assert sorted(CONTENT) == [jar.name for jar in kafka_jars(cache, told.append)]
    assert [] == told


def test_a_jar_cut_off_is_fetched_again_and_no_network_is_told(cache: Path) -> None:
    """An interrupted download is not run; without a network the way out is named."""
    broken = cache / "kafka" / "maven" / "org" / "kafka.jar"
    broken.write_bytes(b"bro")
    told: list[str] = []

    with pytest.raises(StackError, match=r"kafka: Apache Kafka 4\.2\.2 could not be fetched") as no:
        kafka_jars(cache, told.append)

    assert [f"fetching Apache Kafka 4.2.2 (45 MB, once) to {cache}"] == told
    assert "HTTPS_PROXY" in no.value.next_step
    assert "ANDON_KAFKA_BOOTSTRAP_SERVERS" in no.value.next_step
    assert not broken.exists()


def test_other_bytes_than_listed_are_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository that serves something else under Kafka's name does not get it run."""
    jar = cache / "kafka" / "maven" / "org" / "kafka.jar"
    jar.unlink()
    monkeypatch.setattr(jars, "_fetch", lambda _: jar.write_bytes(b"other"))

    with pytest.raises(
        StackError, match=r"kafka: kafka\.jar: sha256 d9298a10d1b0.*, expected faa2a9bd"
    ):
        kafka_jars(cache, lambda _: None)
