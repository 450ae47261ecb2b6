import numpy as np
import pytest

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.validation import check_sample


def test_groups_are_numbered_in_the_order_of_their_names():
    sample = check_sample([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], ["b", "a", "b", "c"])
    assert sample.groups.tolist() == [1, 0, 1, 2]
    assert sample.num_groups == 3
    assert check_sample([0, 1], [0.1, 0.2], [90, 7]).groups.tolist() == [1, 0]


def test_without_groups_every_image_is_one():
    sample = check_sample([0, 1, 1], np.array([0.1, 0.2, 0.2], np.float32))
    assert sample.groups.tolist() == [0, 1, 2]
    assert sample.scores.dtype == np.float64


@pytest.mark.parametrize(
    ("labels", "scores", "groups", "text"),
    [
        ([0, 1], [0.5], None, r"one label per score is needed, received \(2,\) labels, \(1,\) scores"),
        ([0, 1, 1], [0.5, np.nan, 1.5], None, r"2 of 3 scores are not a number from 0 to 1, at position 1 \(nan\), 2"),
        ([0, 2], [0.5, 0.5], None, r"labels must be 0 \(normal\) or 1 \(osseous_lesion\), received \[0, 2\]"),
        ([1, 1], [0.5, 0.5], None, "all 2 images are osseous_lesion, but the measures compare two classes"),
        ([], [], None, "there is no image, but the measures compare two classes"),
        ([0, 1], [0.5, 0.5], ["a"], r"one group per image is needed, received \(1,\) groups, 2 images"),
        ([0, 1], [0.5, 0.5], np.array(["a", None], object), "1 of 2 images have no group, at position 1"),
        ([0, 1], [0.5, 0.5], [np.nan, 1.0], "1 of 2 images have no group, at position 0"),
    ],
)
def test_what_cannot_be_measured_is_named(labels, scores, groups, text):
    with pytest.raises(EvaluationError, match=text):
        check_sample(labels, scores, groups)
