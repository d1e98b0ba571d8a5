"""What peers are asked for, and what is read of what they say."""

import pytest

from streams.bench.peer_setup import GROUPS, PEERS, PeerMissing, made_ready
from streams.bench.peers import Marks, NoMarks, read_marks

FIRST = '{"mark": "first", "at_s": 100.5, "versions": "bytewax 0.21.1"}'
LAST = '{"mark": "last", "at_s": 104.0, "updates": 13}'


def test_marks_are_found_among_what_else_is_said():
    """The first of each counts; a framework may write between them what it likes."""
    lines = ["WARNING: something", FIRST, "{not json}", LAST, FIRST.replace("100.5", "101.0"), ""]

    assert Marks(100.5, 104.0, "bytewax 0.21.1") == read_marks(lines)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([], r"marks: \[\], expected \['first', 'last'\] too"),
        ([FIRST, "killed"], r"marks: \['first'\], expected \['last'\] too"),
        ([FIRST, LAST.replace("104.0", "100.5")], "expected a later one"),
    ],
)
def test_a_peer_without_marks_has_not_done_the_job(lines, problem):
    """No figure is made of what is not known."""
    with pytest.raises(NoMarks, match=problem):
        read_marks(lines)


def test_a_peer_does_what_it_can_of_the_load():
    """Slow ones a prefix of it, others all; a quick run has a tenth of either."""
    faust, loop = PEERS["faust"], PEERS["loop"]

    def events(load, *, quick):
        return [each.sized(load, quick=quick).events for each in (faust, loop)]

    assert [20_000, 1_200_000] == events(1_200_000, quick=False)
    assert [20_000, 3_600_000] == events(3_600_000, quick=False)
    assert [2_000, 120_000] == events(120_000, quick=True)
    assert [500, 500] == events(500, quick=False)


def test_every_peer_has_its_sources_and_a_group():
    """What would be missed only when the benchmark is run."""
    assert set(PEERS) == {*GROUPS["python"], *GROUPS["java"]} == set(GROUPS["all"])
    for peer in PEERS.values():
        entry = peer.entry.rpartition(".")[2] + ".java" if peer.needs == "java" else peer.entry
        assert [entry] == [file.name for file in peer.folder.rglob(entry)]
        lock = {"venv": "requirements.txt", "java": "pom.xml"}.get(peer.needs, entry)
        assert (peer.folder / lock).exists()


def test_without_a_compiler_the_java_peers_are_missing(tmp_path, monkeypatch):
    """The answer names what to install."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(PeerMissing, match=r"flink: no javac .*, expected a JDK 17 or newer"):
        made_ready(PEERS["flink"], tmp_path, lambda _: None)


def test_a_broken_set_up_is_told_and_is_no_environment(tmp_path, monkeypatch):
    """It is made again the next time: half an environment would fail in the middle of a run."""
    monkeypatch.setattr("streams.bench.peer_setup._done", refuse)

    for _ in range(2):
        with pytest.raises(PeerMissing, match="quix: its set-up failed"):
            made_ready(PEERS["quix"], tmp_path, lambda _: None)


def refuse(peer, command):
    raise PeerMissing(f"{peer.id}: its set-up failed")
