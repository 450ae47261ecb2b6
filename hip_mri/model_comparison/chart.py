"""Draws the AUCs of candidates and their differences to the best one."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hip_mri.evaluation.charts import style

POINT: Final[dict[str, Any]] = {"color": "#0072B2", "marker": "o", "markersize": 6, "linestyle": "none"}
BEST: Final[dict[str, Any]] = POINT | {"marker": "D", "color": "#D55E00"}
WIDE: Final[dict[str, Any]] = {"color": "#0072B2", "linewidth": 2.6, "solid_capstyle": "butt"}
NARROW: Final[dict[str, Any]] = {"color": style.MUTED, "linewidth": 1.0}

MAX_NAME_LENGTH: Final = 34


def draw_candidates(results: Mapping[str, Any], notice: str = "") -> Figure:
    """Draw one row per candidate, the highest AUC at the top.

    Args:
        results: From `compute_results`.
        notice: Text of the banner.
    """
    rows = sorted(results["candidates"], key=lambda row: row["auc"])
    figure = style.create_figure(9.2, 1.7 + 0.36 * len(rows), notice)
    aucs, differences = figure.subplots(1, 2, sharey=True)
    for place, row in enumerate(rows):
        mark = BEST if row["name"] == results["best"] else POINT
        _draw_interval(aucs, place, row["interval"], WIDE)
        aucs.plot([row["auc"]], [place], **mark)
        if difference := row["difference_to_best"]:
            _draw_interval(differences, place, difference["simultaneous_interval"], NARROW)
            _draw_interval(differences, place, difference["interval"], WIDE)
            differences.plot([difference["value"]], [place], **mark)
        else:
            differences.plot([0], [place], **mark)
    aucs.axvline(results["one_standard_error_limit"], **style.REFERENCE_LINE)
    differences.axvline(0, color=style.INK, linewidth=1.0)
    style.style_axes(aucs, "Cross-validated AUC", "AUC; dotted: best minus one standard error", "")
    style.style_axes(differences, "Difference to the best", "Difference of AUC; thin: all intervals together", "")
    aucs.set(yticks=range(len(rows)), yticklabels=[_shorten(row["name"]) for row in rows], ylim=(-0.7, len(rows) - 0.3))
    return figure


def _draw_interval(axes: Axes, place: int, interval: Sequence[float] | None, line: Mapping[str, Any]) -> None:
    if interval:
        axes.plot(interval, [place, place], **line)


def _shorten(name: str) -> str:
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"
