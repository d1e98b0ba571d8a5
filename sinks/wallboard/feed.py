"""A page's parts over time: what has changed since a reader was last here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Feed:
    """Parts with the number of the change that brought each; readers ask for what is newer.

    >>> feed = Feed()
    >>> feed.update({"head": {"title": "Board"}})
    True
    >>> feed.since(0)
    {'head': '{"title":"Board"}'}
    >>> feed.since(feed.last)
    {}
    """

    last: int = 0
    parts: Mapping[str, Any] = field(default_factory=dict)
    _texts: dict[str, tuple[int, str]] = field(default_factory=dict)

    def update(self, parts: Mapping[str, Any]) -> bool:
        """Take over the parts as they are now; return whether anything has changed."""
        texts = {name: json.dumps(part, separators=(",", ":")) for name, part in parts.items()}
        texts |= {name: "null" for name in self._texts if name not in texts}
        changed = {
            name: text for name, text in texts.items() if self._texts.get(name, (0, ""))[1] != text
        }
        self.parts = parts
        if changed:
            self.last += 1
            self._texts |= {name: (self.last, text) for name, text in changed.items()}
        return bool(changed)

    def since(self, number: int) -> dict[str, str]:
        """Return the parts newer than change `number`, as JSON, `null` for one that is gone."""
        return {name: text for name, (at, text) in self._texts.items() if at > number}
