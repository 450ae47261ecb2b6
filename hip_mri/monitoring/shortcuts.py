"""Shortcut test: how well the classes are separated by numbers of the image files that need no anatomy.

Trees are fitted to the training images and scored on the test images, as the network is, so that their AUC can be
compared with that of the network: the same images, the same split by group, the same kind of interval.

Source of the idea: Zech et al., "Variable generalization performance of a deep learning model to detect pneumonia",
PLOS Medicine 15, 2018; DeGrave, Janizek and Lee, Nature Machine Intelligence 3, 2021. Source of the trees: Geurts,
Ernst and Wehenkel, "Extremely randomized trees", Machine Learning 63, 2006.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray

from hip_mri.config import LABELS
from hip_mri.dataset.manifest import digest_table, read_manifest, sample_groups, select_ready
from hip_mri.dataset.preprocessing import read_stored_image
from hip_mri.dataset.pseudonyms import resolve_pseudonyms
from hip_mri.hashes import digest
from hip_mri.images.shortcut_statistics import KINDS, NUMBERS, compute_numbers, name_file_kind
from hip_mri.storage import replace_file
from hip_mri.workspace import Workspace

SHORTCUT_RECIPE: Final = 1
"""Version of the test; raised by changes that alter numbers or scores."""

MAX_NUM_IMAGES: Final = 8192
"""Images of each split that are used. Of more, whole groups are drawn; the interval is narrow enough by then."""

NUM_TREES: Final = 300
MIN_LEAF: Final = 3
"""Minimum number of images in a leaf; single ones would be learned by heart."""

DECIMALS: Final = 6
"""Of stored numbers and scores."""

COMBINATIONS: Final[dict[str, tuple[str, ...]]] = {
    **{kind: (kind,) for kind in KINDS},
    "without_anatomy": ("size_and_file", "margin"),
    "all": tuple(KINDS),
}
"""Kinds of numbers that each classifier uses."""


def measure_shortcuts(workspace: Workspace, num_threads: int) -> Path:
    """Score the test images by classifiers that use only numbers which need no anatomy.

    Args:
        workspace: Its manifest, names and stored images are read; its `shortcuts` folder is written.
        num_threads: Threads that read images.

    Returns:
        CSV of the test images: image_id, file_kind, the numbers of `NUMBERS`, and `score_<combination>`, 0-1, for each
        of `COMBINATIONS`.

    Raises:
        WorkspaceError: A stored image or the file of names is missing or damaged.
    """
    images = select_ready(read_manifest(workspace.manifest_file))
    identity = digest_table(images[["image_id", "sha256", "label", "group", "split", "num_bytes", "entry"]])
    file = workspace.shortcuts_folder / f"{digest([SHORTCUT_RECIPE, identity])[:16]}.csv"
    if file.exists():
        return file
    training, test = (
        _describe(sample_groups(images[images["split"] == split], MAX_NUM_IMAGES), workspace, num_threads)
        for split in ("train", "test")
    )
    table = test[["image_id", "file_kind", *NUMBERS]].assign(**score_images(training, test))
    with replace_file(file) as temporary:
        table.to_csv(temporary, index=False)
    return file


def score_images(training: pd.DataFrame, test: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Fit trees to the numbers of training images and score test images, for each of `COMBINATIONS`.

    Args:
        training: Columns label, file_kind and `NUMBERS`; both classes.
        test: The same columns; labels are not used.

    Returns:
        `score_<combination>`: probability of a lesion, 0-1, shape (test images,).
    """
    from sklearn.ensemble import ExtraTreesClassifier  # noqa: PLC0415 - a second to import

    labels = (training["label"] == LABELS[1]).to_numpy()
    kinds = training["file_kind"].value_counts().index  # the most frequent first
    training, test = (table.assign(file_kind=kinds.get_indexer(table["file_kind"])) for table in (training, test))
    scores = {}
    for combination, parts in COMBINATIONS.items():
        names = [name for part in parts for name in KINDS[part]]
        trees = ExtraTreesClassifier(NUM_TREES, min_samples_leaf=MIN_LEAF, random_state=0)
        trees.fit(training[names].to_numpy(np.float64), labels)
        found = trees.predict_proba(test[names].to_numpy(np.float64))[:, 1]
        scores[f"score_{combination}"] = found.round(DECIMALS)
    return scores


def _describe(images: pd.DataFrame, workspace: Workspace, num_threads: int) -> pd.DataFrame:
    def describe(sha256: str, num_bytes: float) -> dict[str, float]:
        image = read_stored_image(sha256, workspace)
        return compute_numbers(image, num_bytes / workspace.image_file(sha256).stat().st_size)

    images = images.reset_index(drop=True)
    num_bytes = images["num_bytes"] / images["num_slices"]
    rows = Parallel(n_jobs=num_threads, backend="threading")(
        delayed(describe)(*row) for row in zip(images["sha256"], num_bytes, strict=True)
    )
    names = resolve_pseudonyms(images["entry"], workspace)
    numbers = pd.DataFrame(list(rows), columns=list(NUMBERS)).round(DECIMALS)
    return pd.concat([images[["image_id", "label"]], numbers], axis=1).assign(file_kind=names.map(name_file_kind))
