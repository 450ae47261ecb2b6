"""Heads of every kind: what they learn, the file that holds them, and gradients, against scikit-learn."""

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hip_mri.config import HeadDesign, TrainingConfig, TrainingSettings
from hip_mri.errors import WeightsError
from hip_mri.evaluation.explain import differentiate_head
from hip_mri.models.fitting import TrainingImages
from hip_mri.models.heads import logistic, nearest_neighbors
from hip_mri.models.heads.head import build_head, cut_network, fit_head, join_network
from hip_mri.models.loading import load_head
from hip_mri.models.network_inputs import Views
from hip_mri.models.predict import predict, predict_views

NUM_FEATURES = 768
SETTINGS = TrainingSettings(epochs=8, batch_size=32, learning_rate=1e-3)
DESIGNS = {
    "dense": HeadDesign("dense", 16),
    "logistic": HeadDesign("logistic"),
    "knn": HeadDesign("knn"),
}


def draw(num_groups: int, seed: int) -> TrainingImages:
    """Draw features of groups of three images; lesions differ in the first features."""
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_groups), 3)
    labels = groups % 2
    features = 3 + generator.normal(size=(num_groups, NUM_FEATURES))[groups] + generator.normal(size=(len(groups), 1))
    features += 0.3 * generator.normal(size=features.shape)
    features[:, :100] += labels[:, None]
    plain = features.astype(np.float32)
    return TrainingImages(plain, plain[:, ::-1].copy(), labels.astype(np.int64), groups)


@pytest.fixture(scope="module")
def images() -> TrainingImages:
    return draw(60, seed=1)


@pytest.fixture(scope="module", params=DESIGNS)
def fitted(request, images):
    """A head of each kind, fitted without mirrored images."""
    plain = TrainingImages(images.plain, None, images.labels, images.groups)
    return fit_head(DESIGNS[request.param], plain, draw(20, seed=2), SETTINGS, seed=3)


def test_it_separates_images_of_other_groups(fitted) -> None:
    head, epochs = fitted
    others = draw(40, seed=4)
    assert roc_auc_score(others.labels, predict(head, others.plain)) > 0.75
    assert len(epochs) in (1, SETTINGS.epochs)
    assert all(np.isfinite([epoch.loss, epoch.val_loss]).all() for epoch in epochs)


def test_it_survives_saving_joining_and_cutting(fitted, tmp_path) -> None:
    head, _ = fitted
    rows = draw(5, seed=6).plain
    expected = predict(head, rows)
    head.save(tmp_path / "head.keras")
    np.testing.assert_allclose(predict(load_head(tmp_path / "head.keras"), rows), expected, atol=1e-5)
    inputs = keras.Input((NUM_FEATURES,))
    network = join_network(keras.Model(inputs, keras.layers.Identity()(inputs), name="backbone"), head)
    _, again = cut_network(network)
    np.testing.assert_allclose(predict(again, rows), expected, atol=1e-5)


def test_gradient_of_the_logit_is_that_of_finite_differences(fitted) -> None:
    head, _ = fitted
    rows = draw(4, seed=7).plain[:4].astype(np.float64)
    direction = np.random.default_rng(8).normal(size=rows.shape)

    def compute_logits(step: float) -> np.ndarray:
        score = predict(head, (rows + step * direction).astype(np.float32)).astype(np.float64)
        return np.log(score / (1 - score))

    slopes = (compute_logits(0.01) - compute_logits(-0.01)) / 0.02
    gradients = differentiate_head(head, rows.astype(np.float32))
    np.testing.assert_allclose((gradients * direction).sum(axis=1), slopes, rtol=0.1, atol=0.02)


def test_the_mean_of_both_views_is_the_score(fitted, images) -> None:
    head, _ = fitted
    views = Views(images.plain, images.mirrored).select(np.array([7, 3, 90]))
    (block, scores), *rest = predict_views(head, views)
    assert not rest
    np.testing.assert_array_equal(block, images.plain[[7, 3, 90]])
    single = [predict(head, rows[[7, 3, 90]]) for rows in (images.plain, images.mirrored)]
    np.testing.assert_allclose(scores, np.mean(single, axis=0), rtol=1e-6)


def test_logistic_head_is_the_logistic_regression_of_scikit_learn(images, monkeypatch) -> None:
    monkeypatch.setattr(logistic, "INVERSE_PENALTIES", (0.01,))
    plain = TrainingImages(images.plain, None, images.labels, images.groups)
    head, _ = fit_head(DESIGNS["logistic"], plain, None, SETTINGS, seed=0)
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000, tol=1e-6))
    oracle.fit(images.plain.astype(np.float64), images.labels)
    rows = draw(10, seed=9).plain
    np.testing.assert_allclose(predict(head, rows), oracle.predict_proba(rows)[:, 1], atol=2e-3)


def test_inner_folds_choose_a_strong_penalty_for_noise_and_a_weaker_one_for_a_clear_difference() -> None:
    generator = np.random.default_rng(10)
    labels, groups = np.arange(200) % 2, np.arange(200) // 2  # both labels in each group
    noise = generator.normal(size=(200, 50)).astype(np.float32)
    clear = noise + labels[:, None].astype(np.float32)
    found = [
        logistic.fit_logistic(TrainingImages(rows, None, labels, groups), SETTINGS, seed=0)[0]
        for rows in (noise, clear)
    ]
    assert np.abs(found[0]).max() < 1e-3 < np.abs(found[1]).max()


def test_mirrored_images_count_in_the_logistic_head(images) -> None:
    plain = TrainingImages(images.plain, None, images.labels, images.groups)
    both = fit_head(DESIGNS["logistic"], images, None, SETTINGS, seed=0)[0]
    one = fit_head(DESIGNS["logistic"], plain, None, SETTINGS, seed=0)[0]
    mirrored = draw(20, seed=11).mirrored
    labels = draw(20, seed=11).labels
    assert roc_auc_score(labels, predict(both, mirrored)) > roc_auc_score(labels, predict(one, mirrored)) + 0.1


def test_of_many_images_whole_groups_are_drawn_for_the_logistic_head(images, monkeypatch, caplog) -> None:
    groups = np.unique(images.groups, return_inverse=True)[1]
    chosen = logistic._choose_images(groups, 30, seed=1)
    assert 27 <= len(chosen) <= 30
    assert (np.bincount(groups[chosen], minlength=60) % 3 == 0).all()
    assert "30 of 180" in caplog.text


def test_knn_head_weights_the_neighbors_that_scikit_learn_finds(images) -> None:
    head, _ = fit_head(DESIGNS["knn"], images, None, SETTINGS, seed=0)
    rows = draw(10, seed=12).plain
    scaler = StandardScaler().fit(images.plain)
    finder = NearestNeighbors(n_neighbors=20, metric="cosine").fit(scaler.transform(images.plain))
    distances, places = finder.kneighbors(scaler.transform(rows))
    weights = np.exp(-(distances - distances[:, :1]) / 0.07)
    expected = ((weights * images.labels[places]).sum(axis=1) + 0.5) / (weights.sum(axis=1) + 1)
    np.testing.assert_allclose(predict(head, rows), expected, atol=1e-4)


def test_knn_head_holds_a_limited_number_of_references_and_works_with_a_few(images, monkeypatch) -> None:
    few = images.select(np.arange(6))
    head, _ = fit_head(DESIGNS["knn"], few, None, SETTINGS, seed=0)
    assert np.isfinite(predict(head, images.plain[:9])).all()
    monkeypatch.setattr(nearest_neighbors, "MAX_NUM_REFERENCES", 50)
    head, _ = fit_head(DESIGNS["knn"], images, None, SETTINGS, seed=0)
    assert head.get_layer("score").references.shape == (50, NUM_FEATURES)


def test_a_head_of_a_foreign_size_is_not_loaded(tmp_path, monkeypatch) -> None:
    build_head(NUM_FEATURES, HeadDesign("knn", num_references=4), seed=0).save(tmp_path / "head.keras")
    monkeypatch.setattr("hip_mri.models.heads.head.MAX_STORED_REFERENCES", 3)
    with pytest.raises(WeightsError, match="width 4"):
        load_head(tmp_path / "head.keras")


def test_fine_tuning_of_a_knn_head_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fine_tune\.epochs is 2.*knn"):
        TrainingConfig.model_validate({"model": {"head": "knn"}, "training": {"fine_tune": {"epochs": 2}}})
