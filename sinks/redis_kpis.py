"""The latest KPI records in Redis, as they came: a script per chunk, compare-and-set on version."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import polars as pl
import redis
from redis.client import Pipeline

from sinks.keys import DEFAULT_KEYS, Keys

CHUNK = 100
#: Columns of contract `kpi-record` that must be known of a record to keep it.
COLUMNS = ("version", "computed_time", "watermark")
_HOUR_MS = 3_600_000

#: Kafka keys and values of some records, and COLUMNS of what the values say, in the same order.
Piece = tuple[Sequence[str], Sequence[bytes], pl.DataFrame]


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a series lives after its last record, and how many windows its history holds."""

    ttl_ms: int
    history: int


RETENTION: Mapping[str, Retention] = MappingProxyType(
    {
        "HOPPING": Retention(ttl_ms=2 * _HOUR_MS, history=60),
        "TUMBLING": Retention(ttl_ms=26 * _HOUR_MS, history=24),
        "DAY": Retention(ttl_ms=8 * 24 * _HOUR_MS, history=7),
    }
)


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch: records that replaced others, and records that came too late to."""

    applied: int = 0
    superseded: int = 0


# A call has rows of one head, and those of a member one after the other: what the windows of a
# series have in common is asked and told once, for each command of a script costs a microsecond or
# more. Lists of members and lives of series need not be exact to the minute: they are renewed when
# a record is a minute younger than the one that did it last, or older, if a clock was put back.
_LUA_RECORDS = """
local prefix, scope, window = ARGV[1], ARGV[2], ARGV[3]
local size, ttl, keep = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
local head, texts, at = scope .. '|' .. window, ARGV[8], 1
local members, changed = {}, {}

-- Versions are 64 bits and Lua's numbers 53: they are compared as decimal strings.
local function newer(version, held)
  if #version ~= #held then return #version > #held end
  return version > held
end

local function remember(history, start, version, record)
  local held = redis.call('ZRANGEBYSCORE', history, start, start)[1]
  if held then
    if not newer(version, string.match(held, '^%d+')) then return false end
    redis.call('ZREM', history, held)
  end
  redis.call('ZADD', history, start, version .. ' ' .. record)
  redis.call('ZREMRANGEBYRANK', history, 0, -keep - 1)
  redis.call('PEXPIRE', history, ttl)
  return true
end

local function leave(records, history, start)
  if keep > 0 then
    local held = redis.call('HMGET', records, start, 'v' .. start)
    if held[1] and held[2] then remember(history, start, held[2], held[1]) end
  end
  redis.call('HDEL', records, start, 'v' .. start)
end

-- A window further back than its own length (a day may have 25 hours) is history.
local function make_room(records, history, rows)
  local starts, newest = {}, -math.huge
  for _, field in ipairs(redis.call('HKEYS', records)) do
    local start = tonumber(field)
    if start then starts[field], newest = start, math.max(newest, start) end
  end
  for _, row in ipairs(rows) do newest = math.max(newest, tonumber(row.start)) end
  local oldest = newest - size * 1.1
  for field, start in pairs(starts) do
    if start < oldest then leave(records, history, field) end
  end
  for _, row in ipairs(rows) do row.past = tonumber(row.start) < oldest end
end

-- Marks the rows that are newer; returns whether a window opens, and when the series was renewed.
local function compare(records, rows)
  local fields, opens = {'renewed'}, false
  for i, row in ipairs(rows) do fields[i + 1] = 'v' .. row.start end
  local held = redis.call('HMGET', records, unpack(fields))
  for i, row in ipairs(rows) do
    local version = held[i + 1]
    row.newer = not version or newer(row.version, version)
    opens = opens or not version
  end
  return opens, held[1] and tonumber(held[1]) or -math.huge
end

local function write(member, rows)
  local name = scope .. '|' .. member .. '|' .. window
  local records, history = prefix .. ':kpi:' .. name, prefix .. ':history:' .. name
  local fields, n, computed = {}, 0, 0
  local opens, renewed = compare(records, rows)
  if opens then make_room(records, history, rows) end
  for _, row in ipairs(rows) do
    if row.newer then
      local start, record = row.start, string.sub(texts, row.from, row.to)
      if row.past then
        row.newer = keep > 0 and remember(history, start, row.version, record)
      else
        fields[n + 1], fields[n + 2] = start, record
        fields[n + 3], fields[n + 4] = 'v' .. start, row.version
        n, computed = n + 4, math.max(computed, tonumber(row.computed))
      end
      if row.newer then changed[#changed + 1] = name .. '|' .. start end
    end
  end
  if n == 0 then return end
  local renews = math.abs(computed - renewed) >= 60000
  if renews then fields[n + 1], fields[n + 2] = 'renewed', string.format('%.0f', computed) end
  redis.call('HSET', records, unpack(fields))
  if renews then
    redis.call('PEXPIRE', records, ttl)
    members[#members + 1], members[#members + 2] = computed, member
  end
end

local member, rows
for start, version, computed, length, name in
  string.gmatch(ARGV[7], '(%S+) (%S+) (%S+) (%S+) ([^\\n]*)\\n')
do
  if name ~= member then
    if rows then write(member, rows) end
    member, rows = name, {}
  end
  local row = {start = start, version = version, computed = computed, from = at}
  at = at + length
  row.to = at - 1
  rows[#rows + 1] = row
end
write(member, rows)
if #members > 0 then redis.call('ZADD', prefix .. ':members:' .. head, 'GT', unpack(members)) end
if #changed > 0 then
  redis.call('PUBLISH', prefix .. ':changed:' .. head, table.concat(changed, '\\n'))
end
return #changed
"""

_LUA_HEADS = """
local prefix = ARGV[1]
local function raise(hash, field, value)
  if value == '' then return end
  local held = redis.call('HGET', prefix .. hash, field)
  if not held or tonumber(value) > tonumber(held) then
    redis.call('HSET', prefix .. hash, field, value)
  end
end
for i = 2, #ARGV, 5 do
  local head = ARGV[i]
  local members = prefix .. ':members:' .. head
  raise(':heads', head, ARGV[i + 1])
  raise(':fresh', head, ARGV[i + 2])
  raise(':watermarks', head, ARGV[i + 3])
  redis.call('ZREMRANGEBYSCORE', members, '-inf', '(' .. (tonumber(ARGV[i + 2]) - ARGV[i + 4]))
  redis.call('PEXPIRE', members, ARGV[i + 4])
end
return redis.status_reply('OK')
"""


class _Head(NamedTuple):
    """A scope and the name of a window."""

    scope: str
    window: str


#: Member and start of a record as they stand in its key, and its place in the piece.
_Row = tuple[str, str, int]


class _Reach(NamedTuple):
    """How far a head has come; without a watermark until one is known."""

    start_ms: int
    computed_ms: int
    watermark_ms: int | None


@dataclass(frozen=True, slots=True)
class RedisKpis:
    """Keeps the newest version of every KPI record; asked twice, it changes nothing.

    `client` must be made with `decode_responses=False`. Series of `without_history` scopes
    (those of persons, of which there are many) leave no records behind for sparklines.
    """

    client: redis.Redis
    keys: Keys = DEFAULT_KEYS
    retention: Mapping[str, Retention] = field(default_factory=lambda: RETENTION)
    without_history: frozenset[str] = frozenset({"agent"})

    def write(
        self, names: Sequence[str], values: Sequence[bytes], records: pl.DataFrame
    ) -> Written:
        """Write KPI records: their Kafka keys, their values, and COLUMNS of what the values say.

        Raises redis.RedisError; a batch that was written in part may simply be written again.
        """
        return self.write_pieces([(names, values, records)])

    def write_pieces(self, pieces: Iterable[Piece]) -> Written:
        """Write KPI records as `write` does, each piece while the next one is made."""
        count, applied = 0, 0
        reached: dict[_Head, _Reach] = {}
        with ThreadPoolExecutor(1) as behind:
            writing: Future[list[int]] | None = None
            for piece in pieces:
                pipe = self._pipe(_newest(piece), reached)
                applied += sum(writing.result()) if writing else 0
                writing = behind.submit(pipe.execute)
                count += len(piece[0])
            applied += sum(writing.result()) if writing else 0
        if reached:
            self._advance(reached)
        return Written(applied, count - applied)

    def _pipe(self, piece: Piece, reached: dict[_Head, _Reach]) -> Pipeline:
        """Return what writes the records, having noted how far they have come."""
        names, values, records = piece
        versions, *times = (records.get_column(name).to_list() for name in COLUMNS)
        told = [f"{v} {c} {len(x)}" for v, c, x in zip(versions, times[0], values, strict=True)]
        pipe = self.client.pipeline(transaction=False)
        script = self.client.register_script(_LUA_RECORDS)
        for head, rows in _by_head(names).items():
            rows.sort()
            shared = self._shared(head)
            for first in range(0, len(rows), CHUNK):
                some = rows[first : first + CHUNK]
                lines = [f"{start} {told[i]} {member}\n" for member, start, i in some]
                texts = b"".join([values[i] for *_, i in some])
                script(args=[*shared, "".join(lines), texts], client=pipe)
            here = _reach(rows, *times)
            reached[head] = _furthest(here, reached.get(head, here))
        return pipe

    def _shared(self, head: _Head) -> tuple[str | int, ...]:
        """Return what all rows of a call have in common."""
        kind, _, size_ms = head.window.partition(":")
        held = self.retention[kind]
        keep = 0 if head.scope in self.without_history else held.history
        return self.keys.prefix, *head, size_ms, held.ttl_ms, keep

    def _advance(self, reached: Mapping[_Head, _Reach]) -> None:
        """Tell how far heads have come: last, so that all their records are there by then."""
        arguments: list[str | int] = [self.keys.prefix]
        for head, reach in reached.items():
            watermark = "" if reach.watermark_ms is None else reach.watermark_ms
            ttl_ms = self.retention[head.window.partition(":")[0]].ttl_ms
            arguments += ["|".join(head), reach.start_ms, reach.computed_ms, watermark, ttl_ms]
        self.client.register_script(_LUA_HEADS)(args=arguments)


def _newest(piece: Piece) -> Piece:
    """Return each name once, fit to stand in a line, with what has the highest version."""
    names, values, records = piece
    # A line break in a name would end its line.
    names = [name.replace("\n", "%0A") for name in names]
    if len({*names}) == len(names):
        return names, values, records
    versions = records.get_column("version").to_list()
    newest: dict[str, int] = {}
    for i in sorted(range(len(names)), key=versions.__getitem__):
        newest[names[i]] = i
    places = list(newest.values())
    return list(newest), [values[i] for i in places], records[places]


def _by_head(names: Sequence[str]) -> dict[_Head, list[_Row]]:
    heads: dict[tuple[str, str], list[_Row]] = {}
    for i, name in enumerate(names):
        scope, member, window, start = name.split("|")
        heads.setdefault((scope, window), []).append((member, start, i))
    return {_Head(*head): rows for head, rows in heads.items()}


def _reach(
    rows: Sequence[_Row], computed_ms: Sequence[int], watermarks_ms: Sequence[int | None]
) -> _Reach:
    # Few of these differ.
    starts = {start for _, start, _ in rows}
    computed = {computed_ms[i] for *_, i in rows}
    watermarks = {at for *_, i in rows if (at := watermarks_ms[i]) is not None}
    return _Reach(max(map(int, starts)), max(computed), max(watermarks, default=None))


def _furthest(one: _Reach, other: _Reach) -> _Reach:
    known = [reach.watermark_ms for reach in (one, other) if reach.watermark_ms is not None]
    start_ms, computed_ms = map(max, one[:2], other[:2])
    return _Reach(start_ms, computed_ms, max(known, default=None))
