"""Checks that HDF5 files of weights hold nothing but numbers."""

import contextlib
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import h5py

from hip_mri.errors import WeightsError, list_offenders

UNREADABLE: Final = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(OSError, EOFError, RuntimeError, zlib.error, struct.error, zipfile.BadZipFile),
)
"""Errors that HDF5, zipfile, zlib, JSON, NumPy and Keras raise for damaged files and files of another kind."""

_MAX_LEVELS: Final = 32
"""Depth of nested groups. Keras writes four, and more for networks inside networks."""

_MAX_RATIO: Final = 100
"""Bytes of numbers for each byte in the file; trained weights can hardly be compressed."""

_SMALL_BYTES: Final = 2**20
"""Datasets up to this size may have any ratio, such as compressed zeros."""

_SEED_GROUP: Final = "seed_generator"
"""Group of the state of a random number generator, which layers such as Dropout have."""


def check_numbers_only(content: h5py.File, file: Path) -> None:
    """Check that an HDF5 file holds nothing but numbers, before any of them is read.

    Args:
        content: The open file.
        file: Its name in messages.

    Raises:
        WeightsError: It has links to other files or places, deep nesting, objects, or datasets that are much larger
            than the file; these are named. Damaged files may raise any of `UNREADABLE`.
    """
    foreign: list[str] = []
    addresses = {_find_address(content)}
    groups: list[tuple[str, h5py.Group]] = [("", content)]
    while groups:
        parent, group = groups.pop()
        for name in group:
            path = f"{parent}/{name}"
            fault = _find_fault(group, name, addresses)
            if fault is None and isinstance(item := group[name], h5py.Group):
                if path.count("/") < _MAX_LEVELS:
                    groups.append((path, item))
                else:
                    fault = "nested too deeply"
            if fault is not None:
                foreign.append(f"{path} ({fault})")
    if foreign:
        raise WeightsError(
            f"model.weights: {file} is not loaded: it holds {list_offenders(foreign)}. Give a file that holds its "
            "weights itself, as Keras saves them."
        )


def _find_fault(group: h5py.Group, name: str, addresses: set[int]) -> str | None:
    """Describe the fault of a member; of a sound one, the address is added to `addresses`."""
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        return type(link).__name__
    item = group[name]
    address = _find_address(item)
    if address in addresses:  # a group can contain itself or its parent
        return "second name of another object"
    addresses.add(address)
    return None if isinstance(item, h5py.Group) or _is_plain(item) else "not plain numbers"


def _find_address(item: Any) -> int:
    return h5py.h5o.get_info(item.id).addr


def _is_plain(item: Any) -> bool:
    """Whether a dataset consists of numbers that are stored in the file itself."""
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiub" or item.is_virtual or item.external:
        return False
    return item.nbytes <= max(_SMALL_BYTES, _MAX_RATIO * item.id.get_storage_size())


def count_parameters(content: Any) -> int:
    """Count the numbers in all datasets of a file or a group, except states of random number generators."""
    sizes: list[int] = []

    def add_size(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and _SEED_GROUP not in name.split("/"):
            sizes.append(int(item.size or 0))

    content.visititems(add_size)
    return sum(sizes)


@contextlib.contextmanager
def named_for_keras(file: Path) -> Iterator[Path]:
    """Give a weights file the suffix by which Keras chooses the format.

    Keras reads `.weights.h5` as its present format and `.h5` as the older one, in lower case only.

    Yields:
        The file itself, or a link to it.
    """
    with h5py.File(file, "r") as content:
        suffix = ".weights.h5" if "layers" in content and "model_weights" not in content else ".h5"
    if file.name.endswith(suffix) and (suffix == ".weights.h5" or not file.name.endswith(".weights.h5")):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, f"named{suffix}")
        link.symlink_to(file.resolve())
        yield link


def describe_cause(error: Exception) -> str:
    """Return the first line of an error's message, or the error's class if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
