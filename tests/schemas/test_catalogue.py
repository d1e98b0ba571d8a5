"""The catalogue of topics: what it promises, and how a wrong one is told."""

import pytest

from schemas import catalogue as names
from schemas.catalogue import Topic, load_catalogue, parse_span_ms
from schemas.contract import load_contract
from schemas.errors import CatalogueError

CATALOGUE = load_catalogue()


def test_the_inputs_carry_their_time_settings():
    """Disorder, grace and reach of each input are what lateness is decided by, in ms."""
    hour, day = 3_600_000, 86_400_000

    assert [
        (names.INTERACTIONS, 2_000, hour, 0),
        (names.SURVEYS, 2_000, 3 * day, 3 * day),
        (names.EVALUATIONS, 2_000, 7 * day, 0),
    ] == [(t.name, t.disorder_ms, t.grace_ms, t.reach_ms) for t in CATALOGUE.inputs]


def test_a_count_time_may_have_a_reach_of_its_own():
    """What is counted where it was offered lies further back than what counts as it happens."""
    interactions = CATALOGUE[names.INTERACTIONS]

    assert 0 == interactions.reach_of_ms("event_time")
    assert 14_400_000 == interactions.reach_of_ms("offered_time")


def test_a_topic_is_read_with_defaults_and_milliseconds():
    """Settings of the file, those of `defaults` where it has none, retention in ms."""
    assert CATALOGUE[names.KPIS] == Topic(
        name="andon.kpis.v1",
        contract="kpi-record",
        role="output",
        key="scope|key values|window kind:size|start",
        partitions=4,
        config={
            "cleanup.policy": "compact,delete",
            "retention.ms": "7776000000",
            "segment.bytes": "67108864",
        },
        compatibility="FULL_TRANSITIVE",
        changelog=None,
        disorder_ms=0,
        grace_ms=0,
        reach_ms=0,
    )


def test_input_topics_take_the_brokers_append_time():
    """Without it a producer's clock could close everyone's windows."""
    assert {"LogAppendTime"} == {t.config["message.timestamp.type"] for t in CATALOGUE.inputs}


def test_surveys_and_evaluations_are_restatable_and_say_when():
    """Their contracts have the version, and the instant at which it was stated."""
    restatable = [topic for topic in CATALOGUE if topic.restatable]

    assert [names.SURVEYS, names.EVALUATIONS] == [topic.name for topic in restatable]
    for topic in restatable:
        assert {"version", "restated_time"} <= set(load_contract(str(topic.contract)).columns)


def test_state_is_compacted_and_partitioned_as_its_source():
    """A changelog has the partitions of the topic whose state it holds, and keeps every key."""
    for topic in CATALOGUE:
        if topic.changelog:
            changelog = CATALOGUE[topic.changelog]

            assert topic.partitions == changelog.partitions
            assert "compact" == changelog.config["cleanup.policy"]
            assert "retention.ms" not in changelog.config


def test_names_have_constants():
    """Every name that code uses is in the catalogue."""
    constants = [v for k, v in vars(names).items() if k.isupper() and isinstance(v, str)]

    assert 12 == len(constants)
    assert all(name in CATALOGUE for name in constants)


@pytest.mark.parametrize(
    ("text", "span_ms"),
    [("0s", 0), ("500ms", 500), ("2s", 2_000), ("15m", 900_000), ("3d", 259_200_000)],
)
def test_spans_have_a_unit(text, span_ms):
    """A span is a whole number and its unit."""
    assert span_ms == parse_span_ms(text)


@pytest.mark.parametrize("text", ["5", "s", "1.5h", "-1s", "1w", "", "1 h"])
def test_other_spans_are_refused(text):
    """A span without unit, or with another one, is no span."""
    with pytest.raises(ValueError, match="expected a whole number and one of ms, s, m, h, d"):
        parse_span_ms(text)


def test_all_faults_of_a_catalogue_are_told_together(tmp_path):
    """An operator who edits the file mends it once."""
    file = tmp_path / "topics.yaml"
    file.write_text("""
topics:
  - {name: a_b, role: input, partitions: 1}
  - {name: c, role: sideways, partitions: 0, contract: fax, grace: 1w, colour: red,
     reaches: {offered_time: 9}, restatable: often}
  - {name: d, role: input, partitions: 4, changelog: e}
  - {name: e, role: internal, partitions: 3}
  - {name: e, role: internal, partitions: 3, changelog: f}
  - {role: input}
""")

    with pytest.raises(CatalogueError) as raised:
        load_catalogue(file)

    told = [
        line.removeprefix(f"{file}: ").partition(", expected")[0]
        for line in str(raised.value).splitlines()
    ]
    assert [
        "a_b: has '_'",
        "c.colour: unknown",
        "c.role: 'sideways'",
        "c.partitions: 0",
        "c.contract: 'fax'",
        "c.restatable: 'often'",
        "c.grace: '1w'",
        "c.reaches.offered_time: '9'",
        "topics: {'role': 'input'}",
        "e: twice",
        "e.partitions: 3",
        "e.changelog: 'f'",
    ] == told


@pytest.mark.parametrize("text", ["", "topics: 3", "[1, 2]", "topics: [", "- x"])
def test_a_file_that_is_no_catalogue_is_refused(tmp_path, text):
    """Anything but a mapping with a list of topics."""
    file = tmp_path / "topics.yaml"
    file.write_text(text)

    with pytest.raises(CatalogueError, match=r"topics\.yaml"):
        load_catalogue(file)


def test_a_missing_file_is_refused(tmp_path):
    """A path that leads nowhere is told as such."""
    with pytest.raises(CatalogueError, match="No such file"):
        load_catalogue(tmp_path / "none.yaml")


def test_results_lie_where_the_partials_they_follow_from_lie(tmp_path):
    """A merge writes to its own partition of each result: their numbers must be the same."""
    before, kpis, after = names.TOPICS_FILE.read_text().partition("  - name: andon.kpis.v1")
    changed = after.replace("partitions: 4", "partitions: 6", 1)
    (tmp_path / "topics.yaml").write_text(before + kpis + changed)

    with pytest.raises(CatalogueError, match=r"kpis\.v1\.partitions: 6, expected 4"):
        load_catalogue(tmp_path / "topics.yaml")
