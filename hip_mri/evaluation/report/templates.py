"""Templates of the report, the model card and the checklist, and how values are written in them."""

import html
import math
import re
from collections.abc import Sequence
from typing import Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hip_mri.evaluation.charts.captions import NOT_AVAILABLE


def format_percent(share: float) -> str:
    """Write a share: `86.4%`."""
    return f"{share:.1%}"


def format_seconds(seconds: float) -> str:
    """Write a duration: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_measure(value: object, interval: Sequence[float | None] | None = None) -> str:
    """Write a measure with its 95 % interval: `0.873 (0.812 to 0.921)`; in words where it is not defined."""
    if not is_number(value):
        return NOT_AVAILABLE
    if interval is None or len(interval) != 2 or not all(is_number(bound) for bound in interval):
        return f"{value:.3f}"
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def is_number(value: object) -> bool:
    """Whether a value is a finite number; `True` and `False` are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def escape_markdown(value: object) -> Markup:
    """Make a value plain text for Markdown: on one line, with neither markup nor HTML."""
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
        percent=format_percent, duration=format_seconds, measure=format_measure, plain=escape_markdown
    )
    return environment


ENVIRONMENT: Final = _create_environment()


def load_templates(package: str) -> Environment:
    """Return an environment for the templates of another package, which may include the ones here."""
    loader = ChoiceLoader([PackageLoader(package, "."), PackageLoader("hip_mri.evaluation.report", ".")])
    return ENVIRONMENT.overlay(loader=loader)
