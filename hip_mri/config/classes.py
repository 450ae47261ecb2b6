"""Class labels, splits and the spellings of class names."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Final, Literal

Label = Literal["normal", "osseous_lesion"]

LABELS: Final = ("normal", "osseous_lesion")
"""Class folders in the order of their label: `normal` = 0, `osseous_lesion` = 1."""

SPLITS: Final = ("train", "val", "test")
"""The splits, as they are named in the manifest and as folders."""

SYNTHETIC_MARK: Final = "SYNTHETIC.txt"
"""File at the top of a source, or one folder below it, that marks its images as synthetic."""

_MAX_CLASS_NAME_LENGTH: Final = 255
"""Longest name that is normalized, in characters, as of any file; longer ones could take minutes."""


def normalize_class_name(name: str) -> str:
    """Normalize the spelling of a class name, so that equal names compare equal.

    Case, blanks, dashes, underscores, dots, a plural s and the Unicode form make no difference.
    """
    if len(name) > _MAX_CLASS_NAME_LENGTH:
        return name
    return re.sub(r"[\s_.-]", "", unicodedata.normalize("NFC", name).casefold()).removesuffix("s")


def check_class_names(class_names: Mapping[str, str]) -> None:
    """Check that each further name of a class belongs to one class only.

    Args:
        class_names: Label by name.

    Raises:
        ValueError: A name is blank, or two names that are normalized alike, the labels included, belong to two classes.
    """
    labels = {normalize_class_name(label): label for label in LABELS}
    for name, label in class_names.items():
        normalized = normalize_class_name(name)
        if not normalized:
            raise ValueError(f"{name!r} is blank; give the name of a folder or a value of the column label")
        if labels.setdefault(normalized, label) != label:
            raise ValueError(f"{name!r} stands for {labels[normalized]} and for {label}; give each name one class")
