"""What the pipeline has published: the newest version of each KPI record, and all actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from schemas.codec import Codec
from streams.verify.intake import Raw
from streams.verify.ledger import Ledger
from streams.verify.report import Difference, Findings

_FIRST = 20

#: Fewer records than these are not worth a compaction. Nor are fewer than the last one has left:
#: each looks at all of them.
_COMPACT_AFTER = 200_000

# By the places of rows: a record is long, and none is to be sorted.
_NEWEST = """
    SELECT * FROM found WHERE rowid IN (
        SELECT arg_max(rowid, ("version", "position")) FROM found GROUP BY record_key
    )
"""

_FOUND = """
    SELECT record_key, "position", scope,
        list_transform("key", lambda part: part.name) AS key_names,
        list_transform("key", lambda part: part.value) AS key_values,
        "window".kind AS kind, "window".size_ms AS size_ms,
        "window".start_time AS start_ms, "window".end_time AS end_ms,
        status, "version",
        list_transform(measures, lambda each: each.name) AS measure_names,
        list_transform(measures, lambda each: each.value) AS measure_values,
        list_transform(kpis, lambda each: each.kpi_id) AS kpi_ids,
        list_transform(kpis, lambda each: each.definition_version) AS kpi_versions,
        list_transform(kpis, lambda each: each.value) AS kpi_values,
        list_transform(kpis, lambda each: each.n) AS kpi_ns,
        list_transform(kpis, lambda each: each.state) AS kpi_states,
        list_transform(kpis, lambda each: coalesce(each.status, "status")) AS kpi_statuses
    FROM batch
"""


class Published:
    """The KPI records, in the table ``found`` of the ledger's database.

    That has one row a record key once :meth:`compact` was called.
    """

    def __init__(self, ledger: Ledger, codec: Codec) -> None:
        self._sql = ledger.sql
        self._codec = codec
        self._since_compaction = 0
        self._compact_at = _COMPACT_AFTER
        self._empty = True
        self._unreadable: list[Difference] = []
        self.add([])

    def add(self, records: Sequence[Raw]) -> None:
        """Add records in the order of the log."""
        decoded = self._codec.columns([each.value for each in records], [])
        kept = [records[i] for i in decoded.index.tolist()]
        for each in decoded.rejected:
            record = records[each.index]
            place = f"{record.partition}@{record.position}"
            self._unreadable.append(
                Difference(self._codec.topic, place, "", "record", each.message, "a KPI record")
            )
        batch = decoded.frame.to_arrow()
        keys = pa.array([(each.key or b"").decode(errors="replace") for each in kept], pa.string())
        batch = batch.append_column("record_key", keys)
        positions = np.array([each.position for each in kept], np.int64)
        self._sql.register("batch", batch.append_column("position", pa.array(positions)))
        if self._empty:
            self._sql.execute(f"CREATE TABLE found AS {_FOUND}")
            self._empty = False
        else:
            self._sql.execute(f"INSERT INTO found {_FOUND}")
        self._sql.unregister("batch")
        self._since_compaction += len(kept)
        if self._since_compaction >= self._compact_at:
            self.compact()

    @property
    def unreadable(self) -> Findings:
        """The records that break their contract."""
        return Findings(len(self._unreadable), 0, tuple(self._unreadable[:_FIRST]))

    def compact(self) -> None:
        """Keep only the highest version of each record key."""
        self._sql.execute(f"CREATE OR REPLACE TABLE found AS {_NEWEST}")
        ((left,),) = self._sql.execute("SELECT count(*) FROM found").fetchall()
        self._compact_at = max(_COMPACT_AFTER, left)
        self._since_compaction = 0
