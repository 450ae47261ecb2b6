"""Out-of-distribution detection: distances compared with plain linear algebra, limits, and stored detectors."""

import hashlib

import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hip_mri.config import FineTuneSettings, HeadDesign, TrainingSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.preprocessing import read_images
from hip_mri.errors import WorkspaceError
from hip_mri.models.network import train_model
from hip_mri.monitoring.novelty import (
    Novelty,
    find_directions,
    find_limit,
    fit_novelty,
    load_novelty,
    measure_distances,
)


@pytest.fixture(scope="module")
def fitted(trained_workspace):
    workspace, features = trained_workspace
    trained = train_model(workspace, features, HeadDesign("dense", 8), TrainingSettings(epochs=2), seed=1)
    return workspace, features, trained, fit_novelty(workspace, features, trained, 0.2)


def test_distances_of_the_images_of_each_split(fitted):
    workspace, features, trained, novelty_file = fitted
    file = measure_distances(workspace, features, trained, novelty_file)
    table = pd.read_csv(file).set_index("image_id")
    images = select_ready(read_manifest(workspace.manifest_file)).set_index("image_id")
    assert sorted(table.index) == sorted(images.index)
    novelty = load_novelty(novelty_file)
    rows = features.open_store(workspace).select(images.loc[table.index, "sha256"], mirrored=False)
    np.testing.assert_allclose(table["distance"], novelty.measure(rows[np.arange(len(rows))]), atol=2e-7)
    assert (table["is_outside"] == (table["distance"] > novelty.limit)).all()
    outside = table["is_outside"].groupby(images["split"]).mean()
    assert outside["train"] == 0
    assert outside["val"] <= 0.2
    written = file.stat().st_mtime_ns
    assert measure_distances(workspace, features, trained, novelty_file) == file
    assert file.stat().st_mtime_ns == written


def make_rows(seed: int, count: int, num_features: int = 40, rank: int = 5) -> np.ndarray:
    """Rows near a plane of few dimensions that does not pass through the origin."""
    plane = np.random.default_rng(0).normal(size=(rank, num_features))
    generator = np.random.default_rng(seed)
    rows = 3 + generator.normal(size=(count, rank)) @ plane + generator.normal(0, 0.1, (count, num_features))
    return rows.astype(np.float32)


def make_novelty(rows: np.ndarray, num_directions: int = 5) -> Novelty:
    mean, directions = find_directions(rows, num_directions)
    return Novelty(mean, directions, limit=1.0, outside_fraction=0.01, num_training=len(rows), num_validation=9)


def test_distance_is_the_residual_of_a_principal_component_analysis():
    training, new = make_rows(1, 200), make_rows(2, 30)
    unit_training, unit_new = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (training, new))
    mean = unit_training.mean(axis=0)
    directions = np.linalg.svd(unit_training - mean, full_matrices=False)[2][:5]
    residual = (unit_new - mean) - (unit_new - mean) @ directions.T @ directions
    np.testing.assert_allclose(make_novelty(training).measure(new), np.linalg.norm(residual, axis=1), atol=1e-5)


def test_constant_features_have_no_distance():
    rows = np.ones((9, 40), np.float32)
    np.testing.assert_allclose(make_novelty(rows).measure(rows), 0, atol=1e-6)


def test_other_rows_are_farther_than_ordinary_ones():
    measure = make_novelty(make_rows(1, 200)).measure
    others = np.random.default_rng(3).normal(3, 1, (50, 40)).astype(np.float32)
    assert measure(others).min() > measure(make_rows(2, 50)).max()


def test_brightness_of_features_does_not_matter_and_nothing_is_far_from_itself():
    rows = make_rows(1, 60)
    measure = make_novelty(rows).measure
    np.testing.assert_allclose(measure(rows), measure(7 * rows), atol=1e-5)
    alone = make_novelty(rows[:2], num_directions=64)
    assert alone.directions.shape == (1, 40)
    np.testing.assert_allclose(alone.measure(rows[:2]), 0, atol=1e-5)
    assert make_novelty(rows).measure(np.zeros((1, 40), np.float32)) <= 1


@given(st.lists(st.floats(0, 2), min_size=1, max_size=300), st.sampled_from([0.01, 0.05, 0.2]))
def test_at_most_the_stated_fraction_of_validation_images_is_outside(distances, fraction):
    limit = find_limit(np.array(distances), fraction)
    assert limit in distances
    assert np.mean(np.array(distances) > limit) <= fraction


def test_new_ordinary_images_are_outside_as_often_as_stated():
    generator = np.random.default_rng(5)
    fractions = [np.mean(generator.normal(size=400) > find_limit(generator.normal(size=99), 0.05)) for _ in range(400)]
    assert np.mean(fractions) == pytest.approx(0.05, abs=0.005)


def test_few_validation_images_cannot_resolve_a_small_fraction():
    assert find_limit(np.arange(10.0), 0.01) == 9
    assert Novelty(np.zeros(1), np.zeros((1, 1)), 1, 0.01, 50, 9).expected_fraction == pytest.approx(0.1)
    assert Novelty(np.zeros(1), np.zeros((1, 1)), 1, 0.01, 50, 1000).expected_fraction == 0.01


def test_saved_and_loaded_it_measures_the_same(tmp_path):
    rows = make_rows(1, 50)
    made = make_novelty(rows)
    made.save(tmp_path / "novelty.npz")
    loaded = load_novelty(tmp_path / "novelty.npz")
    np.testing.assert_array_equal(loaded.measure(rows), made.measure(rows))
    assert (loaded.limit, loaded.num_training, loaded.num_validation) == (1.0, 50, 9)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"hello"])
def test_a_damaged_file_is_rejected(tmp_path, content):
    (tmp_path / "novelty.npz").write_bytes(content)
    with pytest.raises(WorkspaceError, match=r"novelty\.npz"):
        load_novelty(tmp_path / "novelty.npz")


def test_nothing_in_a_file_is_executed(tmp_path):
    np.savez(tmp_path / "novelty.npz", mean=np.array([print], dtype=object), num_images=[1, 1])
    with pytest.raises(WorkspaceError, match=r"novelty\.npz"):
        load_novelty(tmp_path / "novelty.npz")


def test_directions_come_from_training_images_and_the_limit_from_validation_images(fitted):
    workspace, features, _, file = fitted
    images = select_ready(read_manifest(workspace.manifest_file))
    loaded = load_novelty(file)
    counts = images["split"].value_counts()
    assert (loaded.num_training, loaded.num_validation) == (counts["train"], counts["val"])
    validation = images.loc[images["split"] == "val", "sha256"]
    rows = features.open_store(workspace).select(validation, mirrored=False)[np.arange(len(validation))]
    assert loaded.limit == find_limit(loaded.measure(rows), 0.2)


def test_it_is_done_once_and_the_same_each_time(fitted):
    workspace, features, trained, file = fitted
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    written = file.stat().st_mtime_ns
    assert fit_novelty(workspace, features, trained, 0.2).stat().st_mtime_ns == written
    file.unlink()
    assert hashlib.sha256(fit_novelty(workspace, features, trained, 0.2).read_bytes()).hexdigest() == before
    assert fit_novelty(workspace, features, trained, 0.3) != file


def test_a_fine_tuned_network_is_measured_by_its_own_features(fitted):
    workspace, features, _, file = fitted
    settings = TrainingSettings(epochs=1, fine_tune=FineTuneSettings(epochs=1, learning_rate=1e-2))
    tuned = train_model(workspace, features, HeadDesign("dense", 8), settings, seed=1)
    own = load_novelty(fit_novelty(workspace, features, tuned, 0.2))

    hashes = select_ready(read_manifest(workspace.manifest_file)).query("split == 'val'")["sha256"].sort_values()
    images = read_images(list(hashes), workspace, features.preprocessing, num_threads=1)
    whole = keras.models.load_model(tuned.model_file, compile=False)
    maps = keras.Model(whole.input, whole.get_layer("standardize").output)
    rows = np.asarray(maps.predict_on_batch(np.stack(images)[..., None].astype(np.float32)))
    assert own.limit == pytest.approx(find_limit(own.measure(rows), 0.2), rel=1e-3)
    assert own.limit != pytest.approx(load_novelty(file).limit, rel=1e-3)
