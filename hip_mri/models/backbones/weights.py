"""Which weights the backbone gets: settled, and found to fit, before any other work."""

import contextlib
import hashlib
import logging
import socket
import struct
import sys
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py

from hip_mri.config import BackboneName
from hip_mri.errors import HipMriError, WeightsError, list_offenders
from hip_mri.images.file_kinds import LFS_ADVICE, NUM_BYTES_NEEDED, is_lfs_pointer, is_web_page
from hip_mri.models.keras_settings import choose_backend, import_keras, list_keras_folders
from hip_mri.storage import digest_file
from hip_mri.workspace import resolve_path

logger = logging.getLogger(__name__)

NUM_PARAMETERS: Final[dict[str, int]] = {"ResNet50": 23_587_712, "ResNet101": 42_658_176, "ResNet152": 58_370_944}
"""Numbers in a weights file without top, moving statistics included; Keras' `count_params()`."""

IMAGENET_ADDRESS: Final = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
IMAGENET_MD5: Final[dict[str, str]] = {
    "ResNet50": "4d473c1dd8becc155b73f8504c6f6626",
    "ResNet101": "88cf7a10940856eca736dc7b7e228a21",
    "ResNet152": "ee4c566cf9a93f14d82f913c2dc6dd0c",
}
"""Where Keras keeps its ImageNet weights without top, and their MD5, as in `keras.applications.resnet`."""

DOWNLOAD_TIMEOUT_SECONDS: Final = 20
"""How long a silent connection is waited for before the download counts as impossible."""

FALLBACK_BACKBONE: Final[BackboneName] = "ResNet50"
"""Network of the demo without downloaded weights: the smallest one, since random weights gain nothing from a larger."""

FALLBACK_NOTICE: Final = (
    f"RANDOM WEIGHTS: the ImageNet weights could not be downloaded, so this demo runs on a {FALLBACK_BACKBONE} with "
    "random weights. Its figures say nothing about what the pretrained network can do."
)
RANDOM_NOTICE: Final = (
    "RANDOM WEIGHTS: the backbone was given random weights, as asked. Its figures say nothing about what a "
    "pretrained network can do."
)

UNREADABLE: Final = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(OSError, EOFError, RuntimeError, zlib.error, struct.error, zipfile.BadZipFile),
)
"""What HDF5, zipfile, zlib, JSON, NumPy and Keras raise over files that are damaged or none of theirs."""

_OPTIMIZER_GROUPS: Final = ("optimizer", "optimizer_weights")
"""Where Keras 3 and older versions keep the state of an optimizer beside the weights; it is not read."""

_MOST_LEVELS: Final = 32
"""Groups inside groups; Keras writes four, and more for networks inside networks."""

_MOST_RATIO: Final = 100
"""Bytes that numbers may take for each byte in the file: trained ones can hardly be compressed."""

_SMALL_BYTES: Final = 2**20
"""Numbers up to this size may be packed as tightly as they are: zeros are, and do no harm."""


@dataclass(frozen=True)
class Weights:
    """Settled weights.

    Attributes:
        name: `imagenet`, `random`, or the SHA-256 of the file that the user gave.
        backbone: The network that they are for.
        file: The weights file; `None` for random weights.
        sha256: Hash of the file; empty for random weights.
        notice: What every output must say about them; empty when there is nothing to warn of.
    """

    name: str
    backbone: BackboneName
    file: Path | None
    sha256: str
    notice: str = ""


def resolve_weights(weights: str, backbone: BackboneName, *, fall_back_to_random: bool) -> Weights:
    """Settle the weights of the backbone.

    Args:
        weights: `imagenet`, `random`, or the path of a Keras weights file without top.
        backbone: The network that they are for.
        fall_back_to_random: Take random weights of the smallest network, with a notice, when ImageNet's cannot be
            downloaded. For the demo alone: on real data random weights would waste the user's time.

    Returns:
        The weights, with a file that is there and has the right number of parameters.

    Raises:
        WeightsError: The file is missing or does not fit, or the download is not possible.
        SettingsError: The path begins with a home folder that nobody has, or the backend of Keras cannot be used.
    """
    choose_backend()
    if weights == "random":
        return Weights("random", backbone, None, "", RANDOM_NOTICE)
    if weights != "imagenet":
        file = resolve_path(weights, "model.weights")
        _check_file(file, backbone)
        sha256 = digest_file(file)
        return Weights(sha256, backbone, file, sha256)
    try:
        file = _download_imagenet(backbone)
    except OSError as error:
        return _do_without_download(error, backbone, fall_back_to_random)
    return Weights("imagenet", backbone, file, digest_file(file))


def _do_without_download(error: OSError, backbone: BackboneName, fall_back_to_random: bool) -> Weights:
    if fall_back_to_random:
        logger.warning("%s", FALLBACK_NOTICE)
        return Weights("random", FALLBACK_BACKBONE, None, "", FALLBACK_NOTICE)
    raise WeightsError(
        f"model.weights: the ImageNet weights of {backbone} could not be downloaded ({error}). Where there is no "
        f"internet, fetch `{backbone.lower()}_weights_tf_dim_ordering_tf_kernels_notop.h5` (keras.io, 'Keras "
        "Applications') on another machine and give its path with --model.weights, or 'random' for a dry run."
    ) from error


def _download_imagenet(backbone: BackboneName) -> Path:
    """Let Keras download its weights, once; a file that was cut short is fetched again.

    Raises:
        OSError: The download is not possible.
    """
    name = f"{backbone.lower()}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    for folder in list_keras_folders():
        there = folder / "models" / name
        if there.is_file() and _digest_md5(there) == IMAGENET_MD5[backbone]:
            return there
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        # Tells in a moment that there is no internet, before Keras is loaded.
        with urllib.request.urlopen(urllib.request.Request(IMAGENET_ADDRESS + name, method="HEAD")):
            pass
        keras = import_keras()
        with contextlib.redirect_stdout(sys.stderr):  # Keras shows its progress on standard output
            file = keras.utils.get_file(
                name,
                IMAGENET_ADDRESS + name,
                cache_dir=str(list_keras_folders()[0]),
                cache_subdir="models",
                file_hash=IMAGENET_MD5[backbone],
            )
    except HipMriError:
        raise
    except Exception as error:  # Keras wraps the network's errors in a plain Exception, or raises ValueError
        raise OSError(str(error).replace("\n", " ")) from error
    finally:
        socket.setdefaulttimeout(timeout)
    return Path(file)


def _digest_md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _check_file(file: Path, backbone: BackboneName) -> None:
    if not file.is_file():
        raise WeightsError(
            f"model.weights: no file at {file}. Give the path of a Keras {backbone} weights file without top, "
            "or 'imagenet' to download."
        )
    if advice := _explain_other_kind(file):
        raise WeightsError(f"model.weights: {file.name} {advice}")
    try:
        with h5py.File(file, "r") as content:
            check_numbers_only(content, file)
            num_parameters = _count_parameters(content)
            num_of_optimizer = sum(_count_parameters(content[name]) for name in _OPTIMIZER_GROUPS if name in content)
            is_model = "model_config" in content.attrs or "model_weights" in content
    except UNREADABLE as error:
        raise WeightsError(
            f"model.weights: {file.name} is not a readable HDF5 file ({tell_cause(error)}). Fetch it again."
        ) from error
    if num_parameters - num_of_optimizer != NUM_PARAMETERS[backbone]:
        raise WeightsError(_explain_count(file, backbone, num_parameters, num_of_optimizer, is_model=is_model))


def _explain_other_kind(file: Path) -> str:
    """What is wrong with a file that is no HDF5 file by its name or its first bytes; empty where nothing is."""
    with file.open("rb") as stream:
        start = stream.read(NUM_BYTES_NEEDED)
    if is_lfs_pointer(start):
        return f"is a Git LFS pointer, not the weights. {LFS_ADVICE}"
    if is_web_page(start):
        return "is a web page, saved in the place of the weights. Download the file itself."
    suffix = file.suffix.lower()
    if suffix == ".keras":
        return (
            "is a whole model. Save the weights of its backbone alone with `backbone.save_weights('NAME.weights.h5')`, "
            "and give that file."
        )
    if suffix not in (".h5", ".hdf5"):
        return "does not end in .weights.h5 or .h5, as Keras' weights do."
    return ""


def _explain_count(
    file: Path, backbone: BackboneName, num_parameters: int, num_of_optimizer: int, *, is_model: bool
) -> str:
    """Say of a file with another number of parameters what it holds, and what to give instead."""
    num_weights = num_parameters - num_of_optimizer
    optimizer = f" beside {num_of_optimizer:,} numbers of an optimizer" if num_of_optimizer else ""
    fitting = [name for name, count in NUM_PARAMETERS.items() if count == num_weights]
    if fitting:
        advice = f"It fits --model.backbone {fitting[0]}."
    elif is_model or num_of_optimizer:
        advice = (
            "It is a whole model, as `model.save` writes it: save the weights of its backbone alone, without top, with "
            "`backbone.save_weights('NAME.weights.h5')`."
        )
    else:
        advice = "Give a file saved with include_top=False."
    return (
        f"model.weights: {file.name} holds {num_weights:,} parameters{optimizer}, {backbone} without top has "
        f"{NUM_PARAMETERS[backbone]:,}. {advice}"
    )


@contextlib.contextmanager
def named_for_keras(file: Path) -> Iterator[Path]:
    """Give a weights file the ending by which Keras chooses how to read it, whatever its own name is.

    Keras takes `.weights.h5` for its present format and `.h5` for the older one, in lower case alone.

    Yields:
        The file itself, or a link to it.
    """
    with h5py.File(file, "r") as content:
        ending = ".weights.h5" if "layers" in content and "model_weights" not in content else ".h5"
    if file.name.endswith(ending) and (ending == ".weights.h5" or not file.name.endswith(".weights.h5")):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, f"named{ending}")
        link.symlink_to(file.resolve())
        yield link


def check_numbers_only(content: h5py.File, file: Path) -> None:
    """See that an HDF5 file holds nothing but numbers, before any of them is read.

    Args:
        content: The open file.
        file: What the message calls it.

    Raises:
        WeightsError: It points to other files or places, is nested too deeply, holds objects, or numbers that are
            hardly there; these are named. Of damaged files, any of `UNREADABLE` may be raised.
    """
    foreign: list[str] = []
    seen = {_find_address(content)}
    unseen: list[tuple[str, h5py.Group]] = [("", content)]
    while unseen:
        above, group = unseen.pop()
        for name in group:
            path = f"{above}/{name}"
            fault = _find_fault(group, name, seen)
            if fault is None and isinstance(item := group[name], h5py.Group):
                if path.count("/") < _MOST_LEVELS:
                    unseen.append((path, item))
                else:
                    fault = "too deep"
            if fault is not None:
                foreign.append(f"{path} ({fault})")
    if foreign:
        raise WeightsError(
            f"model.weights: {file} is not loaded: it holds {list_offenders(foreign)}. Give a file that holds its "
            "weights itself, as Keras saves them."
        )


def _find_fault(group: h5py.Group, name: str, seen: set[int]) -> str | None:
    """What is wrong with a member of a group; where nothing is, its address is added to those that were seen."""
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        return type(link).__name__
    item = group[name]
    address = _find_address(item)
    if address in seen:  # a group can hold itself, or the one above it
        return "another name of what stands elsewhere"
    seen.add(address)
    return None if isinstance(item, h5py.Group) or _is_plain(item) else "no plain numbers"


def _find_address(item: Any) -> int:
    """Where an object begins in its file."""
    return h5py.h5o.get_info(item.id).addr


def _is_plain(item: Any) -> bool:
    """Whether the numbers of a dataset lie in the file itself, as many as it says."""
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiub" or item.is_virtual or item.external:
        return False
    return item.nbytes <= max(_SMALL_BYTES, _MOST_RATIO * item.id.get_storage_size())


def tell_cause(error: Exception) -> str:
    """First line of what an error says, or its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _count_parameters(content: Any) -> int:
    """Numbers in all datasets of a file or a group."""
    total = 0

    def add(_name: str, item: Any) -> None:
        nonlocal total
        if isinstance(item, h5py.Dataset):
            total += int(item.size or 0)

    content.visititems(add)
    return total
