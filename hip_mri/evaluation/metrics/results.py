"""From scores to every figure of `metrics.json`: the same files and settings always give the same figures.

`publish_run` writes what is computed here, and `verify` computes it again.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from hip_mri.config import LABELS, SPLITS, EvaluationSettings
from hip_mri.dataset.identities import ATTRIBUTE_PREFIX
from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.measures import measure_decisions, measure_probabilities, measure_ranking
from hip_mri.evaluation.metrics.recalibration import fit_platt
from hip_mri.evaluation.metrics.resampling import HALF, measure_split, pool_by_patient
from hip_mri.evaluation.metrics.subgroups import measure_subgroups
from hip_mri.evaluation.metrics.thresholds import choose_threshold
from hip_mri.evaluation.metrics.validation import check_predictions

OTHERS: Final = "others"
"""Values of so few groups that they could name a person, put together."""

STRANGER_QUANTILE: Final = 0.01
"""Share of training images that are nearer than this to an image of another group; test images that are nearer still
to training images are suspicious where they are clearly more than this share."""


@dataclass(frozen=True)
class Scores:
    """The tables that all figures are computed from.

    Attributes:
        predictions: Columns image_id, split, label, score, group and patient (empty where unknown), one row per image.
        neighbours: See `hip_mri.monitoring.neighbours.find_neighbours`.
        folds: See `hip_mri.models.cross_validation.join_folds`; `None` without cross-validation.
        attributes: Column image_id and those that describe subgroups, as text; `None` without any.
    """

    predictions: pd.DataFrame
    neighbours: pd.DataFrame
    folds: pd.DataFrame | None = None
    attributes: pd.DataFrame | None = None


def evaluate(scores: Scores, settings: EvaluationSettings, seed: int) -> dict[str, Any]:
    """Compute every figure.

    The threshold is chosen on validation images alone; test images are only measured. Intervals resample groups.

    Args:
        scores: What the model gave.
        settings: Which rule, how many resamples and so on.
        seed: Start of the resampling.

    Returns:
        What `metrics.json` holds of figures, ready for strict JSON; those that cannot be measured are `None`.

    Raises:
        EvaluationError: A split is empty, has one class only, or holds scores that are not in 0-1.
    """
    check_predictions(scores.predictions)
    splits = {split: _select(scores.predictions, split) for split in SPLITS}
    val, test = splits["val"], splits["test"]
    threshold = choose_threshold(val["truth"], val["score"], settings.threshold_rule, settings.required_sensitivity)
    figures: dict[str, Any] = {
        "threshold": threshold,
        "test": measure_split(
            test["truth"],
            test["score"],
            test["group"],
            threshold,
            settings.prevalences,
            seed,
            settings.num_resamples,
        ),
        "val": _measure_points(val, threshold),
        "train": _measure_points(splits["train"], threshold),
        "patients": _measure_patients(val, test, settings, seed),
        "recalibration": _recalibrate(val, test) if settings.recalibrate else None,
        "subgroups": _measure_subgroups(scores, threshold, settings, seed),
        "cross_validation": None if scores.folds is None else summarize_folds(scores.folds),
        "leakage": summarize_neighbours(scores.neighbours),
    }
    return figures


def _select(predictions: pd.DataFrame, split: str) -> pd.DataFrame:
    rows = predictions[predictions["split"] == split]
    if rows.empty:
        raise EvaluationError(f"predictions: the split {split} has no images. Start again from the source.")
    return rows.assign(truth=rows["label"].map(LABELS.index).astype(np.int64))


def _measure_points(rows: pd.DataFrame, threshold: float) -> dict[str, Any]:
    """The figures of a split that served to fit or to choose something: without intervals, which would mislead."""
    truth, score = rows["truth"], rows["score"]
    return {
        "num_images": len(rows),
        "num_lesions": int(truth.sum()),
        "num_groups": int(rows["group"].nunique()),
        **measure_ranking(truth, score),
        **measure_probabilities(truth, score),
        "at_threshold": measure_decisions(truth, score, threshold),
        "at_half": measure_decisions(truth, score, HALF),
    }


def _measure_patients(
    val: pd.DataFrame, test: pd.DataFrame, settings: EvaluationSettings, seed: int
) -> dict[str, Any] | None:
    """Figures per patient, by the mean score of the patient's images; `None` where a patient is not known."""
    if (val["patient"] == "").any() or (test["patient"] == "").any():
        return None
    chosen_on, measured = (pool_by_patient(rows["truth"], rows["score"], rows["patient"]) for rows in (val, test))
    if min(len(np.unique(pool.labels)) for pool in (chosen_on, measured)) < len(LABELS):
        return None
    rule = settings.threshold_rule
    threshold = choose_threshold(chosen_on.labels, chosen_on.scores, rule, settings.required_sensitivity)
    result = measure_split(
        measured.labels, measured.scores, None, threshold, settings.prevalences, seed, settings.num_resamples
    )
    return dict(result)


def _recalibrate(val: pd.DataFrame, test: pd.DataFrame) -> dict[str, Any]:
    try:
        platt = fit_platt(val["truth"], val["score"])
    except EvaluationError as error:  # scores that rank the wrong way round cannot be mended by it
        return {"slope": None, "intercept": None, "test": None, "reason": str(error)}
    after = measure_probabilities(test["truth"], platt.apply(test["score"].to_numpy()))
    return {"slope": platt.slope, "intercept": platt.intercept, "test": after, "reason": None}


def _measure_subgroups(
    scores: Scores, threshold: float, settings: EvaluationSettings, seed: int
) -> list[dict[str, Any]]:
    """Figures by the user's columns; values of fewer groups than the minimum are put together and not named."""
    if scores.attributes is None:
        return []
    test = scores.predictions[scores.predictions["split"] == "test"]
    test, told = join_attributes(test, scores.attributes, settings.min_subgroup_size)
    rows = measure_subgroups(test, told, threshold, settings.min_subgroup_size, seed, settings.num_resamples)
    return [{**row, "column": row["column"].removeprefix(ATTRIBUTE_PREFIX)} for row in rows]


def join_attributes(
    images: pd.DataFrame, attributes: pd.DataFrame, minimum_size: int
) -> tuple[pd.DataFrame, list[str]]:
    """Join the columns that describe subgroups to scored images, so that no value can name a person.

    Args:
        images: Columns image_id and group, one row per image.
        attributes: Column image_id and those that describe subgroups, as text.
        minimum_size: Values of fewer groups than this are put together as `others`.

    Returns:
        The images with these columns, and the names of those that tell at least two subgroups apart.
    """
    joined = images.merge(attributes, on="image_id", how="left")
    columns = [column for column in attributes.columns if column != "image_id"]
    for column in columns:
        values = joined[column].where(joined[column] != "", "missing").fillna("missing")
        num_groups = joined["group"].groupby(values).nunique()
        joined[column] = values.where(values.map(num_groups) >= minimum_size, OTHERS)
    return joined, [column for column in columns if joined[column].nunique() > 1]


def summarize_folds(folds: pd.DataFrame) -> dict[str, Any]:
    """AUC of each fold that holds both classes, by scheme, and what folds by image add.

    Args:
        folds: Columns scheme, seed, fold, label and score.

    Returns:
        For `grouped` and `by_image`: `aucs` of the folds, their mean and standard deviation; and `inflation`, the
        difference of the means.
    """
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - a second to import

    summary: dict[str, Any] = {}
    for scheme in ("grouped", "by_image"):
        parts = [rows for _, rows in folds[folds["scheme"] == scheme].groupby(["seed", "fold"])]
        aucs = [
            float(roc_auc_score(rows["label"] == LABELS[1], rows["score"]))
            for rows in parts
            if rows["label"].nunique() == len(LABELS)
        ]
        summary[scheme] = {
            "aucs": aucs,
            "mean": float(np.mean(aucs)) if aucs else None,
            "standard_deviation": float(np.std(aucs, ddof=1)) if len(aucs) > 1 else None,
        }
    means = [summary[scheme]["mean"] for scheme in ("by_image", "grouped")]
    summary["inflation"] = None if None in means else means[0] - means[1]
    return summary


def summarize_neighbours(neighbours: pd.DataFrame) -> dict[str, Any]:
    """How near test images are to training images, against images of one group and of different groups.

    Args:
        neighbours: Columns kind and distance.

    Returns:
        Quartiles of the distances of each kind, and the share of test images that are nearer to a training image than
        all but 1 % of the training images are to the nearest one of another group; about 1 % is expected.
    """
    distances = {kind: rows["distance"].to_numpy() for kind, rows in neighbours.groupby("kind")}
    quartiles = {
        kind: [float(value) for value in np.quantile(values, (0.25, 0.5, 0.75))] for kind, values in distances.items()
    }
    limit = (
        float(np.quantile(distances["between_groups"], STRANGER_QUANTILE)) if "between_groups" in distances else None
    )
    tested = distances["test_to_train"]
    return {
        "quartiles": quartiles,
        "stranger_limit": limit,
        "share_nearer_than_strangers": None if limit is None else float((tested < limit).mean()),
        "num_test_images": len(tested),
    }
