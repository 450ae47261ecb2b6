"""Summaries of the shortcut test and of the learning curve over patients."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from hip_mri.evaluation.audits.shortcuts import is_explained, summarize_shortcuts
from hip_mri.evaluation.audits.training_sizes import find_test_lesions, fit_power_law, summarize_training_sizes
from hip_mri.images.shortcut_statistics import NUMBERS

FRACTIONS = (0.1, 0.2, 0.4, 0.7, 1.0)
SIZES = np.array([16, 32, 64, 112, 160])


def make_shortcuts(num_images: int = 60) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The margin separates the classes, size and file do not."""
    is_lesion = np.arange(num_images) % 2 == 1
    ids = [f"{number:016x}" for number in range(num_images)]
    predictions = pd.DataFrame(
        {"image_id": ids, "group": ids, "label": np.where(is_lesion, "osseous_lesion", "normal")}
    )
    table = pd.DataFrame({"image_id": ids, "file_kind": "png", **dict.fromkeys(NUMBERS, 1.0)})
    table["margin_mean"] = np.where(is_lesion, 70.0, 50.0) + np.arange(num_images) / 10
    for combination, scores in (
        ("margin", is_lesion * 0.8),
        ("without_anatomy", is_lesion * 0.9),
        ("size_and_file", 0.5),
    ):
        table[f"score_{combination}"] = scores
    return table, predictions


def test_shortcuts_are_summarized_by_combination_and_number():
    summary = summarize_shortcuts(*make_shortcuts(), (0.8, 1.0), 0, 200)
    assert summary is not None
    assert summary["combinations"]["margin"]["auc"] == 1
    assert summary["combinations"]["size_and_file"]["auc"] == 0.5
    assert summary["numbers"][0]["name"] == "margin_mean"
    assert summary["numbers"][0]["auc"] == 1
    assert summary["is_explained"] is True


def test_images_of_one_class_cannot_be_compared():
    table, predictions = make_shortcuts()
    assert summarize_shortcuts(table, predictions.assign(label="normal"), (0.8, 1.0), 0, 200) is None


@pytest.mark.parametrize(
    ("auc", "interval", "network", "expected"),
    [
        (0.86, (0.78, 0.92), (0.82, 0.95), True),
        (0.99, (0.97, 1.0), (0.82, 0.95), True),  # above the network
        (0.80, (0.70, 0.88), (0.82, 0.95), False),  # the network does better
        (0.60, (0.48, 0.71), (0.45, 0.70), False),  # neither is shown to differ from chance
        (0.86, None, (0.82, 0.95), None),
        (0.86, (0.78, 0.92), None, None),
    ],
)
def test_the_network_is_explained_where_it_is_not_better_and_numbers_beat_chance(auc, interval, network, expected):
    assert is_explained({"auc": auc, "interval": interval}, network) is expected


def make_sizes(aucs: np.ndarray, noise: float) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    tables = []
    for kind, count, spread in (("draw", 10, 0.0), ("resample", 200, noise)):
        for number in range(count):
            shift = generator.normal(0, spread, len(SIZES))
            row = {"kind": kind, "number": number, "fraction": FRACTIONS, "num_groups": SIZES, "num_images": 2 * SIZES}
            tables.append(pd.DataFrame({**row, "auc": aucs + shift}))
    return pd.concat(tables, ignore_index=True)


def test_a_rising_curve_is_extrapolated_to_twice_the_groups():
    curve = 0.95 - 0.9 * SIZES**-0.5
    summary = summarize_training_sizes(make_sizes(curve, 0.001), 200)
    assert summary is not None
    assert [point["auc"] for point in summary["points"]] == pytest.approx(list(curve))
    twice = summary["twice"]
    assert twice["num_groups"] == 400
    assert twice["gain"] == pytest.approx(0.9 * (200**-0.5 - 400**-0.5), abs=0.005)
    assert twice["interval"][0] < twice["gain"] < twice["interval"][1]


def test_what_the_curve_does_not_show_is_not_extrapolated():
    flat = summarize_training_sizes(make_sizes(np.full(len(SIZES), 0.8), 0.02), 200)
    sampled = summarize_training_sizes(make_sizes(0.95 - 0.9 * SIZES**-0.5, 0.001), 20_000)
    assert flat is not None
    assert sampled is not None
    assert (flat["twice"], flat["reason"]) == (None, "flat")
    assert (sampled["twice"], sampled["reason"]) == (None, "too_far")
    assert summarize_training_sizes(make_sizes(SIZES, 0).head(0), 200) is None


@given(st.floats(0.6, 1.0), st.floats(0.1, 1.0), st.floats(0.15, 1.5))
def test_power_laws_are_recovered(height, scale, exponent):
    sizes, targets = SIZES.astype(float), np.array([200.0, 400.0])
    found = fit_power_law(sizes, (height - scale * sizes**-exponent)[None], np.ones(len(sizes)), targets)[0]
    np.testing.assert_allclose(found, height - scale * targets**-exponent, atol=0.01)


def test_fitted_curves_never_fall_and_never_exceed_one():
    curves = np.array([[0.9, 0.85, 0.8, 0.75, 0.7], [0.5, 0.7, 0.85, 0.95, 1.0]])
    found = fit_power_law(SIZES.astype(float), curves, np.ones(len(SIZES)), np.array([200.0, 1e9]))
    assert (np.diff(found, axis=1) >= 0).all()
    assert (found <= 1).all()


@pytest.mark.parametrize("num_rarer", [2, 5, 15, 100, 5000])
def test_half_the_interval_needs_just_under_four_times_the_lesions(num_rarer):
    test = {"num_lesions": num_rarer, "num_groups": 3 * num_rarer, "intervals": {"auc": [0.7, 0.9]}}
    needed = find_test_lesions(test, num_rarer)
    assert needed is not None
    found = needed["num_lesions"]
    assert found <= 4 * num_rarer

    def measure_width(count: int) -> float:
        return student.ppf(0.975, count - 1) / np.sqrt(count)

    assert measure_width(found) <= measure_width(num_rarer) / 2 * (1 + 1e-9)
    assert find_test_lesions({**test, "intervals": {"auc": None}}, num_rarer) is None
