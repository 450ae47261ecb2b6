"""Jinja environments of all reports, and how values are formatted in them."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hip_mri.evaluation.charts.captions import NOT_AVAILABLE, SPLIT_TITLES


def format_number(number: int) -> str:
    """Write a count: `2,390`."""
    return f"{number:,}"


def format_percent(fraction: float) -> str:
    """Write a fraction as a percentage: `86.4%`."""
    return f"{fraction:.1%}"


def format_seconds(seconds: float) -> str:
    """Write a duration: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_by_split(counts: Mapping[str, int]) -> str:
    """Write the counts of splits that are not 0: `training 12, validation 3`."""
    return ", ".join(f"{title.lower()} {counts[split]:,}" for split, title in SPLIT_TITLES.items() if counts.get(split))


def format_measure(value: object, interval: Sequence[float | None] | None = None) -> str:
    """Write a metric with its 95% interval: `0.873 (0.812 to 0.921)`, or `not available`."""
    if not is_number(value):
        return NOT_AVAILABLE
    if interval is None or len(interval) != 2 or not all(is_number(limit) for limit in interval):
        return f"{value:.3f}"
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def format_interval(interval: Sequence[float] | None) -> str:
    """Write an interval: `0.812 to 0.921`; `none` if there is none."""
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "none"


def is_number(value: object) -> bool:
    """Whether a value is a finite number; `True` and `False` are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def escape_markdown(value: object) -> Markup:
    """Escape Markdown and HTML, and join lines."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return Markup(re.sub(r"([\\`*_\[\]|~])", r"\\\1", text))


def _create_environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hip_mri.evaluation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        number=format_number,
        by_split=format_by_split,
        percent=format_percent,
        duration=format_seconds,
        measure=format_measure,
        interval=format_interval,
        plain=escape_markdown,
    )
    return environment


DOCUMENTS: Final = _create_environment()
"""Renders whole documents; values are escaped for HTML."""

SENTENCES: Final = DOCUMENTS.overlay(autoescape=False)
"""Renders sentences as plain text, which the documents escape."""


def load_templates(package: str) -> Environment:
    """Return an environment for the templates of another package, which can include the ones here."""
    loader = ChoiceLoader([PackageLoader(package, "."), PackageLoader("hip_mri.evaluation.report", ".")])
    return DOCUMENTS.overlay(loader=loader)
