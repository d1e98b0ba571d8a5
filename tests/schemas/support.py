"""Stored examples, and codecs over the file registry."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from schemas.catalogue import load_catalogue
from schemas.codec import Codec
from schemas.registry import FileRegistry

EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples"

TOPIC_OF = {topic.contract: topic.name for topic in load_catalogue() if topic.contract}


def new_codec(contract: str) -> Codec:
    """Return a codec that has seen nothing yet."""
    return Codec(contract, FileRegistry(), TOPIC_OF[contract])


codec = cache(new_codec)


def examples(contract: str) -> dict[str, Any]:
    """Return the stored examples of a contract by name."""
    return {
        path.stem: json.loads(path.read_text())
        for path in sorted((EXAMPLES / contract).glob("*.json"))
    }


def record(contract: str, name: str, **changes: Any) -> dict[str, Any]:
    """Return one stored example as a whole record, with changes that no check has seen."""
    return codec(contract).record(examples(contract)[name]) | changes
