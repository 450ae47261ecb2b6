"""From the entries of the source to the splits: a flow diagram as reports of studies show it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hip_mri.evaluation.charts import style
from hip_mri.evaluation.charts.captions import SPLIT_TITLES

ROW_HEIGHT: Final = 1.05
"""From one box to the next one below, in inches; so are the other lengths."""
LINE_HEIGHT: Final = 0.175
PADDING: Final = 0.22
BOX_WIDTH: Final = 2.5
SPLIT_WIDTH: Final = 1.72
GAP: Final = 0.25

BOX_HEIGHT: Final = 2 * LINE_HEIGHT + PADDING
"""Of a box with two lines."""

MOST_REASONS: Final = 6
"""Lines for reasons why files could not be used."""


@dataclass(frozen=True)
class SplitCount:
    """What one split holds.

    Attributes:
        num_images: Images.
        num_lesions: Those among them with an osseous lesion.
        num_groups: Groups of images that stay together; `None` where images were divided one by one.
    """

    num_images: int
    num_lesions: int
    num_groups: int | None = None


@dataclass(frozen=True)
class SplitFlow:
    """What became of every entry of the source.

    Attributes:
        num_entries: Files in the source.
        num_ignored: Files that are no part of the data.
        num_duplicates: Copies of an image in use.
        splits: By name, in the order in which they are drawn.
        quarantined: Number of files that could not be used, by reason code.
        held_out: Images in use that were kept out of every split; `None` where there are none.
    """

    num_entries: int
    num_ignored: int
    num_duplicates: int
    splits: Mapping[str, SplitCount]
    quarantined: Mapping[str, int] = field(default_factory=dict)
    held_out: SplitCount | None = None

    @property
    def num_readable(self) -> int:
        return self.num_entries - self.num_ignored - sum(self.quarantined.values())

    @property
    def num_images(self) -> int:
        return self.num_readable - self.num_duplicates


def draw_flow(flow: SplitFlow, notice: str = "") -> Figure:
    """Draw what became of every entry: what was put aside to the right, what went on downwards.

    Source of the form: Schulz et al., "CONSORT 2010 Statement", BMJ 340, 2010.
    """
    excluded = _list_excluded(flow)
    leaves = _list_leaves(flow)
    width = max(2 * BOX_WIDTH + 4 * GAP, len(leaves) * (SPLIT_WIDTH + GAP) + GAP)
    first_step = max(ROW_HEIGHT, _height(excluded) + LINE_HEIGHT + PADDING + 2 * GAP - ROW_HEIGHT)
    height = 0.5 + first_step + ROW_HEIGHT + BOX_HEIGHT / 2 + 2.4 * GAP + _height(leaves[0])
    figure = style.create_figure(width, height, notice)
    axes = figure.subplots()
    axes.set(xlim=(0, width), ylim=(-height, 0), aspect="equal")
    axes.set_axis_off()
    middle, side = BOX_WIDTH / 2 + GAP, width - BOX_WIDTH / 2 - GAP
    tops = [-0.45, -0.45 - first_step, -0.45 - first_step - ROW_HEIGHT]
    steps = [("Entries of the source", flow.num_entries), ("Readable images", flow.num_readable)]
    for top, (name, count) in zip(tops, [*steps, ("Images in use", flow.num_images)], strict=True):
        _draw_box(axes, middle, top, [name, f"n = {count:,}"], BOX_WIDTH)
    copies = [f"Copies set aside: {flow.num_duplicates:,}"]
    for upper, lower, lines in ((tops[0], tops[1], excluded), (tops[1], tops[2], copies)):
        _draw_arrow(axes, (middle, upper - BOX_HEIGHT / 2), (middle, lower + BOX_HEIGHT / 2))
        _draw_arrow(axes, (middle, (upper + lower) / 2), (side - BOX_WIDTH / 2, (upper + lower) / 2))
        _draw_box(axes, side, (upper + lower) / 2, lines, BOX_WIDTH)
    _draw_leaves(axes, middle, tops[2], leaves, width)
    return figure


def _height(lines: list[str]) -> float:
    return len(lines) * LINE_HEIGHT + PADDING


def _list_excluded(flow: SplitFlow) -> list[str]:
    most_first = sorted(flow.quarantined.items(), key=lambda item: -item[1])
    named = most_first if len(most_first) <= MOST_REASONS else most_first[: MOST_REASONS - 1]
    reasons = [f"{reason.replace('_', ' ')}: {count:,}" for reason, count in named]
    if others := sum(count for _, count in most_first[len(named) :]):
        reasons.append(f"other reasons: {others:,}")
    total = flow.num_ignored + sum(flow.quarantined.values())
    return [f"Not used: {total:,}", f"no part of the data: {flow.num_ignored:,}", *reasons]


def _list_leaves(flow: SplitFlow) -> list[list[str]]:
    counts = {SPLIT_TITLES.get(name, name): count for name, count in flow.splits.items()}
    if flow.held_out is not None:
        counts["Held out"] = flow.held_out
    return [[name, *_describe(count)] for name, count in counts.items()]


def _describe(count: SplitCount) -> list[str]:
    groups = "divided by image" if count.num_groups is None else _count(count.num_groups, "group")
    return [_count(count.num_images, "image"), f"{_count(count.num_lesions, 'with lesion', '')}", groups]


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}{plural if number != 1 else ''}"


def _draw_leaves(axes: Axes, middle: float, top: float, leaves: list[list[str]], width: float) -> None:
    """Draw the splits side by side, below a line that branches to each."""
    step = width / len(leaves)
    places = [step * (number + 0.5) for number in range(len(leaves))]
    height = _height(leaves[0])
    rail = top - BOX_HEIGHT / 2 - GAP
    centre = rail - GAP * 1.4 - height / 2
    axes.plot([middle, middle], [top - BOX_HEIGHT / 2, rail], color=style.INK, linewidth=1.2)
    axes.plot([min(middle, places[0]), max(middle, places[-1])], [rail, rail], color=style.INK, linewidth=1.2)
    for place, lines in zip(places, leaves, strict=True):
        _draw_arrow(axes, (place, rail), (place, centre + height / 2))
        _draw_box(axes, place, centre, lines, SPLIT_WIDTH)


def _draw_box(axes: Axes, x: float, y: float, lines: list[str], width: float) -> None:
    """Draw a box around a centre, its first line in bold."""
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
    looks = {"arrowstyle": "-|>", "color": style.INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=looks)
