"""Recognizes the names of the classes in any spelling, and other names that the user maps to them."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from hip_mri.config import LABELS, check_class_names, normalize_class_name
from hip_mri.errors import SettingsError

_spell: Final = lru_cache(2**16)(normalize_class_name)
"""Cached, because the names of folders are repeated for each file."""


class ClassNames:
    """Maps names of folders and values in a table to labels.

    Args:
        others: Labels by other names of the classes.

    Raises:
        SettingsError: A name is mapped to two classes.
    """

    def __init__(self, others: Mapping[str, str] | None = None) -> None:
        try:
            check_class_names(others or {})
        except ValueError as error:
            raise SettingsError(f"data.class_names: {error}.") from error
        names = {label: label for label in LABELS} | dict(others or {})
        self._labels = {normalize_class_name(name): label for name, label in names.items()}

    def find_label(self, name: str) -> str | None:
        """Return the label of a name, or `None`."""
        return self._labels.get(_spell(name))
