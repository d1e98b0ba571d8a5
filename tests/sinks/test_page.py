"""What can be said of the page without a browser."""

import itertools
import re

import pytest

from sinks.wallboard.server import STATIC

CSS = (STATIC / "board.css").read_text()
# What is written on what: foreground, background.
WRITTEN = [
    *itertools.product(
        ["ink", "soft", "quiet"], ["ground", "tile", "raised", "warning-tile", "critical-tile"]
    ),
    *((state, "tile") for state in ("ok", "warning", "critical", "info", "quiet")),
    ("warning", "warning-tile"),
    ("critical", "critical-tile"),
    ("critical", "ground"),
    ("critical-on", "critical"),
    ("warning-on", "warning"),
    ("ok-on", "ok"),
    ("info-on", "info"),
]


def palette(selector: str) -> dict[str, str]:
    block = CSS.split(selector + " {", 1)[1].split("}", 1)[0]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", [":root", ':root[data-theme="light"]'])
def test_every_text_stands_out_from_its_ground(theme):
    """Contrast is at least 4.5 to 1 (WCAG 1.4.3), in both themes, on tiles of every state."""
    colours = palette(theme)

    def contrast(text: str, ground: str) -> float:
        lights = sorted((luminance(colours[text]), luminance(colours[ground])))
        return (lights[1] + 0.05) / (lights[0] + 0.05)

    faint = {pair: round(contrast(*pair), 2) for pair in WRITTEN if contrast(*pair) < 4.5}

    assert {} == faint


def test_every_state_has_a_word_and_an_outline_of_its_own():
    """Colour is never the only signal (WCAG 1.4.1): all states are drawn and named."""
    drawn = (STATIC / "draw.js").read_text()
    named = (STATIC / "board.js").read_text()
    states = ["OK", "WARNING", "CRITICAL", "TOO_FEW", "NO_DATA"]

    outlines = [re.search(rf"  {state}: (\[\[.*\]\]),\n", drawn) for state in states]
    words = [re.search(rf'\b{state}: "([^"]+)"', named) for state in states]

    assert len(states) == len({outline[1] for outline in outlines if outline})
    assert len(states) == len({word[1] for word in words if word})
