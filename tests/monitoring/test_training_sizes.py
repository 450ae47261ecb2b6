"""Learning curve over patients, on features whose best possible AUC is known."""

from typing import cast

import numpy as np
import pandas as pd
from scipy.stats import norm

from hip_mri.models.network_inputs import Rows
from hip_mri.monitoring.training_sizes import (
    COLUMNS,
    FRACTIONS,
    NUM_DRAWS,
    NUM_RESAMPLES,
    draw_curves,
    measure_training_sizes,
    reduce_features,
)

NUM_GROUPS = 150


def draw_features(effect: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two images of each group in 40 dimensions; the classes differ in the first by `effect` standard deviations."""
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(NUM_GROUPS), 2)
    labels = (groups % 3 == 0).astype(np.int64)
    features = generator.normal(size=(NUM_GROUPS, 40))[groups] + generator.normal(size=(len(groups), 40))
    features[:, 0] += effect * labels
    return features.astype(np.float32), labels, groups


def test_the_auc_rises_to_that_of_the_classes():
    curve = draw_curves(*draw_features(4.0), seed=0)
    means = curve[curve["kind"] == "draw"].groupby("fraction")["auc"].mean()
    assert list(means.index) == list(FRACTIONS)
    assert means.iloc[-1] > means.iloc[0] + 0.03
    best = norm.cdf(4 / 2)  # the difference of two images has the standard deviation 2
    assert 0.85 < means.iloc[-1] < best + 0.02


def test_labels_by_chance_stay_at_chance():
    curve = draw_curves(*draw_features(0.0), seed=0)
    means = curve[curve["kind"] == "draw"].groupby("fraction")["auc"].mean()
    assert means.between(0.3, 0.7).all()


def test_rows_and_counts():
    curve = draw_curves(*draw_features(1.0), seed=0)
    assert tuple(curve.columns) == COLUMNS
    assert curve.groupby("kind")["number"].nunique().to_dict() == {"draw": NUM_DRAWS, "resample": NUM_RESAMPLES}
    assert curve["auc"].between(0, 1).all()
    counts = curve.groupby("fraction")["num_groups"].unique()
    assert all(len(values) == 1 for values in counts)
    assert counts[1.0][0] == NUM_GROUPS * 4 / 5
    assert counts[0.1][0] == NUM_GROUPS * 4 / 50


def test_resamples_vary_as_much_as_other_patients_do():
    """The standard deviation over resamples of one data set agrees with that over data sets, within a factor of 2."""
    curves = [draw_curves(*draw_features(1.5, seed), seed=0).query("fraction == 1") for seed in range(20)]
    estimates = [curve.loc[curve["kind"] == "draw", "auc"].mean() for curve in curves]
    spreads = [curve.loc[curve["kind"] == "resample", "auc"].std() for curve in curves]
    assert 0.5 < np.mean(spreads) / np.std(estimates) < 2


def test_components_keep_distances_of_few_images():
    rows = np.random.default_rng(0).normal(size=(30, 100)).astype(np.float32)
    reduced = reduce_features(cast("Rows", rows), seed=0)
    standardized = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    distances = [np.linalg.norm(points[:, None] - points, axis=-1) for points in (standardized, reduced)]
    np.testing.assert_allclose(*distances, rtol=1e-3, atol=1e-3)


def test_constant_features_have_the_auc_of_chance():
    _, labels, groups = draw_features(0)
    curve = draw_curves(np.zeros((len(labels), 3), np.float32), labels, groups, seed=0)
    np.testing.assert_allclose(curve["auc"], 0.5)


def test_the_curve_of_a_workspace_is_measured_once(trained_workspace):
    workspace, features = trained_workspace
    file = measure_training_sizes(workspace, features, seed=1)
    assert tuple(pd.read_csv(file).columns) == COLUMNS
    written_at = file.stat().st_mtime_ns
    assert measure_training_sizes(workspace, features, seed=1).stat().st_mtime_ns == written_at
