"""Finds the split that a source gives by folders named train, val and test, above or below the class folders."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Final

from hip_mri.config import SPLITS
from hip_mri.errors import SourceError

logger = logging.getLogger(__name__)

TRAIN_OR_VAL: Final = "train+val"
TRAIN_OR_TEST: Final = "train+test"
"""Splits of images that are drawn from two parts: the source gives only the others."""

UNDECIDED: Final = {TRAIN_OR_VAL: ("train", "val"), TRAIN_OR_TEST: ("train", "test")}

_NAMES: Final = re.compile(
    r"(?:(?P<train>train(?:ing)?)|(?P<val>val(?:id(?:ation)?)?)|(?P<test>test(?:ing)?))"
    r"(?:set|dataset|data|images?|split)?"
)
_MIN_COVERAGE: Final = 0.5
"""Minimum fraction of the files of a source in folders named like splits."""


@lru_cache(2**16)
def find_split_name(name: str) -> str | None:
    """Return the split of a folder name or a value in a table: `train`, `val` or `test`, or `None`.

    Accepted are train and training, val, valid and validation, test and testing, in any case, also followed by set,
    data, dataset, image, images or split.
    """
    match = _NAMES.fullmatch(re.sub(r"[\s_.-]", "", name.casefold()))
    return match.lastgroup if match else None


def find_given_splits(names: Sequence[str]) -> list[str]:
    """Find the split that folders give to each file of a source.

    Splits are given if folders are named like at least two splits and contain half of the files or more. Parent folders
    that all files have in common are not considered.

    Args:
        names: Paths of images, with forward slashes.

    Returns:
        For each file `train`, `val`, `test`, one of `UNDECIDED`, or an empty text if no split is given. If there is no
        folder for validation or for the test, images for it are drawn from the training folder. Files outside of such
        folders are divided between training and the missing part, or else validation; never added to a given test set.

    Raises:
        SourceError: Paths contain two splits.
    """
    folders = [name.rpartition("/")[0] for name in names]
    counts = Counter(folders)
    parts = {folder: folder.split("/") for folder in counts}
    ends = (min(parts.values()), max(parts.values())) if parts else ([], [])
    num_common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=False)))
    found = {folder: set(filter(None, map(find_split_name, path[num_common:]))) for folder, path in parts.items()}
    given = set().union(*found.values())
    if len(given) < 2:
        if given:
            logger.info("Folders named for %s, and for no other split, do not define splits", *given)
        return [""] * len(names)
    num_covered = sum(counts[folder] for folder, splits in found.items() if splits)
    if num_covered < _MIN_COVERAGE * len(names):
        logger.warning(
            "Folders named for %s contain %d of %d files, and do not define splits",
            " and ".join(_sort(given)),
            num_covered,
            len(names),
        )
        return [""] * len(names)
    num_contradictory = sum(counts[folder] for folder, splits in found.items() if len(splits) > 1)
    if num_contradictory:
        raise SourceError(
            f"source: {num_contradictory:,} files are in folders of two splits, such as test inside train. Rename "
            "folders so that each path contains one split, or draw a new split with --data.given-split ignore."
        )
    others = choose_open_split(given)
    in_train = others if given != set(SPLITS) and "train" in given else "train"
    meanings = {folder: next(iter(splits), others) for folder, splits in found.items()}
    return [in_train if meanings[folder] == "train" else meanings[folder] for folder in folders]


def choose_open_split(given: set[str]) -> str:
    """Return the two parts between which images without a given split are divided: training and the missing part."""
    return TRAIN_OR_TEST if "val" in given and "test" not in given else TRAIN_OR_VAL


def _sort(splits: set[str]) -> list[str]:
    return [split for split in SPLITS if split in splits]
