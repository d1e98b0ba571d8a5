"""Partials on the wire."""

import random

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from processors.fold import Section
from processors.merge import Stretch
from schemas.catalogue import PARTIALS
from streams.partials import PART_BYTES, Writer, block_of, destination_of, partials_records
from tests.builders import INTERACTIONS, small_definitions
from tests.laws import law

CODEC = small_definitions().codec(PARTIALS)
STRETCHES = (
    Stretch(INTERACTIONS, 0, 3, 9, 1_000),
    Stretch(INTERACTIONS, 1, 5, 5, None, begins=True),
)


def _section(keys: list[str], pad: str = "") -> Section:
    rows = pl.DataFrame(
        {"key": keys, "pane": [10_000] * len(keys), "offered": range(len(keys)), "pad": pad},
        schema_overrides={"pane": pl.Int64, "offered": pl.Int64, "key": pl.String},
    )
    return Section("interactions", "queue", "sums", rows)


def _blocks(sections: list[Section], destinations: int):
    writer = Writer("writer", "definitions", "edition", 2, destinations)
    records = partials_records(CODEC, writer, STRETCHES, sections, 77)
    blocks: dict[int, list] = {}
    for record in records:
        assert len(record.value) < 1 << 20
        blocks.setdefault(record.partition, []).append(block_of(CODEC.read(record.value)))
    return blocks


@law(30)
@given(
    st.lists(st.lists(st.text(max_size=4), max_size=12, unique=True).map(_section), max_size=3),
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
            found += section.rows.rows()

    assert sorted(row for section in sections for row in section.rows.rows()) == sorted(found)


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
    blocks = _blocks([_section([f"{n}"], pad=_noise(n)) for n in range(3)], 1)[0]

    assert [(n, len(blocks)) for n in range(len(blocks))] == [(b.part, b.parts) for b in blocks]
    assert len(blocks) > 1


def _noise(seed: int) -> str:
    # Compresses to more than half of a part.
    return random.Random(seed).randbytes(PART_BYTES // 2).hex()


def test_keys_that_share_their_first_column_share_their_partition():
    """A team's members lie with the team, so that rules can compare them."""
    destinations = {destination_of(f"T1\x1fA{n}", 64) for n in range(50)}

    assert {destination_of("T1", 64)} == destinations
