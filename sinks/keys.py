"""Names of what the sinks keep in Redis: one place, for the writers and for the wallboard."""

from dataclasses import dataclass

#: What lies under these names, and in which form: another one cannot be read, nor added to.
FORM = "avro-1"


@dataclass(frozen=True, slots=True)
class Keys:
    """Redis key names below one prefix.

    A *series* is the key of a KPI record without its window's start (`queue|billing|DAY:86400000`),
    a *head* is a series without its key values (`queue|DAY:86400000`). With a prefix in braces all
    keys share one slot, which is what a Redis cluster needs for the scripts.
    """

    prefix: str = "andon"

    def records(self, series: str) -> str:
        """Hash, for the newest windows: start in ms -> KPI record as in Kafka, framed Avro.

        Beside each lies its version (`version_field`), and once for all when their computed time
        (`renewed`, in ms) last prolonged the life of the series.
        """
        return f"{self.prefix}:kpi:{series}"

    def history(self, series: str) -> str:
        """Sorted set by start in ms: version, a blank and the KPI record of one window.

        Of the windows before those whose records are there: each is in one of the two.
        """
        return f"{self.prefix}:history:{series}"

    def members(self, head: str) -> str:
        """Sorted set by computed time in ms, to the minute: the key values seen under a head."""
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
        """String: FORM of everything here, and id of the Kafka cluster that it came from."""
        return f"{self.prefix}:delivery:source"

    @property
    def beat(self) -> str:
        """String: the delivery's last sign of life as JSON (`beat_time`, `lag_records`)."""
        return f"{self.prefix}:delivery:beat"


DEFAULT_KEYS = Keys()


def version_field(start_ms: int | str) -> str:
    """Return the field of a series' records that holds the version of a window's record.

    >>> version_field(917863200000)
    'v917863200000'
    """
    return f"v{start_ms}"


def head_of(series: str) -> str:
    """Return the head of a series.

    >>> head_of("queue|billing|DAY:86400000")
    'queue|DAY:86400000'
    """
    scope, _, rest = series.partition("|")
    return f"{scope}|{rest.rpartition('|')[2]}"
