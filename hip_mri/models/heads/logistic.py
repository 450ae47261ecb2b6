"""Fits the logistic head: logistic regression with an L2 penalty on standardized features.

Standardization is folded into the weights, so that the head is one dense unit on the features as they are.

Source: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 2nd edition 2009, section 4.4.
"""

import logging
import warnings
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hip_mri.config import TrainingSettings
from hip_mri.models.fitting import TrainingImages

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

logger = logging.getLogger(__name__)

INVERSE_PENALTIES: Final = tuple(np.logspace(-6, 0, 7).tolist())
"""Values of scikit-learn's `C` that are tried; about 2,000 standardized features need a strong penalty."""

DEFAULT_INVERSE_PENALTY: Final = 1e-3
"""Value of `C` where there are too few groups to choose one."""

NUM_INNER_FOLDS: Final = 5
MAX_NUM_ITERATIONS: Final = 1000

MAX_NUM_ROWS: Final = 50_000
"""Rows that are fitted; of more, whole groups are drawn. They are held in memory, 8 KB each for a ResNet."""


def fit_logistic(
    training: TrainingImages, settings: TrainingSettings, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fit a logistic regression; its penalty is chosen by the log loss of inner folds that keep groups whole.

    With mirrored images, an image and its mirror image are two rows of the same weight.

    Args:
        training: Features with groups.
        settings: `class_weight` is used; epochs, batch size and learning rate have no meaning here.
        seed: Seed of the inner folds, and of the groups that are drawn from a large set.

    Returns:
        Kernel of shape (num_features, 1) and bias of shape (1,) of a dense unit with a sigmoid.
    """
    rows, labels, groups = _gather_rows(training, seed)
    class_weight = "balanced" if settings.class_weight == "balanced" else None
    with threadpool_limits(limits=1, user_api="blas"):  # sums of several threads depend on their number
        fitted = _search_penalty(rows, labels, groups, class_weight, seed)
    scaler, regression = fitted[0], fitted[1]
    kernel = regression.coef_.ravel() / scaler.scale_
    bias = regression.intercept_ - kernel @ scaler.mean_
    return kernel[:, None].astype(np.float32), bias.astype(np.float32)


def _gather_rows(
    training: TrainingImages, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Read the features of plain and mirrored images into memory, with label and number of the group of each row."""
    if training.groups is None:
        raise ValueError("the logistic head needs the group of each image")
    groups = np.unique(training.groups, return_inverse=True)[1]
    views = [training.plain] if training.mirrored is None else [training.plain, training.mirrored]
    chosen = _choose_images(groups, MAX_NUM_ROWS // len(views), seed)
    rows = np.concatenate([view[chosen] for view in views]).astype(np.float32, copy=False)
    return rows, np.tile(training.labels[chosen], len(views)), np.tile(groups[chosen], len(views))


def _choose_images(groups: NDArray[np.int64], max_images: int, seed: int) -> NDArray[np.int64]:
    """Choose all images, or those of random groups up to a limit; returns their positions in order."""
    if len(groups) <= max_images:
        return np.arange(len(groups))
    logger.warning("The logistic head is fitted on %d of %d images, drawn by group", max_images, len(groups))
    sizes = np.bincount(groups)
    order = np.random.default_rng(seed).permutation(len(sizes))
    kept = order[np.cumsum(sizes[order]) <= max_images]
    return np.flatnonzero(np.isin(groups, kept))


def _search_penalty(
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    class_weight: str | None,
    seed: int,
) -> "Pipeline":
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - a second to import
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - see above
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold  # noqa: PLC0415 - see above
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415 - see above
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415 - see above

    regression = LogisticRegression(
        C=DEFAULT_INVERSE_PENALTY, class_weight=class_weight, max_iter=MAX_NUM_ITERATIONS, tol=1e-5
    )
    pipeline = make_pipeline(StandardScaler(), regression)
    num_folds = min(NUM_INNER_FOLDS, *(len(np.unique(groups[labels == label])) for label in (0, 1)))
    with warnings.catch_warnings():
        # Weak penalties can fail to converge; the folds show whether they are any good.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if num_folds < 2:
            return pipeline.fit(rows, labels)
        folds = list(StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed).split(rows, labels, groups))
        folds = [(fit_on, scored) for fit_on, scored in folds if len(np.unique(labels[fit_on])) == 2]
        grid = {"logisticregression__C": INVERSE_PENALTIES}
        search = GridSearchCV(pipeline, grid, scoring=_compute_log_loss, cv=folds, error_score="raise")
        return search.fit(rows, labels).best_estimator_


def _compute_log_loss(pipeline: "Pipeline", rows: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Negative mean log loss; unlike that of scikit-learn defined also where a fold holds a single class."""
    logits = pipeline.decision_function(rows)
    return -float(np.logaddexp(0, np.where(labels == 1, -logits, logits)).mean())
