"""The choice of a candidate: the best, and the simplest within one standard error."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from hip_mri.config import LABELS
from hip_mri.model_comparison.results import compute_results

NAMES = ("large", "small", "poor")


def describe(name: str, num_bytes: int, **others: bool) -> dict[str, Any]:
    return {
        "name": name,
        "num_bytes": num_bytes,
        "is_fine_tuned": False,
        "mirror_averaging": False,
        "has_clahe": True,
        **others,
    }


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    """`small` is nearly as good as `large`; `poor` does not separate the classes."""
    generator = np.random.default_rng(2)
    groups = np.arange(80)
    labels = groups % 2
    noise = generator.normal(size=80)
    tables = []
    for name, effect, own in (("large", 2.0, 0.0), ("small", 1.98, 0.05), ("poor", 0.0, 1.0)):
        for seed in range(2):
            values = 1 / (1 + np.exp(-(effect * labels + noise + own * generator.normal(size=80))))
            columns = {
                "fold": groups // 2 % 5, "image_id": groups.astype(str), "group": groups,
                "label": np.array(LABELS)[labels], "score": values,
            }  # fmt: skip
            tables.append(pd.DataFrame(columns).assign(candidate=name, seed=seed))
    return pd.concat(tables, ignore_index=True)


def test_the_simplest_within_one_standard_error_is_chosen(scores):
    candidates = [describe("large", 100), describe("small", 50), describe("poor", 10)]
    results = compute_results(scores, candidates, seed=0)
    rows = {row["name"]: row for row in results["candidates"]}
    best = max(rows.values(), key=lambda row: row["auc"])
    assert (results["best"], results["simplest"], results["reference"]) == (best["name"], "small", "large")
    assert results["one_standard_error_limit"] == pytest.approx(best["auc"] - best["standard_error"])
    assert [rows[name]["is_within_one_standard_error"] for name in NAMES] == [True, True, False]
    assert results["is_any_difference_shown"]
    assert results["shown_better_than"] == {"large": ["poor"], "small": ["poor"], "poor": []}
    assert rows["large"]["difference_to_reference"] is None
    difference = rows["poor"]["difference_to_reference"]
    assert difference["value"] == pytest.approx(rows["poor"]["auc"] - rows["large"]["auc"])
    assert difference["simultaneous_interval"][1] < 0


@pytest.mark.parametrize("costlier", ["is_fine_tuned", "mirror_averaging", "has_clahe"])
def test_of_equal_size_the_one_with_fewer_steps_is_simpler(scores, costlier):
    plain = {"is_fine_tuned": False, "mirror_averaging": False, "has_clahe": False}
    candidates = [
        describe("large", 100, **plain | {costlier: True}), describe("small", 100, **plain),
        describe("poor", 10),
    ]  # fmt: skip
    assert compute_results(scores, candidates, seed=0)["simplest"] == "small"


def test_few_groups_show_no_difference(scores):
    few = scores[scores["group"] < 18]
    results = compute_results(few, [describe(name, 10) for name in NAMES], seed=0)
    assert not results["is_any_difference_shown"]
    assert all(row["interval"] is None for row in results["candidates"])
    assert results["num_groups"] == 18


def test_a_perfect_best_candidate_still_has_a_standard_error(scores):
    perfect = scores["label"].map({LABELS[0]: 0.1, LABELS[1]: 0.9})
    changed = scores.assign(score=scores["score"].where(scores["candidate"] != "large", perfect))
    results = compute_results(changed, [describe("large", 100), describe("small", 50), describe("poor", 10)], seed=0)
    assert results["best"] == "large"
    assert 0.9 < results["one_standard_error_limit"] < 1
