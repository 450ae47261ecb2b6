"""Lists the settings of a run without private values."""

from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Final

from hip_mri.addresses import WITHHELD

PRIVATE_FILES: Final = ("patients_file", "corrections_file", "train_file", "val_file", "test_file")
"""Files of the group `data`, whose paths are withheld."""

PRIVATE_SETTINGS: Final = (
    *("source", "sources", "workspace", "data.patient_pattern"),
    *(f"data.{name}" for name in PRIVATE_FILES),
)
"""Settings whose values are withheld."""


def withhold_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Replace sources and private files by `WITHHELD`.

    Paths can identify people. `WITHHELD` is no valid file, so that a repeated run does not start without them.
    """
    shown = {**settings, "data": dict(settings["data"])}
    if shown.get("source"):
        shown["source"] = WITHHELD
    if shown.get("sources"):
        shown["sources"] = [WITHHELD] * len(shown["sources"])
    shown["data"] |= {name: WITHHELD for name in PRIVATE_FILES if shown["data"][name]}
    return shown


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """List settings by dotted name, such as `training.epochs`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flatten_settings(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def disclose(name: str, value: object) -> str:
    """Write the value of a setting, or `WITHHELD` if it is private, an absolute path or an address.

    Args:
        name: Dotted name of the setting.
        value: Any value; `None` is written as `none`.
    """
    text = "none" if value is None else str(value)
    is_path = PurePosixPath(text).is_absolute() or PureWindowsPath(text).drive or text.startswith("~") or "://" in text
    is_private = value is not None and name in PRIVATE_SETTINGS
    return WITHHELD if is_path or is_private else text
