"""Computes every metric of `metrics.json` from the tables of a run.

`publish_run` writes the result, and `verify` computes it again; the same tables and settings give the same metrics.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import LABELS, SPLITS, EvaluationSettings
from hip_mri.dataset.identities import ATTRIBUTE_PREFIX
from hip_mri.errors import EvaluationError
from hip_mri.evaluation.audits.label_review import summarize_label_review
from hip_mri.evaluation.audits.shortcuts import summarize_shortcuts
from hip_mri.evaluation.audits.training_sizes import find_test_lesions, summarize_training_sizes
from hip_mri.evaluation.audits.worst_errors import list_worst_errors
from hip_mri.evaluation.conformal import Cases, calibrate_and_measure
from hip_mri.evaluation.metrics.measures import measure_probabilities, measure_ranking
from hip_mri.evaluation.metrics.recalibration import fit_platt
from hip_mri.evaluation.metrics.split_metrics import measure_points, measure_split, pool_by_patient
from hip_mri.evaluation.metrics.subgroups import measure_subgroups
from hip_mri.evaluation.metrics.thresholds import choose_threshold
from hip_mri.evaluation.metrics.validation import check_predictions, number_labels, validate_scores

OTHERS: Final = "others"
"""Combines the values of an attribute that have too few groups and could identify a person."""

MAX_LEAKAGE_AUC: Final = 0.55
"""Leakage is reported where the whole interval lies above this AUC. Chance is 0.5; the rest is for blocks that reach
over two patients who happen to be similar."""

LEAKAGE_ERROR_RATE: Final = 0.05
"""One minus the level of the intervals of the leakage test, for all kinds of blocks together."""


@dataclass(frozen=True)
class Scores:
    """The tables that all metrics are computed from.

    Attributes:
        predictions: Columns image_id, split, label, score, group and patient (empty where unknown), one row per image.
        neighbors: See `hip_mri.monitoring.neighbors.find_neighbors`.
        folds: See `hip_mri.models.cross_validation.join_folds`; `None` without cross-validation.
        leakage: See `hip_mri.monitoring.leakage.measure_leakage`; `None` for runs of earlier versions.
        attributes: Column image_id and the attributes for subgroups, as text; `None` without any.
        shortcuts: See `hip_mri.monitoring.shortcuts.measure_shortcuts`; `None` for runs of earlier versions.
        training_sizes: See `hip_mri.monitoring.training_sizes.measure_training_sizes`; `None` likewise.
        label_review: See `hip_mri.monitoring.label_review.review_labels`; `None` likewise.
    """

    predictions: pd.DataFrame
    neighbors: pd.DataFrame
    folds: pd.DataFrame | None = None
    leakage: pd.DataFrame | None = None
    attributes: pd.DataFrame | None = None
    shortcuts: pd.DataFrame | None = None
    training_sizes: pd.DataFrame | None = None
    label_review: pd.DataFrame | None = None


def evaluate(scores: Scores, settings: EvaluationSettings, seed: int) -> dict[str, Any]:
    """Compute every metric.

    The threshold is chosen on validation images; test images are only measured. Intervals resample groups. Validation
    and training images get no intervals, since they were used to choose the threshold or to fit the head.

    Args:
        scores: Tables of the run.
        settings: Threshold rule, number of resamples and so on.
        seed: Seed of the resampling.

    Returns:
        The metrics of `metrics.json`, ready for strict JSON; what cannot be computed is `None`.

    Raises:
        EvaluationError: A split is empty, has one class only, or has scores outside 0-1.
    """
    check_predictions(scores.predictions)
    splits = {split: _select(scores.predictions, split) for split in SPLITS}
    val, test = splits["val"], splits["test"]
    threshold = choose_threshold(val["truth"], val["score"], settings.threshold_rule, settings.required_sensitivity)
    options = (settings.prevalences, seed, settings.num_resamples)
    points = {
        split: measure_points(validate_scores(rows["truth"], rows["score"], rows["group"]), threshold)
        for split, rows in splits.items()
        if split != "test"
    }
    measured = measure_split(test["truth"], test["score"], test["group"], threshold, *options)
    patients = _measure_patients(val, test, settings, seed)
    return {
        "threshold": threshold,
        "test": measured,
        "val": points["val"],
        "train": points["train"],
        "patients": patients,
        "conformal": _calibrate(val, test, threshold, patients, settings.uncertain_error_rate),
        "recalibration": _recalibrate(val, test) if settings.recalibrate else None,
        **_measure_subgroups(test, scores.attributes, threshold, settings, seed),
        "worst_errors": list_worst_errors(test, scores.predictions, scores.neighbors, threshold),
        "cross_validation": None if scores.folds is None else summarize_folds(scores.folds),
        **({} if scores.leakage is None else {"leakage": summarize_leakage(scores.leakage)}),
        **_summarize_audits(scores, splits, measured, settings, seed),
    }


def _summarize_audits(
    scores: Scores,
    splits: Mapping[str, pd.DataFrame],
    measured: Mapping[str, Any],
    settings: EvaluationSettings,
    seed: int,
) -> dict[str, Any]:
    """Summarize shortcuts, training sizes and suspected labels, as far as the run has their tables."""
    summaries: dict[str, Any] = {}
    if scores.shortcuts is not None:
        interval, test = measured["intervals"]["auc"], splits["test"]
        options = (interval, seed, settings.num_resamples)
        summaries["shortcuts"] = summarize_shortcuts(scores.shortcuts, test, *options)
    if scores.training_sizes is not None:
        num_groups, test = splits["train"]["group"].nunique(), splits["test"]
        num_rarer = test.groupby("truth")["group"].nunique().min()
        summaries["training_sizes"] = summarize_training_sizes(scores.training_sizes, num_groups)
        summaries["halved_interval"] = find_test_lesions(measured, int(num_rarer))
    if scores.label_review is not None:
        summaries["label_review"] = summarize_label_review(scores.label_review)
    return summaries


def _select(predictions: pd.DataFrame, split: str) -> pd.DataFrame:
    rows = predictions[predictions["split"] == split]
    if rows.empty:
        raise EvaluationError(f"predictions: the split {split} has no images. Start again from the source.")
    return rows.assign(truth=number_labels(rows))


def _measure_patients(
    val: pd.DataFrame, test: pd.DataFrame, settings: EvaluationSettings, seed: int
) -> dict[str, Any] | None:
    """Compute metrics per patient from mean scores; `None` where a patient is unknown or a class is missing."""
    if (val["patient"] == "").any() or (test["patient"] == "").any():
        return None
    chosen_on, measured = (pool_by_patient(rows["truth"], rows["score"], rows["patient"]) for rows in (val, test))
    if any(len(np.unique(labels)) < len(LABELS) for labels, _ in (chosen_on, measured)):
        return None
    threshold = choose_threshold(*chosen_on, settings.threshold_rule, settings.required_sensitivity)
    return measure_split(*measured, None, threshold, settings.prevalences, seed, settings.num_resamples)


def _calibrate(
    val: pd.DataFrame, test: pd.DataFrame, threshold: float, patients: Mapping[str, Any] | None, error_rate: float
) -> dict[str, Any]:
    """Calibrate decisions for images, and for the mean scores of patients where these are measured."""
    rules: dict[str, Any] = {
        "images": calibrate_and_measure(_list_images(val), _list_images(test), threshold, error_rate),
        "patients": None,
    }
    if patients is not None:
        at = patients["at_threshold"]["threshold"]
        rules["patients"] = calibrate_and_measure(_list_patients(val), _list_patients(test), at, error_rate)
    return rules


def _list_images(rows: pd.DataFrame) -> Cases:
    return Cases(rows["truth"], rows["score"], rows["group"])


def _list_patients(rows: pd.DataFrame) -> Cases:
    return Cases(*pool_by_patient(rows["truth"], rows["score"], rows["patient"]), None)


def _recalibrate(val: pd.DataFrame, test: pd.DataFrame) -> dict[str, Any]:
    try:
        platt = fit_platt(val["truth"], val["score"])
    except EvaluationError as error:  # recalibration cannot correct scores in the wrong order
        return {"slope": None, "intercept": None, "test": None, "reason": str(error)}
    after = measure_probabilities(test["truth"], platt.apply(test["score"].to_numpy()))
    return {"slope": platt.slope, "intercept": platt.intercept, "test": after, "reason": None}


def _measure_subgroups(
    test: pd.DataFrame, attributes: pd.DataFrame | None, threshold: float, settings: EvaluationSettings, seed: int
) -> dict[str, Any]:
    if attributes is None:
        return {"subgroups": [], "uniform_attributes": []}
    joined, columns = join_attributes(test, attributes, settings.min_subgroup_size)
    rows = measure_subgroups(joined, columns, threshold, settings.min_subgroup_size, seed, settings.num_resamples)
    uniform = [column for column in attributes.columns if column not in (*columns, "image_id")]
    return {
        "subgroups": [{**row, "column": row["column"].removeprefix(ATTRIBUTE_PREFIX)} for row in rows],
        "uniform_attributes": [column.removeprefix(ATTRIBUTE_PREFIX) for column in uniform],
    }


def join_attributes(images: pd.DataFrame, attributes: pd.DataFrame, min_size: int) -> tuple[pd.DataFrame, list[str]]:
    """Join attributes to scored images, without values that could identify a person.

    Args:
        images: Columns image_id and group, one row per image.
        attributes: Column image_id and the attributes, as text.
        min_size: Values of fewer groups are combined as `others`.

    Returns:
        The images with the attributes, and the names of the attributes that have at least two values.
    """
    joined = images.merge(attributes, on="image_id", how="left")
    columns = [column for column in attributes.columns if column != "image_id"]
    for column in columns:
        values = joined[column].where(joined[column] != "", "missing").fillna("missing")
        num_groups = joined["group"].groupby(values).nunique()
        joined[column] = values.where(values.map(num_groups) >= min_size, OTHERS)
    return joined, [column for column in columns if joined[column].nunique() > 1]


def summarize_folds(folds: pd.DataFrame) -> dict[str, Any]:
    """Summarize the AUCs of cross-validation.

    Args:
        folds: Columns scheme, seed, fold, label and score.

    Returns:
        For `grouped` and `by_image`: `aucs` of the folds with both classes, their mean and standard deviation; and
        `inflation`, mean with folds by image minus mean with grouped folds.
    """
    summary: dict[str, Any] = {}
    for scheme in ("grouped", "by_image"):
        parts = [rows for _, rows in folds[folds["scheme"] == scheme].groupby(["seed", "fold"])]
        aucs = [
            measure_ranking(number_labels(rows), rows["score"])["auc"]
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


def summarize_leakage(draws: pd.DataFrame) -> dict[str, Any]:
    """Compute the mean AUC for each kind of blocks, and whether images of one patient are in different groups.

    Intervals are Student's t intervals over draws, which are independent given the images. They hold for all kinds
    together (Bonferroni), since the kind with the highest lower limit is reported.

    Args:
        draws: Columns by, length, num_images, num_blocks and auc, one row per draw; may be empty.

    Returns:
        `max_auc`; `blocks`: a record of each kind with its mean `auc` and `interval`; `strongest`: the record with the
        highest lower limit; and `leaks`. The last two are `None` without draws.
    """
    kinds = ["by", "length", "num_images", "num_blocks"]
    parts = [(dict(zip(kinds, key, strict=True)), rows["auc"].to_numpy(float)) for key, rows in draws.groupby(kinds)]
    parts = [(kind, aucs) for kind, aucs in parts if len(aucs) > 1]
    blocks = [_summarize_draws(kind, aucs, len(parts)) for kind, aucs in parts]
    blocks.sort(key=lambda kind: (kind["by"] != "order", kind["length"]))
    strongest = max(blocks, key=lambda kind: kind["interval"][0], default=None)
    leaks = None if strongest is None else strongest["interval"][0] > MAX_LEAKAGE_AUC
    return {"max_auc": MAX_LEAKAGE_AUC, "blocks": blocks, "strongest": strongest, "leaks": leaks}


def _summarize_draws(kind: dict[str, Any], aucs: NDArray[np.float64], num_kinds: int) -> dict[str, Any]:
    from scipy.special import stdtrit  # noqa: PLC0415 - a tenth of a second to import

    quantile = stdtrit(len(aucs) - 1, 1 - LEAKAGE_ERROR_RATE / num_kinds / 2)
    mean, half_width = float(aucs.mean()), float(quantile * aucs.std(ddof=1) / np.sqrt(len(aucs)))
    counts = {name: int(kind[name]) for name in ("length", "num_images", "num_blocks")}
    interval = [mean - half_width, min(mean + half_width, 1.0)]
    return {"by": str(kind["by"]), **counts, "num_draws": len(aucs), "auc": mean, "interval": interval}
