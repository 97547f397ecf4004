"""Figure 4 of our own: bars of Kendall's tau, as SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from ..figures import drawable
from ..optional import import_optional
from .table import PROPERTIES

TITLES = {"accuracy": "accuracy, clean", "noisy_accuracy": "accuracy, noisy", "seconds": "inference time",
          "convergence": "convergence"}  # fmt: skip


def draw_bars(results: dict[str, Any]) -> str:
    """Bars for what `compare` returned, with their deviations.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    matplotlib = import_optional("matplotlib", "figures need")
    figures = import_optional("matplotlib.figure", "figures need")
    with matplotlib.rc_context({"svg.hashsalt": "ghnfast", "font.size": 9}):
        figure = figures.Figure(figsize=(8, 3.6), layout="constrained")
        draw_panels(figure, results)
        output = io.StringIO()
        figure.savefig(output, format="svg", metadata={"Date": None})
    return output.getvalue()


def draw_panels(figure: Any, results: Mapping[str, Any]) -> None:
    """A panel for each property, with a bar for each row, in colours that are seen on light and dark grounds."""
    panels = figure.subplots(1, len(PROPERTIES), sharey=True)
    for panel, key in zip(panels, PROPERTIES, strict=True):
        heights = [found[key]["tau"] for found in results.values()]
        errors = [found[key]["deviation"] for found in results.values()]
        colours = [f"C{at}" for at in range(len(results))]
        panel.bar(range(len(results)), heights, yerr=errors, color=colours, ecolor="grey", capsize=2)
        panel.set_title(TITLES[key], fontsize=9)
        panel.set_xticks(range(len(results)), list(map(drawable, results)), rotation=90, parse_math=False)
        panel.axhline(0, color="grey", linewidth=0.5)
    panels[0].set_ylabel("Kendall's tau on the split test")
