"""Which keys are judged, where there are too many KPI records to judge all of them."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from urllib.parse import unquote

from streams.verify.definitions import Scope
from streams.verify.ledger import sql_name, sql_text


class Sample:
    """One key in so many, by a hash of scope and key: the same ones each time, with all windows.

    The empty key is always judged: that of a scope without key columns, and of what names none.
    """

    def __init__(self, one_in: int = 1) -> None:
        """Raise ValueError for less than 1, which takes every key."""
        if one_in < 1:
            raise ValueError(f"one_in: {one_in}, expected at least 1")
        self.one_in = one_in
        self._of_head = lru_cache(1 << 18)(self._has_head)

    def has(self, record_key: bytes) -> bool:
        """Tell whether the record with this Kafka key, ``scope|key|window|start``, is judged."""
        return self.one_in == 1 or self._of_head(record_key.rsplit(b"|", 2)[0])

    def sql(self, scope: Scope) -> str:
        """Return the SQL that tells it of a row with the scope's key columns, ``key:<name>``."""
        if self.one_in == 1 or not scope.key:
            return "TRUE"
        values = " || ',' || ".join(sql_name("key:" + name) for name in scope.key)
        digits = f"md5({sql_text(scope.id + '|')} || {values})[:8]"
        return f"({values} = '' OR CAST('0x' || {digits} AS UBIGINT) % {self.one_in} = 0)"

    def _has_head(self, head: bytes) -> bool:
        # As it came: inside of a key's values this is escaped.
        if head.endswith(b"|"):
            return True
        text = unquote(head.decode(errors="replace"))
        digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        return int(digest[:8], 16) % self.one_in == 0
