"""Topics, sending and dead letters on a real broker, as an operator uses them."""

import json
from collections.abc import Callable

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic
from typer.testing import CliRunner, Result

from schemas.catalogue import (
    DEAD_LETTERS,
    INTERACTIONS,
    create_topics,
    load_catalogue,
)
from schemas.client import offset_ranges, read_all
from schemas.errors import TopicMissing
from schemas.headers import dead_letter_headers, items
from streams.cli import app
from tests.schemas.support import codec, examples, record

Andon = Callable[..., Result]

CATALOGUE = load_catalogue()


@pytest.fixture
def andon(clean_kafka, monkeypatch, tmp_path) -> Andon:
    """Run a command against an empty Kafka."""
    monkeypatch.setenv("ANDON_KAFKA_BOOTSTRAP_SERVERS", clean_kafka)
    monkeypatch.setenv("ANDON_STATE_DIR", str(tmp_path / "state"))
    return lambda *arguments, **options: CliRunner().invoke(app, list(arguments), **options)


@pytest.fixture
def topics(andon, kafka_admin):
    """Have the topics of the catalogue."""
    create_topics(kafka_admin, CATALOGUE)


def read(kafka: str, topic: str) -> list[tuple]:
    """Return partition, key and value of everything in a topic."""
    batches = read_all({"bootstrap.servers": kafka}, topic)
    return [(m.partition(), m.key(), m.value()) for batch in batches for m in batch]


def state_of(result: Result) -> dict[str, tuple[str, list[str]]]:
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    return {row["name"]: (row["state"], row["differences"]) for row in rows}


def test_topics_are_created_once_and_then_found_as_the_catalogue_has_them(andon):
    """Creating is idempotent: the second time nothing is done, and nothing differs."""
    missing = andon("topics", "describe", "--format", "json")
    created = andon("topics", "create", "--format", "json")
    again = andon("topics", "create", "--format", "json")
    described = andon("topics", "describe", "--format", "json")

    names = [topic.name for topic in CATALOGUE]
    assert (1, 0, 0, 0) == tuple(r.exit_code for r in (missing, created, again, described))
    assert {name: ("missing", []) for name in names} == state_of(missing)
    assert {name: ("created", []) for name in names} == state_of(created)
    assert {name: ("exists", []) for name in names} == state_of(again) == state_of(described)


def test_a_topic_that_differs_is_reported_and_left_as_it_is(andon, kafka_admin):
    """Partitions and settings of an existing topic are its owner's to change."""
    ours = NewTopic(DEAD_LETTERS, 3, 1, config={"retention.ms": "1000"})
    kafka_admin.create_topics([ours])[DEAD_LETTERS].result(30)

    results = [andon("topics", "create", "--format", "json") for _ in range(2)]

    differences = [
        "partitions: 3, expected 4",
        "retention.ms: 1000, expected 7776000000",
        "max.message.bytes: 1048588, expected 8388608",
    ]
    for result, state in zip(results, ("created", "exists"), strict=True):
        assert 1 == result.exit_code
        assert (state, []) == state_of(result)[INTERACTIONS]
        assert "exists" == state_of(result)[DEAD_LETTERS][0]
        assert sorted(differences) == sorted(state_of(result)[DEAD_LETTERS][1])
        assert f"left as they are: {DEAD_LETTERS}" in result.stderr


def test_sound_lines_are_sent_and_bad_ones_named(andon, topics, kafka):
    """Each line is checked; a bad one is named and skipped, and the exit code says so."""
    offered = examples("interaction")["offered"]
    lines = [
        json.dumps(offered),
        "",
        "{not json",
        json.dumps(offered | {"leg": 0}),
        json.dumps(offered | {"event_id": "other"}),
    ]

    result = andon("send", INTERACTIONS, input="\n".join(lines))

    assert 1 == result.exit_code
    assert [
        "skipped line 3: no JSON (Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1))",
        "skipped line 4: interaction.leg: 0, expected at least 1",
        f"sent 2 to {INTERACTIONS}, skipped 2",
    ] == result.stderr.splitlines()
    sent = read(kafka, INTERACTIONS)
    assert {b"i-1001"} == {key for _, key, _ in sent}
    assert 1 == len({partition for partition, _, _ in sent})
    assert [
        record("interaction", "offered"),
        record("interaction", "offered", event_id="other"),
    ] == [codec("interaction").decode(value) for _, _, value in sent]


def test_only_input_topics_are_sent_to(andon, topics):
    """What the pipeline writes is not for hands to write; exit code 2 is wrong use."""
    result = andon("send", "andon.kpis.v1", input="{}")

    assert 2 == result.exit_code
    assert "andon: topic andon.kpis.v1: no input topic" in result.stderr


def set_aside(kafka: str, letters: list[dict]) -> None:
    """Write dead letters, as a worker does, to partition 0."""
    producer = Producer({"bootstrap.servers": kafka})
    for offset, letter in enumerate(letters):
        headers = dead_letter_headers(
            [("ce_id", b"1")],
            topic=INTERACTIONS,
            partition=2,
            offset=offset,
            reason=letter["reason"],
            exception="X",
            message=letter.get("message", "m"),
        )
        producer.produce(DEAD_LETTERS, letter["value"], key=b"k", partition=0, headers=headers)
    assert 0 == producer.flush(30)


NEGATIVE = codec("interaction").encode(record("interaction", "answered", queue_wait_ms=-1))
SOUND = codec("interaction").encode(record("interaction", "answered"))


def test_dead_letters_are_listed_with_what_can_be_read_of_them(andon, topics, kafka):
    """A line holds reason, place and, as far as it can be read, the record."""
    set_aside(
        kafka,
        [{"reason": "CONTRACT", "value": NEGATIVE}, {"reason": "UNDECODABLE", "value": b"junk"}],
    )

    result = andon("dead-letters", "list", "--format", "json")
    chosen = andon("dead-letters", "list", "--reason", "undecodable")

    common = {
        "partition": 0,
        "source_topic": INTERACTIONS,
        "source_partition": 2,
        "exception": "X",
        "message": "m",
        "key": "k",
    }
    broken = record("interaction", "answered", queue_wait_ms=-1)
    assert [
        {"offset": 0, "source_offset": 0, "reason": "CONTRACT", "record": broken}
        | {"value_base64": None}
        | common,
        {"offset": 1, "source_offset": 1, "reason": "UNDECODABLE", "record": None}
        | {"value_base64": "anVuaw=="}
        | common,
    ] == [json.loads(line) for line in result.stdout.splitlines()]
    assert [f"     0:1  UNDECODABLE     {INTERACTIONS}:2:1  m"] == chosen.stdout.splitlines()
    assert "1 UNDECODABLE\n" == chosen.stderr


def test_mended_records_go_back_to_their_partition_with_their_key(andon, topics, kafka, tmp_path):
    """What `list` prints, with the record mended, is what `replay` takes."""
    set_aside(kafka, [{"reason": "CONTRACT", "value": NEGATIVE}] * 2)
    lines = andon("dead-letters", "list", "--format", "json").stdout.splitlines()
    mended = [json.loads(line) for line in lines]
    mended[0]["record"]["queue_wait_ms"] = 7
    mended.append(mended[0] | {"offset": 9})
    file = tmp_path / "mended.jsonl"
    file.write_text("\n".join(map(json.dumps, mended)))

    result = andon("dead-letters", "replay", "--mended", str(file))

    assert 1 == result.exit_code
    assert [
        "skipped 0:1: interaction.queue_wait_ms: -1, expected at least 0",
        "skipped 0:9: no such dead letter",
        "put back 1, skipped 2",
    ] == result.stderr.splitlines()
    whole = codec("interaction").encode(record("interaction", "answered", queue_wait_ms=7))
    assert [(2, b"k", whole)] == read(kafka, INTERACTIONS)


def test_sound_dead_letters_go_back_as_they_were_without_our_headers(andon, topics, kafka):
    """Once the cause is gone, the record itself goes back; others are named and stay."""
    set_aside(
        kafka,
        [
            {"reason": "UNKNOWN_SCHEMA", "value": SOUND},
            {"reason": "UNKNOWN_SCHEMA", "value": b"\0\0\0\0\x07x"},
            {"reason": "CONTRACT", "value": NEGATIVE},
        ],
    )

    result = andon("dead-letters", "replay", "--reason", "UNKNOWN_SCHEMA")

    assert 1 == result.exit_code
    assert [
        f"skipped 0:1: {INTERACTIONS}.record: still schema 7: not among the schema files",
        "put back 1, skipped 1",
    ] == result.stderr.splitlines()
    (batch,) = read_all({"bootstrap.servers": kafka}, INTERACTIONS)
    assert [(2, b"k", SOUND, [("ce_id", b"1")])] == [
        (m.partition(), m.key(), m.value(), items(m.headers())) for m in batch
    ]


def test_one_dead_letter_is_chosen_by_its_place(andon, topics, kafka):
    """`--at` is the place that `list` prints."""
    set_aside(kafka, [{"reason": "FUTURE_TIME", "value": SOUND}] * 3)

    result = andon("dead-letters", "replay", "--at", "0:1")

    assert (0, "put back 1, skipped 0\n") == (result.exit_code, result.stderr)


@pytest.mark.parametrize(
    "arguments", [["replay"], ["replay", "--at", "3"], ["replay", "--mended", "none.jsonl"]]
)
def test_replaying_needs_a_choice(andon, arguments):
    """Nothing is put back by accident; exit code 2 is wrong use."""
    assert 2 == andon("dead-letters", *arguments).exit_code


def test_a_whole_topic_is_read_up_to_its_last_committed_record(kafka, new_topic):
    """Aborted records are left out, and the markers of transactions do not hold up the end."""
    topic = new_topic(partitions=2)
    client = {"bootstrap.servers": kafka}
    producer = Producer(client | {"transactional.id": topic})
    producer.init_transactions(30)
    for value in (b"kept", b"aborted", b"kept too"):
        producer.begin_transaction()
        producer.produce(topic, value, partition=0)
        producer.flush(30)
        producer.abort_transaction(30) if value == b"aborted" else producer.commit_transaction(30)
    producer.begin_transaction()
    producer.produce(topic, b"open", partition=0)
    producer.flush(30)

    values = [m.value() for batch in read_all(client, topic) for m in batch]
    later = [m.value() for batch in read_all(client, topic, begin={0: 1}) for m in batch]
    until = [m.value() for batch in read_all(client, topic, end={0: 4}) for m in batch]
    dirty = client | {"isolation.level": "read_uncommitted"}
    everything = [m.value() for batch in read_all(dirty, topic) for m in batch]
    ranges = offset_ranges(client, topic)
    producer.abort_transaction(30)

    assert [b"kept", b"kept too"] == values
    assert [b"kept too"] == later
    assert [b"kept"] == until
    assert [b"kept", b"aborted", b"kept too", b"open"] == everything
    assert {0: (0, 6), 1: (0, 0)} == ranges


def test_a_topic_that_is_not_there_is_told_as_such(kafka, unique):
    """Reading a missing topic neither waits nor creates it."""
    with pytest.raises(TopicMissing, match="no such topic, expected one made by"):
        list(read_all({"bootstrap.servers": kafka}, unique("missing")))
