"""The leakage test: sound groups are at chance, groups that separate images of a patient are reported."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from hip_mri.config import LABELS, EvaluationSettings
from hip_mri.dataset.manifest import read_manifest
from hip_mri.evaluation.metrics.results import summarize_leakage
from hip_mri.monitoring import leakage
from hip_mri.monitoring.leakage import (
    BLOCK_LENGTHS,
    NUM_DRAWS,
    PENALTY,
    _cross_validate,
    measure_leakage,
    predict_random_labels,
)
from hip_mri.monitoring.leakage_blocks import find_isolated_pairs, normalize, number_blocks

NUM_PATIENTS, NUM_SLICES = 48, 5


@pytest.fixture(scope="module")
def slices() -> tuple[np.ndarray, pd.DataFrame]:
    """Features of 48 patients with five slices each, in order, that identify the patient; true groups."""
    generator = np.random.default_rng(3)
    patients = np.repeat(np.arange(NUM_PATIENTS), NUM_SLICES)
    features = generator.normal(size=(NUM_PATIENTS, 64))[patients] + 0.6 * generator.normal(size=(len(patients), 64))
    labels = np.array(LABELS)[generator.permutation(np.arange(NUM_PATIENTS) % 3 == 0).astype(int)[patients]]
    groups = [f"{patient:03}" for patient in patients]
    order = {"sequence": "hip", "place": np.arange(len(patients))}
    return features.astype(np.float32), pd.DataFrame({"label": labels, "group": groups, **order})


def separate(images: pd.DataFrame) -> pd.DataFrame:
    """Make each image a group of its own."""
    return images.assign(group=[f"{number:03}" for number in range(len(images))])


def forget_order(images: pd.DataFrame) -> pd.DataFrame:
    return images.assign(sequence="", place=0)


def test_groups_that_separate_a_patient_leak_and_true_ones_do_not(slices) -> None:
    features, images = slices
    leaking = summarize_leakage(predict_random_labels(features, separate(images), 5, 3))
    assert [(kind["by"], kind["length"]) for kind in leaking["blocks"]] == [
        *(("order", length) for length in BLOCK_LENGTHS),
        ("features", 2),
    ]
    assert leaking["leaks"]
    assert leaking["strongest"]["interval"][0] > 0.7
    sound = summarize_leakage(predict_random_labels(features, images, 5, 3))
    assert not sound["leaks"]
    assert all(0.4 < kind["auc"] < 0.55 for kind in sound["blocks"])


def test_without_order_pairs_of_similar_images_show_a_leak(slices) -> None:
    features, images = slices
    shuffled = np.random.default_rng(0).permutation(len(images))
    features, images = features[shuffled], forget_order(images.iloc[shuffled])
    leaking = summarize_leakage(predict_random_labels(features, separate(images), 5, 3))
    assert leaking["leaks"]
    assert leaking["strongest"]["by"] == "features"
    assert not summarize_leakage(predict_random_labels(features, images, 5, 3))["leaks"]


def test_one_image_per_patient_is_no_leak(slices) -> None:
    features, images = slices
    found = summarize_leakage(predict_random_labels(features[::NUM_SLICES], images[::NUM_SLICES], 5, 3))
    assert not found["leaks"]


def test_a_sample_of_many_images_still_shows_the_leak(slices, monkeypatch) -> None:
    monkeypatch.setattr(leakage, "MAX_NUM_IMAGES", 200)
    monkeypatch.setattr(leakage, "MAX_DIVIDED_IMAGES", 100)
    features, images = slices
    for table in (separate(images), forget_order(separate(images))):
        found = summarize_leakage(predict_random_labels(features, table, 5, 3))
        assert found["leaks"]
        assert found["strongest"]["num_images"] <= 200


def test_too_few_images_give_no_figure(slices) -> None:
    features, images = slices
    found = summarize_leakage(predict_random_labels(features[:12], images[:12], 5, 3))
    assert found == {"max_auc": 0.55, "blocks": [], "strongest": None, "leaks": None}


def test_blocks_are_consecutive_within_a_sequence() -> None:
    order = pd.DataFrame({"sequence": [*"aaaaa", *"bbb"], "place": [0, 1, 2, 3, 5, 0, 1, 2]})
    assert list(number_blocks(order, 2, 0)) == [0, 0, 1, 1, 2, 3, 3, 4]
    assert list(number_blocks(order, 2, 1)) == [0, 1, 1, 2, 3, 4, 5, 5]


def test_isolated_pairs_are_mutual_and_close() -> None:
    generator = np.random.default_rng(1)
    points = generator.normal(size=(40, 64))
    points[1] = points[0] + 0.01
    points = normalize(points, points.mean(axis=0))
    assert list(find_isolated_pairs(points @ points.T)) == [0, *range(39)]


def test_aucs_are_those_of_ridge_regression() -> None:
    generator = np.random.default_rng(2)
    points = normalize(generator.normal(size=(60, 20)), np.zeros(20))
    labels, fold = generator.choice((-1.0, 1.0), (60, 4)), np.arange(60) % 3
    labels[:, 0] = np.sign(points[:, 0])
    found = _cross_validate(points @ points.T, labels, fold[None])
    for draw, auc in enumerate(found):
        aucs, weights = [], []
        for held_out in range(3):
            fit_on, scored = fold != held_out, fold == held_out
            ridge = Ridge(PENALTY, fit_intercept=False).fit(points[fit_on], labels[fit_on, draw])
            aucs.append(roc_auc_score(labels[scored, draw], ridge.predict(points[scored])))
            positive = (labels[scored, draw] > 0).sum()
            weights.append(positive * (scored.sum() - positive))
        assert auc == pytest.approx(np.average(aucs, weights=weights))


def test_intervals_hold_for_all_kinds_together() -> None:
    generator = np.random.default_rng(4)
    draws = {"by": "order", "num_images": 90, "num_blocks": 20}
    kinds = [pd.DataFrame({**draws, "length": length, "auc": generator.normal(0.6, 0.05, 50)}) for length in (2, 4)]
    alone, both = summarize_leakage(kinds[0]), summarize_leakage(pd.concat(kinds))
    assert alone["leaks"]
    assert both["blocks"][0]["interval"][0] < alone["blocks"][0]["interval"][0]
    assert both["strongest"] == max(both["blocks"], key=lambda kind: kind["interval"][0])
    assert not summarize_leakage(kinds[0].assign(auc=kinds[0]["auc"] - 0.1))["leaks"]


def test_training_images_are_tested_once_with_their_order(trained_workspace, monkeypatch) -> None:
    workspace, features = trained_workspace
    train = read_manifest(workspace.manifest_file).query("split == 'train'").sort_values("image_id")
    order = pd.DataFrame({"sha256": train["sha256"], "sequence": "hip", "place": range(len(train))})
    earlier = workspace.order_file.read_bytes()
    order.to_parquet(workspace.order_file)
    try:
        file = measure_leakage(workspace, features, EvaluationSettings())
        assert len(pd.read_csv(file)) % NUM_DRAWS == 0
        assert set(pd.read_csv(file)["num_images"]) == {len(train)}
        monkeypatch.setattr(leakage, "predict_random_labels", None)
        assert measure_leakage(workspace, features, EvaluationSettings()) == file
    finally:
        workspace.order_file.write_bytes(earlier)
