"""The latest KPI records in Redis: columns in, one script per chunk, compare-and-set on version."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import polars as pl
import redis

from sinks.keys import DEFAULT_KEYS, Keys

CHUNK = 100
_HOUR_MS = 3_600_000


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
# series have in common is asked and told once. Records are long, and no string of Lua is made of
# one but for its own row: versions lie beside them, and values are taken from them when they go.
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

local function version_of(text)
  return text and string.match(text, '"version":(%d+)')
end

local function remember(key, start, version, record)
  local held = redis.call('ZRANGEBYSCORE', key, start, start)[1]
  if held then
    if not newer(version, version_of(held)) then return false end
    redis.call('ZREM', key, held)
  end
  local values = {}
  for _, kpi in ipairs(cjson.decode(record).kpis) do
    local value = tonumber(kpi.value)
    values[kpi.kpi_id] = value and tonumber(string.format('%.4f', value)) or cjson.null
  end
  redis.call('ZADD', key, start, string.format(
    '{"version":%s,"start_time":%s,"kpis":%s}', version, start, cjson.encode(values)))
  redis.call('ZREMRANGEBYRANK', key, 0, -keep - 1)
  redis.call('PEXPIRE', key, ttl)
  return true
end

-- A window further back than its own length (a day may have 25 hours) is history.
local function make_room(series, rows)
  local starts, newest = redis.call('HKEYS', series.records), -math.huge
  for _, start in ipairs(starts) do newest = math.max(newest, tonumber(start)) end
  for _, row in ipairs(rows) do newest = math.max(newest, tonumber(row.start)) end
  local oldest = newest - size * 1.1
  for _, start in ipairs(starts) do
    if tonumber(start) < oldest then
      local record = keep > 0 and redis.call('HGET', series.records, start)
      if record then remember(series.history, start, version_of(record), record) end
      redis.call('HDEL', series.records, start)
      redis.call('HDEL', series.versions, start)
    end
  end
  for _, row in ipairs(rows) do row.past = tonumber(row.start) < oldest end
end

local function compare(series, rows)
  local starts, opens = {}, false
  for i, row in ipairs(rows) do starts[i] = row.start end
  local versions = redis.call('HMGET', series.versions, unpack(starts))
  -- A version speaks of nothing without its record.
  if redis.call('EXISTS', series.records) == 0 then versions = {} end
  for i, row in ipairs(rows) do
    local held = versions[i] or version_of(redis.call('HGET', series.records, row.start))
    row.newer = not held or newer(row.version, held)
    opens = opens or not held
  end
  return opens
end

local function write(member, rows)
  local name = scope .. '|' .. member .. '|' .. window
  local series = {
    records = prefix .. ':kpi:' .. name,
    versions = prefix .. ':versions:' .. name,
    history = prefix .. ':history:' .. name,
  }
  local records, versions, computed = {}, {}, 0
  if compare(series, rows) then make_room(series, rows) end
  for _, row in ipairs(rows) do
    local start, version, record = row.start, row.version, row.record
    if row.newer and not row.past then
      records[#records + 1], records[#records + 2] = start, record
      versions[#versions + 1], versions[#versions + 2] = start, version
      computed = math.max(computed, tonumber(row.computed))
    elseif row.newer then
      row.newer = keep > 0 and remember(series.history, start, version, record)
    end
    if row.newer then changed[#changed + 1] = name .. '|' .. start end
  end
  if #records == 0 then return end
  redis.call('HSET', series.records, unpack(records))
  redis.call('HSET', series.versions, unpack(versions))
  redis.call('PEXPIRE', series.records, ttl)
  redis.call('PEXPIRE', series.versions, ttl)
  members[#members + 1], members[#members + 2] = computed, member
end

local member, rows
for start, version, computed, length, name in
  string.gmatch(ARGV[7], '(%S+) (%S+) (%S+) (%S+) ([^\\n]*)\\n')
do
  if name ~= member then
    if rows then write(member, rows) end
    member, rows = name, {}
  end
  local record = string.sub(texts, at, at + length - 1)
  rows[#rows + 1] = {start = start, version = version, computed = computed, record = record}
  at = at + length
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

#: What all rows of a call have in common.
_SHARED = ("scope", "window", "size", "ttl", "keep")
#: What is short of a row, and how long its record is in bytes.
_LINE = ("start", "version", "computed", "length", "member")


@dataclass(frozen=True, slots=True)
class RedisKpis:
    """Keeps the newest version of every KPI record; asked twice, it changes nothing.

    `client` must be made with `decode_responses=False`. Series of `without_history` scopes
    (those of persons, of which there are many) leave no values behind for sparklines.
    """

    client: redis.Redis
    keys: Keys = DEFAULT_KEYS
    retention: Mapping[str, Retention] = field(default_factory=lambda: RETENTION)
    without_history: frozenset[str] = frozenset({"agent"})

    def write(self, names: Sequence[str], records: pl.DataFrame) -> Written:
        """Write KPI records, one a row in the columns of contract `kpi-record`.

        `names` are their Kafka keys, in the same order. Raises redis.RedisError; a batch that was
        written in part may simply be written again.
        """
        return self.write_pieces([(names, records)])

    def write_pieces(self, pieces: Iterable[tuple[Sequence[str], pl.DataFrame]]) -> Written:
        """Write KPI records as `write` does, each piece while the next one is made."""
        count, applied, heads = 0, 0, []
        with ThreadPoolExecutor(1) as behind:
            writing: Future[list[int]] | None = None
            for names, records in pieces:
                rows = self._rows(*_newest(names, records))
                pipe = self._pipe(rows)
                applied += sum(writing.result()) if writing else 0
                writing = behind.submit(pipe.execute)
                heads.append(_heads(rows))
                count += records.height
            applied += sum(writing.result()) if writing else 0
        self._advance(pl.concat(heads))
        return Written(applied, count - applied)

    def _pipe(self, rows: pl.DataFrame) -> redis.client.Pipeline:
        pipe = self.client.pipeline(transaction=False)
        script = self.client.register_script(_LUA_RECORDS)
        lines, records = _joined(rows["line"]), _joined(rows["record"])
        start = 0
        for *shared, count in rows.group_by(_SHARED, maintain_order=True).len().iter_rows():
            for first in range(start, start + count, CHUNK):
                some = slice(first, min(first + CHUNK, start + count))
                arguments = [self.keys.prefix, *shared, lines(some), records(some)]
                script(args=arguments, client=pipe)
            start += count
        return pipe

    def _rows(self, names: pl.Series, records: pl.DataFrame) -> pl.DataFrame:
        window = pl.col("window").struct
        kind = window.field("kind")
        fields = ["version", *(name for name in records.columns if name != "version")]
        keeps = {kind: held.history for kind, held in self.retention.items()}
        lives = {kind: held.ttl_ms for kind, held in self.retention.items()}
        part = pl.lit(names).str.split("|").list
        record = pl.struct(fields).struct.json_encode()
        keep = kind.replace_strict(keeps, return_dtype=pl.Int64)
        is_kept = ~pl.col("scope").is_in(list(self.without_history))
        rows = records.select(
            "scope",
            "version",
            "watermark",
            part.get(2).alias("window"),
            part.get(1).alias("member"),
            window.field("start_time").alias("start"),
            window.field("size_ms").alias("size"),
            pl.col("computed_time").alias("computed"),
            kind.replace_strict(lives, return_dtype=pl.Int64).alias("ttl"),
            pl.when(is_kept).then(keep).otherwise(0).alias("keep"),
            record.alias("record"),
        )
        line = pl.concat_str(*_LINE, separator=" ") + "\n"
        return (
            rows.with_columns(
                pl.col("record").cast(pl.Binary),
                length=pl.col("record").str.len_bytes(),
            )
            .with_columns(line.alias("line"))
            .sort("scope", "window", "member")
        )

    def _advance(self, heads: pl.DataFrame) -> None:
        """Tell how far heads have come: last, so that all their records are there by then."""
        furthest = (
            heads.group_by("head")
            .max()
            .with_columns(pl.col("watermark").cast(pl.String).fill_null(""))
        )
        columns = furthest.select("head", "start", "computed", "watermark", "ttl")
        arguments = [value for row in columns.iter_rows() for value in row]
        self.client.register_script(_LUA_HEADS)(args=[self.keys.prefix, *arguments])


def _heads(rows: pl.DataFrame) -> pl.DataFrame:
    head = pl.concat_str("scope", "window", separator="|").alias("head")
    return rows.group_by(head).agg(pl.col("start", "computed", "watermark", "ttl").max())


def _joined(texts: pl.Series) -> Callable[[slice], memoryview]:
    """Return what gives the texts of some rows in one, without a copy of them."""
    _, offsets, text = texts.to_arrow(compat_level=pl.CompatLevel.oldest()).buffers()
    starts, whole = np.frombuffer(offsets, np.int64), memoryview(text)
    return lambda rows: whole[starts[rows.start] : starts[rows.stop]]


def _newest(names: Sequence[str], records: pl.DataFrame) -> tuple[pl.Series, pl.DataFrame]:
    """Return each name once, fit to stand in a line, with the record of its highest version."""
    name = pl.Series("name", names, dtype=pl.String).str.replace_all("\n", "%0A", literal=True)
    if not name.is_duplicated().any():
        return name, records
    places = pl.DataFrame({"name": name, "version": records["version"]}).with_row_index()
    newest = places.sort("version").unique("name", keep="last")["index"].sort()
    return name.gather(newest), records[newest]
