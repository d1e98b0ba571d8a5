"""Partials on the wire."""

import io
import json
import random
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

import schemas
from processors.fold import NO_PANE, Section
from processors.merge import Stretch
from processors.segments import UNKNOWN_TIME
from schemas.catalogue import PARTIALS
from schemas.contract import load_contract
from schemas.resolution import plan
from streams.partials import PART_BYTES, Writer, block_of, destination_of, partials_records
from tests.builders import INTERACTIONS, small_definitions
from tests.laws import law

CODEC = small_definitions().codec(PARTIALS)
STRETCHES = (
    Stretch(INTERACTIONS, 0, 3, 9, 1_000),
    Stretch(INTERACTIONS, 1, 5, 5, None, begins=True),
)


def _section(*keys: list[str], pad: str = "") -> Section:
    """Return a section of scopes s0, s1 ... with these keys."""
    joined = [key for own in keys for key in own]
    values = np.arange(len(joined), dtype=np.int64).reshape(-1, 1)
    rows = pl.DataFrame(
        {"key": joined, "pane": [10_000] * len(joined), "pad": pad},
        schema_overrides={"pane": pl.Int64, "key": pl.String},
    ).with_columns(pl.Series("values", values))
    scopes = tuple((f"s{number}", len(own)) for number, own in enumerate(keys) if own)
    return Section("interactions", "sums", ("offered",), scopes, rows)


def _by_scope(section: Section) -> list[tuple[str, Any]]:
    scopes = (scope for scope, count in section.scopes for _ in range(count))
    return list(zip(scopes, map(repr, section.rows.rows()), strict=True))


def _blocks(sections: list[Section], destinations: int):
    writer = Writer("writer", "definitions", "edition", 2, destinations)
    records = partials_records(CODEC, writer, STRETCHES, sections, 77)
    blocks: dict[int, list] = {}
    for record in records:
        assert len(record.value) < 1 << 20
        blocks.setdefault(record.partition, []).append(block_of(CODEC.read(record.value)))
    return blocks


_keys = st.lists(st.text(max_size=4), max_size=12, unique=True)


@law(30)
@given(
    st.lists(st.lists(_keys, max_size=3).map(lambda of: _section(*of)), max_size=3),
    st.integers(1, 5),
)
def test_every_row_reaches_the_partition_that_owns_its_key_and_no_other(sections, destinations):
    """Rows are routed by the first column of their key; nothing is lost, doubled or changed."""
    sections = [section for section in sections if len(section.rows)]
    blocks = _blocks(sections, destinations)
    found = []
    for destination, several in blocks.items():
        for section in (section for block in several for section in block.sections):
            keys = section.rows["key"].to_list()
            assert {destination} >= {destination_of(key, destinations) for key in keys}
            assert ("interactions", "sums", ("offered",)) == (
                section.source,
                section.kind,
                section.names,
            )
            found += _by_scope(section)

    assert sorted(row for section in sections for row in _by_scope(section)) == sorted(found)


@law(20)
@given(st.integers(1, 5))
def test_a_flush_is_announced_to_every_destination(destinations):
    """Also to those it has nothing for: their watermarks and chains go on."""
    blocks = _blocks([], destinations)

    assert set(range(destinations)) == set(blocks)
    for several in blocks.values():
        assert [(STRETCHES, 0, 1, ())] == [
            (block.sources, block.part, block.parts, block.sections) for block in several
        ]


def test_a_large_flush_goes_in_parts_that_are_numbered_in_order():
    """Each part stays below a broker's limit and names how many there are."""
    sections = [_section([f"{n}"], pad=_noise(n)) for n in range(3)]
    # One that is too large by itself is cut, within a scope and between two.
    large = _section(["a"], ["b", "c"], pad=_noise(3))
    blocks = _blocks([*sections, large], 1)[0]

    assert [(n, len(blocks)) for n in range(len(blocks))] == [(b.part, b.parts) for b in blocks]
    assert len(blocks) > len(sections)
    found = [_by_scope(section) for block in blocks for section in block.sections]
    assert sorted(row for of in (*sections, large) for row in _by_scope(of)) == sorted(
        row for of in found for row in of
    )


def _noise(seed: int) -> str:
    # Compresses to more than half of a part.
    return random.Random(seed).randbytes(PART_BYTES // 2).hex()


def test_keys_that_share_their_first_column_share_their_partition():
    """A team's members lie with the team, so that rules can compare them."""
    destinations = {destination_of(f"T1\x1fA{n}", 64) for n in range(50)}

    assert {destination_of("T1", 64)} == destinations


def test_sections_of_version_1_are_read_as_those_of_today():
    """They had one scope, a column for each measure, and null where nothing was known."""
    sums = {
        "key": ["a", "b"],
        "pane": [0, 60_000],
        "rule": [None, 60_000],
        "attribute": ["T1", None],
        "attribute_time": [5, None],
        "offered": [1, 2],
        "answered": [3, 4],
    }
    histogram = {"key": ["a"], "pane": [0], "rule": [None], "measure": ["wait"], "bucket": [7]}
    samples = {"key": ["a"], "pane": [0], "rule": [0], "sample": ["low"], "event_time": [9]}
    found = [
        _read_from_version_1("agent", "sums", pl.DataFrame(sums)),
        _read_from_version_1("agent", "histogram", pl.DataFrame(histogram | {"count": [2]})),
        _read_from_version_1("agent", "samples", pl.DataFrame(samples)),
    ]

    assert [
        ("sums", ("offered", "answered"), (("agent", 2),)),
        ("histogram", ("wait",), (("agent", 1),)),
        ("samples", (), (("agent", 1),)),
    ] == [(section.kind, section.names, section.scopes) for section in found]
    assert [
        {
            "key": "a",
            "pane": 0,
            "rule": NO_PANE,
            "attribute": "T1",
            "attribute_time": 5,
            "values": [1, 3],
        },
        {
            "key": "b",
            "pane": 60_000,
            "rule": 60_000,
            "attribute": None,
            "attribute_time": UNKNOWN_TIME,
            "values": [2, 4],
        },
    ] == [{**row, "values": list(row["values"])} for row in found[0].rows.to_dicts()]
    assert [{"key": "a", "pane": 0, "place": 7, "count": 2}] == found[1].rows.to_dicts()
    assert samples == found[2].rows.to_dict(as_series=False)


def _read_from_version_1(scope: str, kind: str, rows: pl.DataFrame) -> Section:
    columns = io.BytesIO()
    rows.write_ipc_stream(columns)
    text = (Path(schemas.__file__).parent / "released" / "partials" / "1.avsc").read_text()
    section = {
        "source": "interactions",
        "scope": scope,
        "kind": kind,
        "rows": len(rows),
        "columns": columns.getvalue(),
    }
    record = {
        "writer": "w",
        "definitions": "d",
        "part": 0,
        "parts": 1,
        "sources": [],
        "sections": [section],
    }
    written = io.BytesIO()
    fastavro.schemaless_writer(written, json.loads(text), record)
    body = plan(load_contract("partials"), text).read(written.getvalue())
    (read,) = block_of(body).sections
    return read
