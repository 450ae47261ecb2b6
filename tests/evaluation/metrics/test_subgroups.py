import numpy as np
import pandas as pd
import pytest

from hip_mri.config import LABELS
from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.split_metrics import measure_split
from hip_mri.evaluation.metrics.subgroups import measure_subgroups
from tests.evaluation.metrics.studies import draw_study


@pytest.fixture(scope="module")
def table():
    labels, scores, patients = draw_study(np.random.default_rng(0), 120)
    scanner = np.where(patients < 60, "A", np.where(patients < 118, "B", "C")).astype(object)
    scanner[patients == 119] = None
    return pd.DataFrame(
        {
            "image_id": [f"{number:016x}" for number in range(len(labels))],
            "split": "test",
            "label": np.array(LABELS)[labels],
            "score": scores,
            "group": [f"p{patient}" for patient in patients],
            "scanner": scanner,
            "decade": patients % 2 * 10,
        }
    )


def test_a_row_per_value_with_the_figures_of_its_images(table):
    rows = measure_subgroups(table, ["scanner", "decade"], 0.4, num_resamples=200)
    assert [row["column"] for row in rows] == ["scanner"] * 4 + ["decade"] * 2
    assert [row["value"] for row in rows] == ["A", "B", "C", "missing", "0", "10"]
    own = table[table["scanner"] == "A"]
    labels = (own["label"] == LABELS[1]).astype(int)
    expected = measure_split(labels, own["score"], own["group"], 0.4, num_resamples=200)
    assert (rows[0]["num_images"], rows[0]["num_lesions"], rows[0]["num_groups"]) == (len(own), labels.sum(), 60)
    assert (rows[0]["auc"], rows[0]["intervals"]["auc"]) == (expected["auc"], expected["intervals"]["auc"])
    at_threshold = expected["intervals"]["at_threshold"]
    assert rows[0]["sensitivity"] == expected["at_threshold"]["sensitivity"]
    assert rows[0]["intervals"]["specificity"] == at_threshold["specificity"]


def test_small_subgroups_are_counted_and_not_measured(table):
    rows = measure_subgroups(table, ["scanner"], 0.4, num_resamples=50)
    assert sum(row["num_images"] for row in rows) == len(table)
    for row in rows[2:]:
        assert (row["auc"], row["sensitivity"], row["specificity"]) == (None, None, None)
        assert row["intervals"] == {"auc": None, "sensitivity": None, "specificity": None}
        assert row["num_groups"] == 1


def test_the_minimum_counts_groups_of_the_rarer_class(table):
    with_lesion = table.loc[(table["scanner"] == "A") & (table["label"] == LABELS[1]), "group"].nunique()
    for min_size, measured in ((with_lesion, True), (with_lesion + 1, False)):
        row = measure_subgroups(table, ["scanner"], 0.4, min_size, num_resamples=50)[0]
        assert (row["auc"] is not None) == measured


def test_unknown_columns_are_named(table):
    with pytest.raises(EvaluationError, match=r"age, sex, .*image_id, split"):
        measure_subgroups(table, ["age", "scanner", "sex"], 0.4)
