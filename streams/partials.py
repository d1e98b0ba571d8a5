"""Partials on the wire: sections as Arrow columns in records of contract `partials`.

A record holds what one flush has for one destination partition, cut into parts that stay below a
broker's default message limit. Every source that the flush moved is named in every part.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
import polars as pl
import xxhash
from numpy.typing import NDArray

from processors.fold import NO_PANE, Section, SectionKind
from processors.keys import KEY_SEPARATOR
from processors.merge import Block, Stretch
from processors.segments import UNKNOWN_TIME
from schemas.catalogue import PARTIALS
from schemas.codec import Codec
from streams.records import Record

#: Columns of a part stay below this, so that with its head it is below 1 MiB.
PART_BYTES = 800_000

_SMALL_BYTES = 16_384
_MOST_KNOWN = 1 << 20


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes partials, and by which definitions."""

    transactional_id: str
    definitions: str
    edition: str
    epoch: int
    destinations: int


def destination_of(key: str, destinations: int) -> int:
    """Return the partition that owns a key: a stable hash of its first column."""
    first = key.partition(KEY_SEPARATOR)[0]
    return xxhash.xxh3_64_intdigest(first.encode()) % destinations


def _destinations_of(keys: Sequence[str], destinations: int) -> NDArray[np.int64]:
    known = _known(destinations)
    found = list(map(known.get, keys))
    if None in found:
        if len(known) > _MOST_KNOWN:
            known.clear()
        known.update((key, destination_of(key, destinations)) for key in set(keys) - known.keys())
        found = list(map(known.get, keys))
    return np.array(found, np.int64)


@lru_cache
def _known(_destinations: int) -> dict[str, int]:
    """The keys met so far, for one number of destinations."""
    return {}


def partials_records(
    codec: Codec,
    writer: Writer,
    stretches: Sequence[Stretch],
    sections: Sequence[Section],
    append_time_ms: int | None,
) -> list[Record]:
    """Return the records that announce the stretches to every destination, with its sections."""
    routed: list[list[dict[str, Any]]] = [[] for _ in range(writer.destinations)]
    for section in sections:
        for destination, own in _route(section, writer.destinations):
            routed[destination] += map(_section, _pieces(own))
    head = {
        "writer": writer.transactional_id,
        "definitions": writer.definitions,
        "edition": writer.edition,
        "epoch": writer.epoch,
        "append_time": append_time_ms,
        "sources": [_stretch(stretch) for stretch in stretches],
    }
    return [
        Record(PARTIALS, destination, b"", codec.encode(head | part))
        for destination, found in enumerate(routed)
        for part in _numbered(found)
    ]


def _route(section: Section, destinations: int) -> Iterator[tuple[int, Section]]:
    """Yield what is for each destination, the rows of a scope still one after the other."""
    scopes = np.repeat(np.arange(len(section.scopes)), [count for _, count in section.scopes])
    found = _destinations_of(section.rows["key"].to_list(), destinations)
    ordered = section.rows[np.argsort(found, kind="stable")]
    width = len(section.scopes)
    counts = np.bincount(found * width + scopes, minlength=destinations * width)
    start = 0
    for destination, own in enumerate(counts.reshape(destinations, width).tolist()):
        if count := sum(own):
            names = (scope for scope, _ in section.scopes)
            held = tuple((scope, n) for scope, n in zip(names, own, strict=True) if n)
            yield destination, replace(section, scopes=held, rows=ordered.slice(start, count))
            start += count


def _pieces(section: Section) -> Iterator[Section]:
    """Cut a section into some that each go into a part."""
    rows = section.rows
    length = -(-len(rows) // max(1, -(-int(rows.estimated_size()) // PART_BYTES)))
    if length == len(rows):
        yield section
        return
    for start in range(0, len(rows), length):
        stop = min(start + length, len(rows))
        shares = ((s, min(stop, part.stop) - max(start, part.start)) for s, part in section.parts)
        held = tuple((scope, count) for scope, count in shares if count > 0)
        yield replace(section, scopes=held, rows=rows[start:stop])


def _section(section: Section) -> dict[str, Any]:
    out = io.BytesIO()
    large = section.rows.estimated_size() > _SMALL_BYTES
    section.rows.write_ipc_stream(out, compression="zstd" if large else "uncompressed")
    return {
        "source": section.source,
        "kind": section.kind,
        "names": section.names,
        "scopes": [{"scope": scope, "rows": count} for scope, count in section.scopes],
        "columns": out.getvalue(),
    }


def _numbered(sections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Distribute the sections over as few parts as hold them; there is at least one part."""
    parts: list[list[dict[str, Any]]] = [[]]
    size = 0
    for section in sections:
        size += len(section["columns"])
        if size > PART_BYTES and parts[-1]:
            parts.append([])
            size = len(section["columns"])
        parts[-1].append(section)
    return [{"part": i, "parts": len(parts), "sections": part} for i, part in enumerate(parts)]


def _stretch(stretch: Stretch) -> dict[str, Any]:
    return {
        "topic": stretch.topic,
        "partition": stretch.partition,
        "from_position": stretch.from_position,
        "to_position": stretch.to_position,
        "watermark": stretch.watermark_ms,
        "begins": stretch.begins,
    }


def block_of(record: Mapping[str, Any]) -> Block:
    """Return the block that a decoded record of partials holds."""
    return Block(
        tuple(
            Stretch(
                source["topic"],
                source["partition"],
                source["from_position"],
                source["to_position"],
                source["watermark"],
                source["begins"],
            )
            for source in record["sources"]
        ),
        record["part"],
        record["parts"],
        tuple(_decoded(section) for section in record["sections"]),
    )


def _decoded(section: Mapping[str, Any]) -> Section:
    kind = cast(SectionKind, section["kind"])
    rows = pl.read_ipc_stream(io.BytesIO(section["columns"]))
    scopes = tuple((each["scope"], each["rows"]) for each in section["scopes"])
    if not scopes:
        return _of_version_1(section["source"], kind, section["scope"], rows)
    return Section(section["source"], kind, tuple(section["names"]), scopes, rows)


def _of_version_1(source: str, kind: SectionKind, scope: str, rows: pl.DataFrame) -> Section:
    """Return a section that had a column for each measure, and null for what is not known."""
    scopes = ((scope, len(rows)),)
    if kind == "histogram":
        places = rows.select("key", "pane", pl.col("bucket").alias("place"), "count")
        return Section(source, kind, (rows.item(0, "measure"),), scopes, places)
    if kind == "samples":
        return Section(source, kind, (), scopes, rows)
    unknown = {"rule": NO_PANE, "attribute_time": UNKNOWN_TIME}
    head = rows.select(
        pl.col(name).fill_null(unknown[name]) if name in unknown else name
        for name in ("key", "pane", "rule", "attribute", "attribute_time")
        if name in rows.columns
    )
    names = tuple(name for name in rows.columns if name not in head.columns)
    values = pl.Series("values", rows.select(names).to_numpy(order="c"))
    return Section(source, kind, names, scopes, head.with_columns(values))
