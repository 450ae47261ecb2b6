"""Draws the AUC of numbers that need no anatomy beside that of the network."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from hip_mri.evaluation.charts import style

TITLES: Final = {
    "without_anatomy": "size, file and margin",
    "size_and_file": "size and file",
    "margin": "margin",
    "gray_levels": "gray levels of the image",
    "all": "all of these",
}
"""Title of each combination of numbers, in the order of the rows."""

RING: Final[dict[str, Any]] = style.RING | {"markersize": 7}


def draw_shortcuts(shortcuts: Mapping[str, Any], test: Mapping[str, Any], notice: str = "") -> Figure:
    """Draw a row with AUC and 95% interval for the network and for each combination of numbers.

    Args:
        shortcuts: See `summarize_shortcuts`.
        test: Metrics of the network on the test images.
        notice: Text of the banner.
    """
    rows = {"network": {"auc": test["auc"], "interval": test["intervals"]["auc"]}}
    rows |= {title: shortcuts["combinations"][name] for name, title in TITLES.items()}
    figure = style.create_figure(6.4, 3.9, notice)
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    for place, (title, row) in zip(places, rows.items(), strict=True):
        line = style.SPLIT_LINES["test"] if title == "network" else style.SPLIT_LINES["val"]
        if row["interval"] is not None:
            label = {"network": "95% interval of the network", TITLES["without_anatomy"]: "95% interval of trees"}
            axes.hlines(place, *row["interval"], color=line["color"], linewidth=2.6, label=label.get(title, "_"))
        axes.plot(row["auc"], place, zorder=3, **RING)
    axes.axvline(0.5, label="Chance", **style.REFERENCE_LINE)
    style.style_axes(axes, "Test AUC without anatomy", "AUC", "")
    axes.set_yticks(places, list(rows), fontsize=style.TEXT_SIZE)
    lowest = min((row["interval"] or [row["auc"]])[0] for row in rows.values())
    axes.set(ylim=(-0.6, len(rows) - 0.4), xlim=(min(0.4, lowest) - 0.02, 1.015))
    style.add_legend_beneath(figure, axes, num_columns=3)
    return figure
