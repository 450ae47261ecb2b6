"""Recognizes the names of the classes in any spelling, and other names that the user maps to them."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from hip_mri.config import LABELS, check_class_names, normalize_class_name
from hip_mri.errors import SettingsError

_spell: Final = lru_cache(2**16)(normalize_class_name)
"""A source repeats the names of its folders."""


class ClassNames:
    """Finds the label that the name of a folder, or a value in a table, stands for.

    Args:
        others: Other names of the classes, to the labels that they stand for.

    Raises:
        SettingsError: A name stands for two classes.
    """

    def __init__(self, others: Mapping[str, str] | None = None) -> None:
        try:
            check_class_names(others or {})
        except ValueError as error:
            raise SettingsError(f"data.class_names: {error}.") from error
        names = {label: label for label in LABELS} | dict(others or {})
        self._labels = {normalize_class_name(name): label for name, label in names.items()}

    def find_label(self, name: str) -> str | None:
        """The label that a name stands for, or `None`."""
        return self._labels.get(_spell(name))
