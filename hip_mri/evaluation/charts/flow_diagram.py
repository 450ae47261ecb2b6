"""Draws the flow diagram from the entries of the source to the splits."""

from collections.abc import Mapping
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hip_mri.config import SPLITS
from hip_mri.evaluation.charts import style
from hip_mri.evaluation.charts.captions import SPLIT_TITLES

ROW_HEIGHT: Final = 1.05
"""Distance between two boxes of the main column, in inches; so are the other lengths."""
LINE_HEIGHT: Final = 0.175
PADDING: Final = 0.22
BOX_WIDTH: Final = 2.5
SPLIT_WIDTH: Final = 1.72
GAP: Final = 0.25

BOX_HEIGHT: Final = 2 * LINE_HEIGHT + PADDING
"""Height of a box with two lines."""

MAX_REASONS: Final = 6
"""Maximum number of lines with reasons for exclusion."""


def draw_flow(metrics: Mapping[str, Any], notice: str = "", group: str = "group") -> Figure:
    """Draw the flow diagram from `metrics.json`; excluded entries are on the right.

    Source of the form: Schulz et al., "CONSORT 2010 Statement", BMJ 340, 2010.
    """
    data = metrics["data"]
    num_readable = data["num_entries"] - data["num_ignored"] - sum(data["quarantined"].values())
    excluded, leaves = _list_excluded(data), _list_leaves(metrics, group)
    width = max(2 * BOX_WIDTH + 4 * GAP, len(leaves) * (SPLIT_WIDTH + GAP) + GAP)
    first_step = max(ROW_HEIGHT, _height(excluded) + LINE_HEIGHT + PADDING + 2 * GAP - ROW_HEIGHT)
    height = 0.5 + first_step + ROW_HEIGHT + BOX_HEIGHT / 2 + 2.4 * GAP + _height(leaves[0])
    figure = style.create_figure(width, height, notice)
    axes = figure.subplots()
    axes.set(xlim=(0, width), ylim=(-height, 0), aspect="equal")
    axes.set_axis_off()
    middle, side = BOX_WIDTH / 2 + GAP, width - BOX_WIDTH / 2 - GAP
    tops = [-0.45, -0.45 - first_step, -0.45 - first_step - ROW_HEIGHT]
    steps = {
        "Entries of the source": data["num_entries"],
        "Readable images": num_readable,
        "Distinct images": num_readable - data["num_duplicates"],
    }
    for top, (name, count) in zip(tops, steps.items(), strict=True):
        _draw_box(axes, middle, top, [name, f"n = {count:,}"], BOX_WIDTH)
    copies = [f"Copies excluded: {data['num_duplicates']:,}"]
    for upper, lower, lines in ((tops[0], tops[1], excluded), (tops[1], tops[2], copies)):
        _draw_arrow(axes, (middle, upper - BOX_HEIGHT / 2), (middle, lower + BOX_HEIGHT / 2))
        _draw_arrow(axes, (middle, (upper + lower) / 2), (side - BOX_WIDTH / 2, (upper + lower) / 2))
        _draw_box(axes, side, (upper + lower) / 2, lines, BOX_WIDTH)
    _draw_leaves(axes, middle, tops[2], leaves, width)
    return figure


def _height(lines: list[str]) -> float:
    return len(lines) * LINE_HEIGHT + PADDING


def _list_excluded(data: Mapping[str, Any]) -> list[str]:
    by_count = sorted(data["quarantined"].items(), key=lambda item: -item[1])
    named = by_count if len(by_count) <= MAX_REASONS else by_count[: MAX_REASONS - 1]
    reasons = [f"{reason.replace('_', ' ')}: {count:,}" for reason, count in named]
    if others := sum(count for _, count in by_count[len(named) :]):
        reasons.append(f"other reasons: {others:,}")
    total = data["num_ignored"] + sum(data["quarantined"].values())
    return [f"Not used: {total:,}", f"no image of the data set: {data['num_ignored']:,}", *reasons]


def _list_leaves(metrics: Mapping[str, Any], group: str) -> list[list[str]]:
    leaves = [
        [SPLIT_TITLES[split], *_describe_images(metrics[split]), _count(metrics[split]["num_groups"], group)]
        for split in SPLITS
    ]
    data = metrics["data"]
    if data["num_held_out"]:
        counts = {"num_images": data["num_held_out"], "num_lesions": data["num_held_out_lesions"]}
        leaves.append(["Held out", *_describe_images(counts), "in no split"])
    return leaves


def _describe_images(counts: Mapping[str, Any]) -> list[str]:
    return [_count(counts["num_images"], "image"), f"{counts['num_lesions']:,} with lesion"]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def _draw_leaves(axes: Axes, middle: float, top: float, leaves: list[list[str]], width: float) -> None:
    """Draw the splits side by side below the main column."""
    step = width / len(leaves)
    places = [step * (number + 0.5) for number in range(len(leaves))]
    height = _height(leaves[0])
    branch = top - BOX_HEIGHT / 2 - GAP
    center = branch - GAP * 1.4 - height / 2
    axes.plot([middle, middle], [top - BOX_HEIGHT / 2, branch], color=style.INK, linewidth=1.2)
    axes.plot([min(middle, places[0]), max(middle, places[-1])], [branch, branch], color=style.INK, linewidth=1.2)
    for place, lines in zip(places, leaves, strict=True):
        _draw_arrow(axes, (place, branch), (place, center + height / 2))
        _draw_box(axes, place, center, lines, SPLIT_WIDTH)


def _draw_box(axes: Axes, x: float, y: float, lines: list[str], width: float) -> None:
    """Draw a box around a center, with its first line in bold."""
    height = _height(lines)
    axes.add_patch(
        Rectangle((x - width / 2, y - height / 2), width, height, facecolor="white", edgecolor=style.INK, linewidth=1.2)
    )
    for number, line in enumerate(lines):
        place = y + height / 2 - PADDING / 2 - (number + 0.5) * LINE_HEIGHT
        weight = "bold" if number == 0 else "normal"
        axes.text(
            x, place, line, ha="center", va="center_baseline",
            fontsize=style.SMALL_SIZE, fontweight=weight, color=style.INK,
        )  # fmt: skip


def _draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    arrow = {"arrowstyle": "-|>", "color": style.INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=arrow)
