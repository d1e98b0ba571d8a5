"""Schema ids: from the files, or from a registry server over HTTP."""

import json
import socket
from uuid import UUID

import pytest

from schemas.codec import Codec
from schemas.contract import contract_names, load_contract
from schemas.errors import Reason, RegistryUnavailable, UnknownSchema
from schemas.headers import guid_header
from schemas.registry import FileRegistry, fingerprint, open_registry
from schemas.registry_server import ConfluentRegistry
from tests.schemas.stub_registry import serve
from tests.schemas.support import TOPIC_OF, record

SUBJECT = f"{TOPIC_OF['interaction']}-value"
TEXT = load_contract("interaction").text


@pytest.fixture
def server():
    with serve() as registry:
        yield registry


def codec_on(server, **options) -> Codec:
    registry = ConfluentRegistry(server.url, config={"max.retries": 0}, **options)
    return Codec("interaction", registry, TOPIC_OF["interaction"])


def test_ids_of_the_file_registry_follow_from_the_schemas():
    """Every process gives a schema the same id, and finds every schema by it."""
    registry = FileRegistry()
    ids = {c: registry.schema_id(c, "any") for c in contract_names()}

    assert ids == {c: FileRegistry().schema_id(c, "other") for c in ids}
    assert len(ids) == len(set(ids.values()))
    for contract, schema_id in ids.items():
        assert 0 < schema_id < 2**31
        assert json.loads(registry.schema(schema_id)) == load_contract(contract).schema


def test_the_id_of_a_released_schema_never_changes():
    """Records in a topic name it; were it to change, they could not be read any more."""
    assert 1604766034 == FileRegistry().schema_id("interaction", "any")


def test_words_about_a_schema_do_not_change_its_id():
    """Docs and defaults leave the bytes as they are."""
    schema = json.loads(TEXT) | {"doc": "Something else."}

    assert fingerprint(TEXT) == fingerprint(json.dumps(schema))


def test_the_file_registry_does_not_know_other_ids():
    """An id that is none of ours is an unknown schema."""
    with pytest.raises(UnknownSchema, match="schema 1: not among the schema files"):
        FileRegistry().schema(1)


def test_a_registry_server_is_used_where_there_is_one(server):
    """No address means the files."""
    assert isinstance(open_registry(None), FileRegistry)
    assert isinstance(open_registry(server.url), ConfluentRegistry)


def test_a_registered_schema_gives_its_id_to_what_is_written(server):
    """The subject is the topic's; each schema is asked for once."""
    server.register("other-value", '"string"')
    schema_id = server.register(SUBJECT, TEXT)
    codec = codec_on(server)

    values = [codec.encode(record("interaction", "answered")) for _ in range(3)]

    assert [b"\0" + schema_id.to_bytes(4, "big")] * 3 == [value[:5] for value in values]
    assert [record("interaction", "answered")] * 3 == codec.columns(values, []).frame.to_dicts()
    assert [f"POST /subjects/{SUBJECT}"] == server.requests


def test_what_is_not_registered_is_not_written(server):
    """A schema does not become a topic's because somebody wrote a record."""
    with pytest.raises(UnknownSchema, match=f"{SUBJECT}: the newest version is not registered at"):
        codec_on(server).encode(record("interaction", "answered"))

    assert {} == server.subjects


def test_a_schema_is_registered_where_that_is_allowed(server):
    """With leave to do so, the newest version is registered first."""
    codec = codec_on(server, auto_register=True)

    assert record("interaction", "answered") == codec.decode(
        codec.encode(record("interaction", "answered"))
    )
    assert {SUBJECT: [1]} == server.subjects
    assert json.loads(TEXT) == json.loads(server.schemas[1])


def test_the_server_refuses_a_version_that_cannot_read_the_older_ones(server):
    """Leave to register is no leave to break the topic's promise."""
    older = json.loads(TEXT)
    older["fields"][0]["name"] = "id"
    server.register(SUBJECT, json.dumps(older))

    with pytest.raises(RegistryUnavailable, match="incompatible with an earlier schema"):
        codec_on(server, auto_register=True).encode(record("interaction", "answered"))


def test_records_of_an_older_writer_are_read_by_the_servers_schema(server):
    """The id in the prefix leads to the writer's schema."""
    older = json.loads(TEXT)
    older["fields"] = [f for f in older["fields"] if f["name"] != "recording_ref"]
    server.register(SUBJECT, json.dumps(older))
    newest = server.register(SUBJECT, TEXT)
    codec = codec_on(server)
    body = codec.encode(record("interaction", "answered"))[5:]

    decoded = codec.columns([b"\0\0\0\0\x01" + body[:-1], b"\0\0\0\0" + bytes([newest]) + body], [])

    assert [record("interaction", "answered")] * 2 == decoded.frame.to_dicts()


def test_a_guid_in_the_header_is_resolved_by_the_server(server):
    """Header framing names the schema by its guid."""
    guid = UUID(server.guid(server.register(SUBJECT, TEXT)))
    codec = codec_on(server)
    body = codec.encode(record("interaction", "answered"))[5:]

    assert record("interaction", "answered") == codec.decode(body, [guid_header(guid)])


def test_an_id_that_the_server_does_not_know_is_set_aside(server):
    """404 says that there is no such schema, so the record cannot be read by anyone."""
    server.register(SUBJECT, TEXT)

    decoded = codec_on(server).columns([b"\0\0\0\x03\xe7body"], [])

    assert [Reason.UNKNOWN_SCHEMA] == [r.reason for r in decoded.rejected]


def test_a_server_that_fails_decides_nothing_about_a_record(server):
    """A registry that is down must not turn good records into dead letters."""
    server.register(SUBJECT, TEXT)
    codec = codec_on(server)
    codec.encode(record("interaction", "answered"))
    server.broken = True

    with pytest.raises(RegistryUnavailable):
        codec.columns([b"\0\0\0\x03\xe7body"], [])


def test_an_address_without_a_server_is_unavailable():
    """Nobody there is told as such."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        registry = ConfluentRegistry(url, config={"max.retries": 0})

        with pytest.raises(RegistryUnavailable, match=url):
            registry.schema(1)
