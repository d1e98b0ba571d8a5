"""Curves as an SVG file: the same numbers give the same file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from streams.bench.results import Panel, recovery_panels, scale_panels

_INCHES: Final = (4.2, 3.0)
_LEFT, _RIGHT = "#1f4e79", "#c0504d"


def draw_curves(directory: Path) -> None:
    """Draw what the CSV files of a directory have curves of, as far as this can be done here."""
    cost, memory = "CPU us/event, all workers", "peak memory, MB"
    recovered, read = "s from kill to fresh records", "s of these for the state"
    if panels := scale_panels(directory / "scale.csv"):
        draw(panels, cost, memory, directory / "scale.svg")
    if panels := recovery_panels(directory / "recovery.csv"):
        draw(panels, recovered, read, directory / "recovery.svg")


def draw(panels: Sequence[Panel], left: str, right: str, file: Path) -> bool:
    """Write the panels side by side, zero at the bottom of each; tell whether it could be done.

    ``left`` and ``right`` name the two curves. Without matplotlib nothing is drawn.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        return False
    # Ids from content, letters as text, and no date: a file that changes with its numbers alone.
    with mpl.rc_context({"svg.hashsalt": "andon", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(_INCHES[0] * len(panels), _INCHES[1]), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False)
        for axes, panel in zip(grid[0], panels, strict=True):
            _draw_panel(axes, panel, left, right)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return True


def _draw_panel(axes: object, panel: Panel, left: str, right: str) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    axes.set_title(panel.title)
    other = axes.twinx()
    for where, values, name, colour, marker in (
        (axes, panel.left, left, _LEFT, "o"),
        (other, panel.right, right, _RIGHT, "s"),
    ):
        where.plot(list(panel.at), list(values), color=colour, marker=marker)
        where.set_ylabel(name, color=colour)
        where.set_ylim(0, max(values) * 1.15)
