"""Reads numbers of DICOM elements, including some that violate the standard."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset


def get_numbers(dataset: "Dataset", name: str) -> list[float | None]:
    """Read the numbers of an element.

    A comma counts as decimal point.

    Args:
        dataset: Where the element is looked for.
        name: Keyword of the element.

    Returns:
        Its values, `None` for each that is empty or no number; empty where the element is missing or empty.
    """
    if name not in dataset:
        return []
    try:
        value = dataset[name].value
    except (ValueError, TypeError):  # pydicom cannot convert the text
        value = _read_text(dataset, name)
    values = [value] if value is None or isinstance(value, int | float | str | bytes) else list(value)
    return [_convert(one) for one in values] if values not in ([None], [""]) else []


def get_number(dataset: "Dataset", name: str) -> float | None:
    """Read the number of an element, or the first of several; `None` where it is missing, empty or no number."""
    return next(iter(get_numbers(dataset, name)), None)


def _read_text(dataset: "Dataset", name: str) -> list[str]:
    raw = getattr(dataset.get_item(name), "value", None)
    return raw.decode("ascii", "replace").split("\\") if isinstance(raw, bytes) else []


def _convert(value: object) -> float | None:
    try:
        return float(str(value).strip().strip("\0").replace(",", "."))
    except ValueError:
        return None
