"""Every metric of a run, from its tables."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hip_mri.config import EvaluationSettings, PipelineConfig
from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.results import evaluate, summarize_folds
from hip_mri.evaluation.metrics.thresholds import choose_threshold
from hip_mri.evaluation.verify import _compare_weights, compare

SETTINGS = EvaluationSettings(num_resamples=200)


def test_figures_do_not_depend_on_the_order_of_rows(scores, metrics):
    shuffled = replace(
        scores,
        predictions=scores.predictions.sample(frac=1, random_state=0),
        folds=scores.folds.sample(frac=1, random_state=1),
        leakage=scores.leakage.sample(frac=1, random_state=2),
    )
    found = evaluate(shuffled, SETTINGS, seed=7)
    for split in ("train", "val"):
        assert compare(metrics[split], found[split]) == []
    assert found["test"]["auc"] == pytest.approx(metrics["test"]["auc"])
    assert found["test"]["intervals"]["auc"] == pytest.approx(metrics["test"]["intervals"]["auc"])
    assert compare(metrics["leakage"], found["leakage"]) == []


def test_figures_are_strict_json(metrics):
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_the_threshold_comes_from_validation_images_alone(scores):
    """Whatever the test images score, the threshold stays; with other validation scores it moves."""
    predictions = scores.predictions
    first = evaluate(scores, SETTINGS, 7)
    val = predictions[predictions["split"] == "val"]
    assert first["threshold"] == choose_threshold(val["label"] == "osseous_lesion", val["score"], "youden")
    turned = predictions.assign(score=predictions["score"].where(predictions["split"] != "test", 0.5))
    assert evaluate(replace(scores, predictions=turned), SETTINGS, 7)["threshold"] == first["threshold"]
    half = predictions["score"].where(predictions["split"] != "val", predictions["score"] / 2)
    moved = evaluate(replace(scores, predictions=predictions.assign(score=half)), SETTINGS, 7)
    assert moved["threshold"] != first["threshold"]


def test_a_required_sensitivity_is_reached_on_validation_images(scores):
    settings = EvaluationSettings(num_resamples=200, threshold_rule="sensitivity", required_sensitivity=0.95)
    assert evaluate(scores, settings, 7)["val"]["at_threshold"]["sensitivity"] >= 0.95


def test_patients_are_measured_only_where_all_are_known(scores, metrics):
    assert metrics["patients"]["num_images"] == scores.predictions.query("split == 'test'")["patient"].nunique()
    unknown = scores.predictions.copy()
    unknown.loc[unknown.index[unknown["split"] == "test"][0], "patient"] = ""
    assert evaluate(replace(scores, predictions=unknown), SETTINGS, 7)["patients"] is None


def test_recalibration_is_fitted_on_validation_images(scores):
    settings = EvaluationSettings(num_resamples=200, recalibrate=True)
    before = evaluate(scores, settings, 7)["recalibration"]
    relabeled = scores.predictions.copy()
    is_test = relabeled["split"] == "test"
    relabeled.loc[is_test, "label"] = relabeled.loc[is_test, "label"].to_numpy()[::-1]
    after = evaluate(replace(scores, predictions=relabeled), settings, 7)["recalibration"]
    assert (before["slope"], before["intercept"]) == (after["slope"], after["intercept"])
    assert before["test"] != after["test"]


def test_the_worst_errors_are_wrong_calls_in_order(scores, metrics):
    test = scores.predictions.query("split == 'test'").set_index("image_id")
    is_wrong = (test["score"] >= metrics["threshold"]) != (test["label"] == "osseous_lesion")
    loss = (test["score"] - (test["label"] == "osseous_lesion")).abs()[is_wrong]
    found = metrics["worst_errors"]
    assert [error["image_id"] for error in found] == loss.sort_values(ascending=False).index[:10].tolist()
    neighbors = scores.neighbors.set_index("image_id")["neighbour_id"]
    labels = scores.predictions.set_index("image_id")["label"]
    for error in found:
        assert error["neighbour_id"] == neighbors[error["image_id"]]
        assert error["neighbour_label"] == labels[error["neighbour_id"]]


def test_subgroups_of_the_users_table(scores, metrics):
    assert metrics["subgroups"] == []
    image_ids = scores.predictions["image_id"]
    number = np.arange(len(image_ids))
    attributes = pd.DataFrame(
        {
            "image_id": image_ids,
            "attribute: label": np.where(number % 4 < 2, "f", "m"),
            "attribute: name": [f"Smith {place // 2}" for place in number],
            "attribute: scanner": np.where(number % 4 < 2, "", np.where(number % 60 == 3, "rare", "common")),
        }
    )
    settings = SETTINGS.model_copy(update={"min_subgroup_size": 5})
    found = evaluate(replace(scores, attributes=attributes), settings, 7)
    rows = found["subgroups"]
    assert found["uniform_attributes"] == ["name"]
    named = [(row["column"], row["value"]) for row in rows]
    assert named[:2] == [("label", "f"), ("label", "m")]
    assert {column for column, _ in named} == {"label", "scanner"}, "a column that identifies each patient is left out"
    assert {value for column, value in named if column == "scanner"} <= {"common", "missing", "others"}
    assert sum(row["num_images"] for row in rows[:2]) == metrics["test"]["num_images"]


def test_recalibration_that_cannot_be_fitted_is_recorded(scores):
    turned = scores.predictions.assign(score=1 - scores.predictions["score"])
    settings = EvaluationSettings(num_resamples=200, recalibrate=True)
    found = evaluate(replace(scores, predictions=turned), settings, 7)["recalibration"]
    assert found["test"] is None
    assert found["reason"]


def test_a_split_without_images_is_rejected(scores):
    with pytest.raises(EvaluationError, match="split val"):
        evaluate(replace(scores, predictions=scores.predictions.query("split != 'val'")), SETTINGS, 7)


def test_inflation_is_the_gap_of_the_means():
    folds = pd.DataFrame(
        {
            "scheme": ["grouped"] * 8 + ["by_image"] * 4,
            "seed": [0] * 4 + [1] * 4 + [0] * 4,
            "fold": 0,
            "label": ["normal", "normal", "osseous_lesion", "osseous_lesion"] * 3,
            "score": [0.1, 0.9, 0.2, 0.8, 0.1, 0.2, 0.8, 0.9, 0.1, 0.2, 0.8, 0.9],
        }
    )
    found = summarize_folds(folds)
    assert found["grouped"]["aucs"] == [0.5, 1.0]
    assert found["by_image"] == {"aucs": [1.0], "mean": 1.0, "standard_deviation": None}
    assert found["inflation"] == 0.25
    one_class = summarize_folds(folds.assign(label="normal"))
    assert one_class["inflation"] is None


def test_runs_of_earlier_versions_have_no_leakage_test(scores, metrics):
    assert compare(metrics, evaluate(replace(scores, leakage=None), SETTINGS, seed=7)) == []


def test_missing_weights_files_are_not_compared(tmp_path):
    def find_differences(weights: str) -> list[str]:
        config = PipelineConfig.model_validate({"model": {"weights": weights}})
        return list(_compare_weights(config, {"weights": "recorded"}))

    (tmp_path / "weights.h5").write_bytes(b"others")
    assert find_differences("~no-such-user/weights.h5") == []
    assert find_differences(str(tmp_path / "gone.h5")) == []
    assert find_differences(str(tmp_path / "weights.h5")) == ["model.weights: the file has changed since the run"]
