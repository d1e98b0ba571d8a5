"""Names of what the sinks keep in Redis: one place, for the writers and for the wallboard."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """Redis key names below one prefix.

    A *series* is the key of a KPI record without its window's start (`queue|billing|DAY:86400000`),
    a *head* is a series without its key values (`queue|DAY:86400000`). With a prefix in braces all
    keys share one slot, which is what a Redis cluster needs for the scripts.
    """

    prefix: str = "andon"

    def records(self, series: str) -> str:
        """Hash: start of the window in ms -> KPI record as JSON, for the newest windows."""
        return f"{self.prefix}:kpi:{series}"

    def versions(self, series: str) -> str:
        """Hash: start of the window in ms -> version of the record that is there."""
        return f"{self.prefix}:versions:{series}"

    def history(self, series: str) -> str:
        """Sorted set by start in ms: version, start and KPI values of one window as JSON.

        Of the windows before those whose records are there: each is in one of the two.
        """
        return f"{self.prefix}:history:{series}"

    def members(self, head: str) -> str:
        """Sorted set by computed time in ms: the key values seen under a head."""
        return f"{self.prefix}:members:{head}"

    def changed(self, head: str) -> str:
        """Channel: keys of the KPI records just replaced, one a line."""
        return f"{self.prefix}:changed:{head}"

    def action(self, action_id: str) -> str:
        """String: the action as JSON."""
        return f"{self.prefix}:action:{action_id}"

    @property
    def heads(self) -> str:
        """Hash: head -> start in ms of the newest window that any of its keys has."""
        return f"{self.prefix}:heads"

    @property
    def fresh(self) -> str:
        """Hash: head -> newest computed time in ms."""
        return f"{self.prefix}:fresh"

    @property
    def watermarks(self) -> str:
        """Hash: head -> newest watermark in ms."""
        return f"{self.prefix}:watermarks"

    @property
    def open_actions(self) -> str:
        """Sorted set by event time in ms: ids of the open actions."""
        return f"{self.prefix}:actions:open"

    @property
    def actions_changed(self) -> str:
        """Channel: ids of the actions just written, one a line."""
        return f"{self.prefix}:changed:actions"

    @property
    def positions(self) -> str:
        """Hash: topic and partition -> offset of the first record that is not in Redis yet."""
        return f"{self.prefix}:delivery:positions"

    @property
    def source(self) -> str:
        """String: id of the Kafka cluster that everything here came from."""
        return f"{self.prefix}:delivery:source"

    @property
    def beat(self) -> str:
        """String: the delivery's last sign of life as JSON (`beat_time`, `lag_records`)."""
        return f"{self.prefix}:delivery:beat"


DEFAULT_KEYS = Keys()


def head_of(series: str) -> str:
    """Return the head of a series.

    >>> head_of("queue|billing|DAY:86400000")
    'queue|DAY:86400000'
    """
    scope, _, rest = series.partition("|")
    return f"{scope}|{rest.rpartition('|')[2]}"
