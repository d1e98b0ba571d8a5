"""State in a changelog topic: what a checkpoint writes, and reading it back.

Each partition of inputs and partials has one partition of a compacted changelog topic. Four kinds
of records stand in it:

- *progress*, one record, written by every flush that takes anything from the partition: how far it
  is processed, and what the state must look like there;
- *basis*, one record, written with the first progress under other definitions: see
  :mod:`streams.basis`;
- *rebuild*, one record, there while a rebuild is under way: see :mod:`streams.rebuild`;
- *checkpoint blocks*, written now and then, all of one checkpoint in one transaction: the state at
  a position. Only what changed since the last checkpoint is written.

State at the progress is state at the checkpoint plus the records between the two, taken through the
very same functions again (see :mod:`streams.recovery`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import cramjam
import numpy as np

from processors.fold import Account, SourceState
from processors.merge import Link, Merge
from processors.rules import GroupState, Sample
from processors.segment_store import Place
from streams.basis import Basis

#: What the records of a changelog mean. Raise it with every change of that.
STATE_FORMAT = 2
#: Those that are read. In 1 segments were laid out otherwise; each says how it is.
_READABLE = (1, STATE_FORMAT)

#: Blocks are cut below this: a broker's default limit for a message is 1 MiB.
BLOCK_BYTES = 900_000

_PROGRESS = "progress"
_CHECKPOINT = "checkpoint"
_BASIS = "basis"
_REBUILD = "rebuild"


class UnknownFormat(Exception):
    """State was written in a form that this release does not know."""


class Entry(NamedTuple):
    """A record of a changelog: a value of None takes the key out."""

    key: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Advance:
    """A logged advance of a watermark: it holds from ``position`` on."""

    position: int
    watermark_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a partition is processed.

    ``advances`` are those since the checkpoint at ``checkpoint`` (None before the first one).
    """

    position: int
    writer: str
    checkpoint: int | None = None
    watermark_ms: int | None = None
    account: Account = field(default_factory=Account)
    advances: tuple[Advance, ...] = ()

    def entry(self, epoch: int) -> Entry:
        """Return the changelog record."""
        return Entry(_key(epoch, _PROGRESS), _dump({"format": STATE_FORMAT, **asdict(self)}))


def basis_entry(basis: Basis, epoch: int) -> Entry:
    """Return the changelog record of what state rests on."""
    return Entry(_key(epoch, _BASIS), basis.dump())


def rebuild_entry(epoch: int, start: int | None) -> Entry:
    """Return the changelog record that a rebuild is under way, from ``start``; None ends it."""
    value = None if start is None else _dump({"start": start})
    return Entry(_key(epoch, _REBUILD), value)


@dataclass(frozen=True, slots=True)
class Saved:
    """What a changelog partition holds for one rebuild epoch.

    ``rebuild_start`` is where a rebuild that is under way begins to read, None if none is.
    """

    progress: Progress | None = None
    basis: Basis | None = None
    checkpoint: dict[str, Any] | None = None
    blocks: Mapping[str, bytes] = field(default_factory=dict)
    stale: tuple[bytes, ...] = ()
    rebuild_start: int | None = None

    @property
    def newest_epoch(self) -> int:
        """The highest epoch among stale keys, -1 where there are none."""
        return newest_epoch(self.stale)


def newest_epoch(keys: Iterable[bytes]) -> int:
    """Return the highest rebuild epoch among keys, -1 where there are none."""
    return max((int(key.split(b"|", 1)[0]) for key in keys), default=-1)


def writer_of(key: bytes, value: bytes | None) -> str | None:
    """Return who wrote a progress record, of whatever epoch; None for any other record."""
    if value is None or key.split(b"|", 1)[-1] != _PROGRESS.encode():
        return None
    writer: str = json.loads(value)["writer"]
    return writer


def read_saved(entries: Iterable[tuple[bytes, bytes | None]], epoch: int) -> Saved:
    """Return the newest value of each key; keys of other epochs are stale, to be taken out.

    Raises :class:`UnknownFormat` for a progress record of another format.
    """
    newest: dict[bytes, bytes] = {}
    for key, value in entries:
        if value is None:
            newest.pop(key, None)
        else:
            newest[key] = value
    own = f"{epoch}|"
    named = {key.decode(): value for key, value in newest.items()}
    values = {key.removeprefix(own): value for key, value in named.items() if key.startswith(own)}
    progress = values.pop(_PROGRESS, None)
    basis = values.pop(_BASIS, None)
    checkpoint = values.pop(_CHECKPOINT, None)
    rebuild = values.pop(_REBUILD, None)
    return Saved(
        _progress(json.loads(progress)) if progress else None,
        Basis.load(basis) if basis else None,
        json.loads(checkpoint) if checkpoint else None,
        _join(values),
        tuple(key.encode() for key in named if not key.startswith(own)),
        json.loads(rebuild)["start"] if rebuild else None,
    )


def _progress(values: dict[str, Any]) -> Progress:
    found = values.pop("format", 0)
    if found not in _READABLE:
        raise UnknownFormat(f"found state of format {found}, expected {STATE_FORMAT}")
    values["account"] = Account(**values["account"])
    values["advances"] = tuple(Advance(**advance) for advance in values["advances"])
    return Progress(**values)


# -- fold -----------------------------------------------------------------------------------------


class SourceBlocks:
    """Checkpoint blocks of a source partition: its position, seen ids and versions by bucket."""

    def __init__(self) -> None:
        self._written: dict[int, list[str]] = {}

    def save(self, state: SourceState, epoch: int) -> list[Entry]:
        """Return what to write: what is new, and tombstones of buckets that are closed."""
        open_buckets = state.seen.buckets | state.versions.buckets.keys()
        closed = [bucket for bucket in self._written if bucket not in open_buckets]
        entries = [Entry(_key(epoch, name), None) for b in closed for name in self._written.pop(b)]
        for bucket, hashes in state.seen.take_unsaved().items():
            for place in range(0, len(hashes), BLOCK_BYTES // 16):
                name = f"seen|{bucket}|{state.position}.{place}"
                block = hashes[place : place + BLOCK_BYTES // 16].tobytes()
                entries.append(self._block(bucket, name, block, epoch))
        for place, (bucket, block) in enumerate(state.versions.take_unsaved()):
            name = f"versions|{bucket}|{state.position}.{place}"
            entries.append(self._block(bucket, name, block, epoch))
        head = {
            "position": state.position,
            "watermark_ms": state.watermark_ms,
            "account": asdict(state.account),
        }
        return [*entries, Entry(_key(epoch, _CHECKPOINT), _dump(head))]

    def _block(self, bucket: int, name: str, block: bytes, epoch: int) -> Entry:
        self._written.setdefault(bucket, []).append(name)
        return Entry(_key(epoch, name), block)

    def load(self, saved: Saved) -> SourceState:
        """Return the state at the checkpoint; a new state where there is none."""
        state = SourceState()
        if saved.checkpoint is None:
            return state
        state.position = saved.checkpoint["position"]
        state.watermark_ms = saved.checkpoint["watermark_ms"]
        state.account = Account(**saved.checkpoint["account"])
        for name, block in saved.blocks.items():
            kind, start, _ = name.split("|")
            bucket = int(start)
            self._written.setdefault(bucket, []).append(name)
            if kind == "seen":
                state.seen.restore(bucket, np.frombuffer(block, np.uint64).reshape(-1, 2))
            else:
                state.versions.restore(bucket, block)
        return state


# -- merge ----------------------------------------------------------------------------------------


class MergeBlocks:
    """Checkpoint blocks of a merge: segments, keys, samples, and the lives of rules."""

    def __init__(self) -> None:
        self._parts: dict[str, int] = {}

    def save(self, merge: Merge, epoch: int) -> list[Entry]:
        """Return what to write: all that changed since the last call. Publish first."""
        entries: list[Entry] = []
        for scope_id, state in merge.scopes.items():
            for place in state.segments.dropped:
                entries += self._cut(_segment_name(scope_id, place), None, epoch)
            state.segments.dropped.clear()
            for place, packed in state.segments.unsaved():
                entries += self._cut(_segment_name(scope_id, place), packed, epoch)
            entries += self._save_keys(merge, scope_id, epoch)
        head = {
            "position": merge.position,
            "chain": [[*source, *_link(link)] for source, link in merge.chain.items()],
            "watermarks": [[*source, ms] for source, ms in merge.watermarks.items()],
            "skipped": merge.skipped,
            "too_late": merge.too_late,
            "ticked": {scope_id: state.ticked for scope_id, state in merge.scopes.items()},
            "joined": {
                scope_id: [[*source, ms] for source, ms in state.joined.items()]
                for scope_id, state in merge.scopes.items()
            },
        }
        entries += self._cut("rules", _pack(_rule_state(merge)), epoch)
        return [*entries, Entry(_key(epoch, _CHECKPOINT), _dump(head))]

    def _save_keys(self, merge: Merge, scope_id: str, epoch: int) -> list[Entry]:
        state = merge.scopes[scope_id]
        new = state.keys[state.saved_keys :]
        if not new:
            return []
        name = f"keys|{scope_id}|{state.saved_keys}"
        state.saved_keys = len(state.keys)
        return self._cut(name, _pack(new), epoch)

    def _cut(self, name: str, block: bytes | None, epoch: int) -> list[Entry]:
        parts = [] if block is None else _parts(block)
        before = self._parts.pop(name, 0)
        if parts:
            self._parts[name] = len(parts)
        entries = [Entry(_key(epoch, f"{name}#{i}"), part) for i, part in enumerate(parts)]
        gone = range(len(parts), before)
        return entries + [Entry(_key(epoch, f"{name}#{i}"), None) for i in gone]

    def load(self, merge: Merge, saved: Saved) -> None:
        """Bring a new merge to the checkpoint; leave it as it is where there is none."""
        if saved.checkpoint is None:
            return
        head = saved.checkpoint
        merge.position = head["position"]
        for topic, partition, *link in head["chain"]:
            merge.chain[topic, partition] = Link(*link)
        for topic, partition, watermark_ms in head["watermarks"]:
            merge.watermarks[topic, partition] = watermark_ms
        merge.skipped, merge.too_late = head["skipped"], head["too_late"]
        for name, count in _part_counts(saved.blocks):
            self._parts[name] = count
        blocks = {name: block for name, block in saved.blocks.items() if "#" not in name}
        self._load_keys(merge, blocks)
        for name, block in blocks.items():
            kind, *place = name.split("|")
            if kind == "segment" and place[0] in merge.scopes:
                merge.restore(place[0], (int(place[1]), int(place[2])), block)
        for scope_id, ticked in head["ticked"].items():
            merge.scopes[scope_id].ticked.update(ticked)
            joined = head["joined"][scope_id]
            merge.scopes[scope_id].joined.update({(t, p): ms for t, p, ms in joined})
        if "rules" in blocks:
            _load_rule_state(merge, _unpack(blocks["rules"]))

    def _load_keys(self, merge: Merge, blocks: Mapping[str, bytes]) -> None:
        chunks = [name.split("|") for name in blocks if name.startswith("keys|")]
        for _, scope_id, start in sorted(chunks, key=lambda chunk: int(chunk[2])):
            if scope_id in merge.scopes:
                state = merge.scopes[scope_id]
                state.codes_of(_unpack(blocks[f"keys|{scope_id}|{start}"]))
                state.saved_keys = len(state.keys)


def _segment_name(scope_id: str, place: Place) -> str:
    return f"segment|{scope_id}|{place[0]}|{place[1]}"


def _link(link: Link) -> list[int]:
    return [link.to_position, link.part, link.parts]


def _rule_state(merge: Merge) -> dict[str, Any]:
    return {
        "groups": [
            [_group_name(runtime), runtime.next_tick_ms, runtime.state.dump()]
            for runtime in merge.groups
        ],
        "samples": {
            scope_id: [
                [start, n, code, sample, ids.event_time_ms, ids.interaction_id, ids.evaluation_id]
                for start, found in state.samples.items()
                for (code, sample, ids), n in found.items()
            ]
            for scope_id, state in merge.scopes.items()
        },
    }


def _load_rule_state(merge: Merge, values: dict[str, Any]) -> None:
    groups = {name: (tick, dump) for name, tick, dump in values["groups"]}
    for runtime in merge.groups:
        if _group_name(runtime) in groups:
            runtime.next_tick_ms, dump = groups[_group_name(runtime)]
            runtime.state = GroupState.load(dump)
            merge.rebuild_running(runtime)
    for scope_id, found in values["samples"].items():
        for start, count, code, sample, *ids in found if scope_id in merge.scopes else ():
            counts = merge.scopes[scope_id].samples.setdefault(start, {})
            counts[code, sample, Sample(*ids)] = count


def _group_name(runtime: Any) -> str:
    group = runtime.group
    return f"{group.scope.id}|{group.window_ms}|{group.every_ms}"


# -- bytes ----------------------------------------------------------------------------------------


def _key(epoch: int, name: str) -> bytes:
    return f"{epoch}|{name}".encode()


def _dump(values: Any) -> bytes:
    return json.dumps(values, separators=(",", ":"), sort_keys=True).encode()


def _pack(values: Any) -> bytes:
    return bytes(cramjam.zstd.compress(_dump(values), level=1))


def _unpack(block: bytes) -> Any:
    return json.loads(bytes(cramjam.zstd.decompress(block)))


def _parts(block: bytes) -> list[bytes]:
    """Cut a block; each part begins with the number of parts, so that old ones are not joined."""
    cuts = range(0, max(len(block), 1), BLOCK_BYTES)
    head = len(cuts).to_bytes(4, "big")
    return [head + block[cut : cut + BLOCK_BYTES] for cut in cuts]


def _part_counts(blocks: Mapping[str, bytes]) -> Iterable[tuple[str, int]]:
    for name, block in blocks.items():
        if name.endswith("#0"):
            yield name.removesuffix("#0"), int.from_bytes(block[:4], "big")


def _join(values: Mapping[str, bytes]) -> dict[str, bytes]:
    """Join the parts of cut blocks, beside the parts themselves; whole values stay as they are."""
    joined = dict(values)
    for name, count in _part_counts(values):
        joined[name] = b"".join(values[f"{name}#{i}"][4:] for i in range(count))
    return joined
