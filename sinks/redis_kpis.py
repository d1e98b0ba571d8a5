"""The latest KPI records in Redis: columns in, one script per chunk, compare-and-set on version."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import polars as pl
import redis

from sinks.keys import DEFAULT_KEYS, Keys

CHUNK = 200
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


# Versions are 64 bits and Lua's numbers 53: they are compared as decimal strings.
_LUA_NEWER = """
local function newer(version, record)
  local held = string.match(record, '"version":(%d+)')
  if #version ~= #held then return #version > #held end
  return version > held
end
"""

_LUA_RECORDS = (
    _LUA_NEWER
    + """
local function store(key, start, version, record, size)
  local held = redis.call('HGET', key, start)
  if held then
    if not newer(version, held) then return false end
    redis.call('HSET', key, start, record)
    return true
  end
  -- A window further back than its own length (a day may have 25 hours) is history.
  local starts, newest = redis.call('HKEYS', key), tonumber(start)
  for _, other in ipairs(starts) do newest = math.max(newest, tonumber(other)) end
  local oldest = newest - size * 1.1
  for _, other in ipairs(starts) do
    if tonumber(other) < oldest then redis.call('HDEL', key, other) end
  end
  if tonumber(start) < oldest then return false end
  redis.call('HSET', key, start, record)
  return true
end

local function remember(key, start, version, values, keep)
  local held = redis.call('ZRANGEBYSCORE', key, start, start)[1]
  if held then
    if not newer(version, held) then return false end
    redis.call('ZREM', key, held)
  end
  redis.call('ZADD', key, start, values)
  redis.call('ZREMRANGEBYRANK', key, 0, -keep - 1)
  return true
end

local function lines(text)
  local found, at = {}, 1
  while at <= #text do
    local stop = string.find(text, '\\n', at, true)
    found[#found + 1] = string.sub(text, at, stop - 1)
    at = stop + 1
  end
  return found
end

local prefix, applied, changed = ARGV[1], 0, {}
local column = {}
for i = 2, #ARGV do column[i - 1] = lines(ARGV[i]) end
for i = 1, #column[1] do
  local series, head, member, start = column[1][i], column[2][i], column[3][i], column[4][i]
  local version, size, computed = column[5][i], tonumber(column[6][i]), column[7][i]
  local ttl, keep = column[8][i], tonumber(column[9][i])
  local record, values, name = column[10][i], column[11][i], column[12][i]
  local records, history = prefix .. ':kpi:' .. series, prefix .. ':history:' .. series
  local stored = store(records, start, version, record, size)
  if stored then
    redis.call('PEXPIRE', records, ttl)
    redis.call('ZADD', prefix .. ':members:' .. head, 'GT', computed, member)
  end
  local remembered = values ~= '' and remember(history, start, version, values, keep)
  if remembered then redis.call('PEXPIRE', history, ttl) end
  if stored or remembered then
    applied = applied + 1
    changed[head] = changed[head] or {}
    table.insert(changed[head], name)
  end
end
for head, names in pairs(changed) do
  redis.call('PUBLISH', prefix .. ':changed:' .. head, table.concat(names, '\\n'))
end
return applied
"""
)

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

_COLUMNS = (
    "series",
    "head",
    "member",
    "start",
    "version",
    "size",
    "computed",
    "ttl",
    "keep",
    "record",
    "values",
    "name",
)


@dataclass(frozen=True, slots=True)
class RedisKpis:
    """Keeps the newest version of every KPI record; asked twice, it changes nothing.

    `client` must be made with `decode_responses=False`. Series of `without_history` scopes
    (those of persons, of which there are many) carry no values for sparklines.
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
        if records.is_empty():
            return Written()
        rows = self._rows(names, records)
        pipe = self.client.pipeline(transaction=False)
        script = self.client.register_script(_LUA_RECORDS)
        for chunk in rows.iter_slices(CHUNK):
            columns = chunk.select(pl.col(_COLUMNS).cast(pl.String).str.join("\n") + "\n").row(0)
            script(args=[self.keys.prefix, *columns], client=pipe)
        self._advance_heads(rows, pipe)
        applied = sum(pipe.execute()[:-1])
        return Written(applied, records.height - applied)

    def _rows(self, names: Sequence[str], records: pl.DataFrame) -> pl.DataFrame:
        window = pl.col("window").struct
        kind = window.field("kind")
        frame = (
            records.with_columns(
                # Columns travel as lines.
                pl.Series("name", names, dtype=pl.String).str.replace_all("\n", "%0A", literal=True)
            )
            .sort("version", maintain_order=True)
            .unique("name", keep="last", maintain_order=True)
        )
        fields = ["version", *(name for name in records.columns if name != "version")]
        keeps = {kind: held.history for kind, held in self.retention.items()}
        lives = {kind: held.ttl_ms for kind, held in self.retention.items()}
        part = pl.col("name").str.split("|").list
        return frame.select(
            pl.col("name").str.replace(r"\|-?\d+$", "").alias("series"),
            pl.concat_str("scope", part.get(2), separator="|").alias("head"),
            part.get(1).alias("member"),
            window.field("start_time").alias("start"),
            pl.col("version").cast(pl.String),
            window.field("size_ms").alias("size"),
            pl.col("computed_time").alias("computed"),
            pl.col("watermark"),
            kind.replace_strict(lives, return_dtype=pl.Int64).alias("ttl"),
            kind.replace_strict(keeps, return_dtype=pl.Int64).alias("keep"),
            pl.struct(fields).struct.json_encode().alias("record"),
            pl.when(pl.col("scope").is_in(list(self.without_history)))
            .then(pl.lit(""))
            .otherwise(_history_entry())
            .alias("values"),
            pl.col("name"),
        )

    def _advance_heads(self, rows: pl.DataFrame, pipe: redis.client.Pipeline) -> None:
        heads = rows.group_by("head").agg(
            pl.col("start", "computed", "watermark", "ttl").max(),
        )
        columns = heads.select(
            "head", "start", "computed", pl.col("watermark").cast(pl.String).fill_null(""), "ttl"
        )
        arguments = [value for row in columns.iter_rows() for value in row]
        self.client.register_script(_LUA_HEADS)(args=[self.keys.prefix, *arguments], client=pipe)


def _history_entry() -> pl.Expr:
    """Return `{"version":1,"start_time":0,"kpis":{"service_level":81.2}}`, one a row."""
    kpi = pl.element().struct
    value = kpi.field("value")
    rounded = pl.when(value.is_finite()).then(value.round(4)).cast(pl.String).fill_null("null")
    pair = pl.concat_str(pl.lit('"'), kpi.field("kpi_id"), pl.lit('":'), rounded)
    return pl.concat_str(
        pl.lit('{"version":'),
        pl.col("version"),
        pl.lit(',"start_time":'),
        pl.col("window").struct.field("start_time"),
        pl.lit(',"kpis":{'),
        pl.col("kpis").list.eval(pair).list.join(","),
        pl.lit("}}"),
    )
