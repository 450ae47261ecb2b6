import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics import evaluate_predictions, evaluate_scores

SCORES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1)
"""Few values, so that ties are common, among all."""

IMAGES = st.lists(st.tuples(st.integers(0, 1), SCORES), min_size=2, max_size=40).filter(
    lambda images: len({label for label, _ in images}) == 2
)


def count_pairs(labels, scores):
    """Share of pairs of a lesion and a normal image that the scores order rightly; a tie counts half."""
    lesions = [score for label, score in zip(labels, scores, strict=True) if label]
    normal = [score for label, score in zip(labels, scores, strict=True) if not label]
    won = sum((lesion > other) + 0.5 * (lesion == other) for lesion in lesions for other in normal)
    return won / (len(lesions) * len(normal))


def sum_precision_steps(labels, scores):
    """Sum over falling thresholds of precision times the recall gained there."""
    total, found_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        called = [label for label, score in zip(labels, scores, strict=True) if score >= threshold]
        recall = sum(called) / sum(labels)
        total += (recall - found_before) * sum(called) / len(called)
        found_before = recall
    return total


@given(IMAGES)
def test_auc_is_the_share_of_pairs_in_right_order(images):
    labels, scores = zip(*images, strict=True)
    assert evaluate_scores(labels, scores, 0.5)["auc"] == pytest.approx(count_pairs(labels, scores))


@given(IMAGES)
def test_average_precision_sums_precision_over_gains_of_recall(images):
    labels, scores = zip(*images, strict=True)
    expected = sum_precision_steps(labels, scores)
    assert evaluate_scores(labels, scores, 0.5)["average_precision"] == pytest.approx(expected)


@given(IMAGES, SCORES)
def test_metrics_at_the_threshold_follow_from_counts(images, threshold):
    labels, scores = zip(*images, strict=True)
    metrics = evaluate_scores(labels, scores, threshold)
    counts = [[0, 0], [0, 0]]
    for label, score in images:
        counts[label][score >= threshold] += 1
    assert metrics["confusion_matrix"] == counts
    assert metrics["specificity"] == counts[0][0] / sum(counts[0])
    assert metrics["sensitivity"] == counts[1][1] / sum(counts[1])
    assert metrics["accuracy"] == (counts[0][0] + counts[1][1]) / len(images)
    assert metrics["num_images"] == len(images)


def test_json_of_a_split():
    metrics = evaluate_scores(np.array([0, 0, 1, 1]), np.float32([0.2, 0.5, 0.5, 0.9]), 0.5)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == {
        "accuracy": 0.75,
        "auc": 0.875,
        "average_precision": pytest.approx(5 / 6),
        "sensitivity": 1.0,
        "specificity": 0.5,
        "confusion_matrix": [[1, 1], [0, 2]],
        "num_images": 4,
    }


@pytest.mark.parametrize(
    ("labels", "scores", "text"),
    [
        (
            [0, 1, 1],
            [0.1, math.nan, 1.5],
            r"2 of 3 scores are not a number from 0 to 1, at position 1 \(nan\), 2 \(1.5\)",
        ),
        ([0, 1], [0.1], r"one label per score is needed, received \(2,\) labels, \(1,\) scores"),
        ([0, 2], [0.1, 0.2], r"labels must be 0 \(normal\) or 1 \(osseous_lesion\), received \[0, 2\]"),
        (
            [1, 1],
            [0.1, 0.2],
            r"all 2 images are osseous_lesion, but sensitivity, specificity and AUC need both classes",
        ),
        ([], [], r"there is no image, but sensitivity"),
    ],
)
def test_unusable_scores_are_named(labels, scores, text):
    with pytest.raises(EvaluationError, match=text):
        evaluate_scores(labels, scores, 0.5)


def test_every_split_is_measured_by_itself(predictions):
    metrics = evaluate_predictions(predictions, 0.4)
    assert list(metrics) == ["train", "val", "test"]
    test = predictions[predictions["split"] == "test"]
    assert metrics["test"] == evaluate_scores(test["label"] == "osseous_lesion", test["score"], 0.4)
    assert list(evaluate_predictions(test, 0.4)) == ["test"]


def test_order_of_rows_does_not_matter(predictions):
    assert evaluate_predictions(predictions.sample(frac=1, random_state=0), 0.5) == evaluate_predictions(
        predictions, 0.5
    )


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("score", math.nan, r"1 of 210 images have a score that is not a number from 0 to 1: 0{15}3\. Score"),
        ("label", "lesion", r"1 of 210 images have a label other than normal, osseous_lesion: 0{15}3\."),
        ("split", "", r"1 of 210 images have a split other than train, val, test: 0{15}3\."),
        ("image_id", "0" * 16, r"1 of 210 images occur more than once: 0{16}\."),
    ],
)
def test_unusable_rows_are_named(predictions, column, value, text):
    changed = predictions.copy()
    changed.loc[3, column] = value
    with pytest.raises(EvaluationError, match=text):
        evaluate_predictions(changed, 0.5)


def test_unusable_tables_are_refused(predictions):
    with pytest.raises(EvaluationError, match="predictions: column split, score is missing"):
        evaluate_predictions(predictions[["image_id", "label"]], 0.5)
    with pytest.raises(EvaluationError, match="there is no row to evaluate"):
        evaluate_predictions(predictions[:0], 0.5)
    only_normal = predictions[(predictions["split"] != "val") | (predictions["label"] == "normal")]
    with pytest.raises(EvaluationError, match="split val: all 18 images are normal"):
        evaluate_predictions(only_normal, 0.5)
