import math

import numpy as np
import pytest

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.validation import check_predictions, validate_scores


def test_groups_are_numbered_in_the_order_of_their_names():
    validated = validate_scores([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], ["b", "a", "b", "c"])
    assert validated.groups.tolist() == [1, 0, 1, 2]
    assert validated.num_groups == 3
    assert (validated.count_groups(0), validated.count_groups(1), validated.num_rarer_groups) == (1, 2, 1)
    assert validate_scores([0, 1], [0.1, 0.2], [90, 7]).groups.tolist() == [1, 0]


def test_without_groups_every_image_is_one():
    validated = validate_scores([0, 1, 1], np.array([0.1, 0.2, 0.2], np.float32))
    assert validated.groups.tolist() == [0, 1, 2]
    assert validated.scores.dtype == np.float64


@pytest.mark.parametrize(
    ("labels", "scores", "groups", "text"),
    [
        ([0, 1], [0.5], None, r"received \(2,\) labels and \(1,\) scores"),
        ([0, 1, 1], [0.5, np.nan, 1.5], None, r"2 of 3 scores .* at position 1 \(nan\), 2"),
        ([0, 2], [0.5, 0.5], None, r"0 \(normal\) or 1 \(osseous_lesion\), received \[0, 2\]"),
        ([1, 1], [0.5, 0.5], None, "2 images are osseous_lesion"),
        ([], [], None, "no image"),
        ([0, 1], [0.5, 0.5], ["a"], r"received \(1,\) groups for 2 images"),
        ([0, 1], [0.5, 0.5], np.array(["a", None], object), "1 of 2 .*position 1"),
        ([0, 1], [0.5, 0.5], [np.nan, 1.0], "1 of 2 .*position 0"),
    ],
)
def test_invalid_arrays_are_rejected(labels, scores, groups, text):
    with pytest.raises(EvaluationError, match=text):
        validate_scores(labels, scores, groups)


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        pytest.param("score", math.nan, r"1 of 210 .* score .*: 0{15}3\.", id="fault-68"),
        ("label", "lesion", r"1 of 210 .* label .* normal, osseous_lesion: 0{15}3\."),
        ("split", "", r"1 of 210 .* split .* train, val, test: 0{15}3\."),
        ("image_id", "0" * 16, r"1 of 210 .*once: 0{16}\."),
    ],
)
def test_invalid_rows_are_listed(predictions, column, value, text):
    changed = predictions.copy()
    changed.loc[3, column] = value
    with pytest.raises(EvaluationError, match=text):
        check_predictions(changed)


def test_invalid_tables_are_rejected(predictions):
    with pytest.raises(EvaluationError, match="column split, score is missing"):
        check_predictions(predictions[["image_id", "label"]])
    with pytest.raises(EvaluationError, match="no row"):
        check_predictions(predictions[:0])
