import math

import pytest

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.validation import check_predictions, split_predictions


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        pytest.param(
            *("score", math.nan, r"1 of 210 images have a score that is not a number from 0 to 1: 0{15}3\. Score"),
            id="fault-68",
        ),
        ("label", "lesion", r"1 of 210 images have a label other than normal, osseous_lesion: 0{15}3\."),
        ("split", "", r"1 of 210 images have a split other than train, val, test: 0{15}3\."),
        ("image_id", "0" * 16, r"1 of 210 images occur more than once: 0{16}\."),
    ],
)
def test_unusable_rows_are_named(predictions, column, value, text):
    changed = predictions.copy()
    changed.loc[3, column] = value
    with pytest.raises(EvaluationError, match=text):
        check_predictions(changed)


def test_unusable_tables_are_refused(predictions):
    with pytest.raises(EvaluationError, match="predictions: column split, score is missing"):
        check_predictions(predictions[["image_id", "label"]])
    with pytest.raises(EvaluationError, match="there is no row to evaluate"):
        check_predictions(predictions[:0])


def test_splits_come_in_their_order(predictions):
    assert list(split_predictions(predictions.iloc[::-1])) == ["train", "val", "test"]
    assert list(split_predictions(predictions[predictions["split"] == "test"])) == ["test"]
