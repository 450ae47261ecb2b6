"""The drift check: few alarms for images of the same kind, always one for strongly changed images."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from hip_mri.config import DriftSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.errors import EvaluationError
from hip_mri.images.clahe_and_resizing import preprocess_image
from hip_mri.images.image_statistics import STATISTICS, compute_statistics
from hip_mri.models.backbones.engines import open_engine
from hip_mri.monitoring import drift
from hip_mri.monitoring.drift import Batch, FeatureShift, compare_features, detect_drift
from hip_mri.monitoring.shift import MAX_NUM_GROUPS
from hip_mri.synthetic.demo import draw_demo
from tests.monitoring.changes import STRONG
from tests.small_models import SMALL

NUM_STATISTICS = len(STATISTICS)
NAMES = [statistic.name for statistic in STATISTICS]


def draw_batch(
    seed: int, num_groups: int, num_images: int = 3, shift: float = 0.0, feature_shift: float = 0.0
) -> Batch:
    """Patients that differ, each with similar images."""
    generator = np.random.default_rng([seed, num_groups])
    groups = np.repeat(np.arange(num_groups), num_images)
    statistics = 100 + shift + 20 * generator.normal(size=(num_groups, NUM_STATISTICS))
    features = feature_shift + generator.normal(size=(num_groups, 40))
    return Batch(
        statistics[groups] + generator.normal(size=(len(groups), NUM_STATISTICS)),
        (features[groups] + 0.1 * generator.normal(size=(len(groups), 40))).astype(np.float32),
        groups,
    )


def change(batch: Batch, **statistics: float) -> Batch:
    """Set statistics of all images."""
    rows = batch.statistics.copy()
    for name, value in statistics.items():
        rows[:, NAMES.index(name)] = value
    return replace(batch, statistics=rows)


def compute_max_alarms(num_batches: int) -> int:
    """Number of false alarms that is exceeded with a probability below 0.001 at the rate of the settings."""
    return int(binom.isf(0.001, num_batches, DriftSettings().false_alarm_rate))


# Phantoms


@pytest.fixture(scope="module")
def phantoms() -> list[tuple[int, np.ndarray]]:
    """Patient and pixels of all images of 72 patients."""
    drawn = [(seed, image) for seed in (71, 72) for image in draw_demo(seed, 36)]
    return [(100 * seed + int(image.patient_id[-4:]), image.pixels) for seed, image in drawn]


@pytest.fixture(scope="module")
def describe_all(backbone):
    """Describe phantoms, changed in some way."""
    engine = open_engine(backbone, "openvino", "float32")

    def describe(phantoms, change) -> Batch:
        changed = [change(pixels) for _, pixels in phantoms]
        features = engine.compute([preprocess_image(pixels, SMALL) for pixels in changed])
        statistics = np.array([compute_statistics(pixels) for pixels in changed])
        return Batch(statistics, features, np.array([patient for patient, _ in phantoms]))

    return describe


@pytest.fixture(scope="module")
def pool(phantoms, describe_all) -> Batch:
    return describe_all(phantoms, lambda pixels: pixels)


def choose(batch: Batch, patients: np.ndarray) -> Batch:
    chosen = np.flatnonzero(np.isin(batch.groups, patients))
    return Batch(batch.statistics[chosen], batch.features[chosen], batch.groups[chosen])


@pytest.mark.parametrize("num_batches", [50, pytest.param(200, marks=pytest.mark.system)])
def test_batches_of_the_same_phantoms_raise_no_more_alarms_than_the_settings_allow(num_batches, pool):
    """Each batch is a new random division of the same patients, so that alarms are independent of each other."""
    alarms = []
    for seed in range(num_batches):
        generator = np.random.default_rng(seed)
        patients = generator.permutation(np.unique(pool.groups))
        num_new = generator.integers(10, 21)
        report = detect_drift(choose(pool, patients[num_new:]), choose(pool, patients[:num_new]), seed=seed)
        assert report.is_judged
        alarms += [report.reasons] if report.is_shifted else []
    assert len(alarms) <= compute_max_alarms(num_batches), alarms


@pytest.mark.parametrize("way", STRONG)
def test_fault_73_strong_changes_are_always_found(way, phantoms, pool, describe_all):
    patients = np.unique(pool.groups)
    changed = describe_all([phantom for phantom in phantoms if phantom[0] in patients[:24]], STRONG[way])
    for seed in range(5):
        new = np.random.default_rng(seed).choice(patients[:24], 10, replace=False)
        report = detect_drift(choose(pool, np.setdiff1d(patients, new)), choose(changed, new), seed=seed)
        assert report.is_shifted
        assert report.reasons
        assert report.summary.startswith("The new batch (")
        assert "does not look like the training images" in report.summary


# The rules


def test_images_of_a_patient_count_once():
    """Eight patients with forty similar images each differ by chance; a test on images would find it significant."""
    reports = [detect_drift(draw_batch(seed, 25), draw_batch(1000 + seed, 8, 40), seed=seed) for seed in range(100)]
    assert sum(report.is_shifted for report in reports) <= compute_max_alarms(100)


def test_fewer_images_of_each_patient_are_no_shift():
    """Here images of a patient differ as much as patients do, so that means of ten would spread far less."""
    num_alarms = 0
    for seed in range(100):
        old, new = draw_batch(seed, 300, 1), draw_batch(1000 + seed, 12, 1)
        num_alarms += detect_drift(replace(old, groups=old.groups // 10), new, seed=seed).is_shifted
    assert num_alarms <= compute_max_alarms(100)


def test_a_slight_shift_of_a_large_batch_is_significant_and_no_reason():
    report = detect_drift(draw_batch(0, 400), draw_batch(1, 400, shift=8, feature_shift=0.15))
    assert min(report.p_values.values()) <= 0.0025
    assert report.p_values["features"] <= 0.0025
    assert 0.2 < max(report.effects.values()) < 0.8
    assert not report.is_shifted
    assert report.summary == ("The new batch (1,200 images of 400 groups) looks like the 1,200 training images.")
    strict = DriftSettings(min_effect_size=0.3, min_auc=0.5)
    assert detect_drift(draw_batch(0, 400), draw_batch(1, 400, shift=8, feature_shift=0.15), strict).is_shifted


def test_the_reason_names_the_statistic_and_both_medians():
    report = detect_drift(draw_batch(0, 40), draw_batch(1, 12, shift=50))
    assert report.is_shifted
    assert len(report.reasons) == drift.MAX_REASONS + 1
    found = report.shifts[0]
    medians = f"median {found.new_median:.4g} of the new groups, {found.reference_median:.4g} of the training groups; "
    assert report.reasons[0].lower().startswith(f"{found.statistic.title}: {medians}")
    assert report.reasons[0].endswith(f" {found.effect:.1f} standard deviations apart, p = 0.00025.")
    assert report.reasons[-1].startswith("Shifted as well: ")
    effects = list(report.effects.values())
    assert effects == sorted(effects, reverse=True)
    assert set(report.p_values) == {*NAMES, "features"}


def test_features_alone_can_be_the_reason():
    report = detect_drift(draw_batch(0, 40), draw_batch(1, 12, feature_shift=1.0))
    assert report.reasons == (
        f"Features: a classifier separates new from training groups with an AUC of {report.features.auc:.2f}, "
        "p = 0.00025.",
    )


@pytest.mark.parametrize(("num_reference", "num_new"), [(40, 7), (7, 40), (40, 1)])
def test_too_few_groups_are_not_compared(num_reference, num_new):
    report = detect_drift(draw_batch(0, num_reference), draw_batch(1, num_new, shift=70, feature_shift=9))
    assert (report.is_judged, report.is_shifted, report.reasons, report.p_values) == (False, False, (), {})
    assert report.features is None
    assert report.summary == (
        f"The new batch ({3 * num_new} images of {num_new} groups) is too small to judge against {num_reference} "
        "training groups: 8 groups are needed on either side."
    )


@pytest.mark.parametrize(
    ("num_reference", "num_new", "is_shifted"), [(40, 3, True), (40, 2, False), (7, 3, False), (40, 20, True)]
)
def test_sizes_outside_training_need_no_test(num_reference, num_new, is_shifted):
    old, new = change(draw_batch(0, num_reference), height=300), change(draw_batch(1, num_new), height=600)
    report = detect_drift(old, new)
    assert report.is_shifted == is_shifted
    if is_shifted:
        assert report.reasons[0].startswith("Height (pixels): median 600 of the new groups, 300 of the training")
        assert report.reasons[0].endswith("All new groups (600 to 600) lie far beyond those (300 to 300).")


def test_one_outlier_among_many_patients_is_no_shift():
    old, new = draw_batch(0, 40), draw_batch(1, 12)
    rows = new.statistics.copy()
    rows[new.groups == 0] = 900
    assert not detect_drift(old, replace(new, statistics=rows)).is_shifted


# The parts


def test_the_classifier_leaves_each_group_out():
    generator = np.random.default_rng(2)
    old, new = generator.normal(size=(9, 5)), generator.normal(0.8, 1, size=(6, 5))
    pooled = np.concatenate([old, new])
    pooled = (pooled - pooled.mean(axis=0)) / pooled.std(axis=0)
    distances = ((pooled[:, None] - pooled) ** 2).sum(axis=2)
    kernel = np.exp(-distances / np.median(distances[np.triu_indices(15, 1)]))
    is_new, scores = np.arange(15) >= 9, []
    for place in range(15):
        others = np.arange(15) != place
        scores.append(kernel[place, others & is_new].mean() - kernel[place, others & ~is_new].mean())
    found = compare_features(old, new, 0.01, seed=0)
    assert found.auc == pytest.approx(roc_auc_score(is_new, scores))
    assert 0 < found.p_value < 1


def test_features_that_are_all_equal_separate_nothing():
    assert compare_features(np.ones((20, 4)), np.ones((10, 4)), 0.01, seed=0) == FeatureShift(0.5, 1.0)


def test_the_same_seed_gives_the_same_report():
    old, new = draw_batch(0, 30), draw_batch(1, 10)
    assert detect_drift(old, new, seed=4) == detect_drift(old, new, seed=4)
    assert detect_drift(old, new, seed=4) != detect_drift(old, new, seed=5)


def test_many_groups_are_sampled_and_all_are_counted():
    old = draw_batch(0, MAX_NUM_GROUPS + 100, 1)
    report = detect_drift(old, draw_batch(1, 12, shift=70))
    assert report.is_shifted
    assert (report.num_reference_groups, report.num_reference_images) == (MAX_NUM_GROUPS + 100, MAX_NUM_GROUPS + 100)
    assert (report.num_groups, report.num_images) == (12, 36)


def test_features_may_be_read_from_disk(trained_workspace):
    workspace, features = trained_workspace
    images = select_ready(read_manifest(workspace.manifest_file))
    rows = features.open_store(workspace).select(images["sha256"], mirrored=False)
    statistics = np.random.default_rng(0).normal(100, 20, (len(images), NUM_STATISTICS))
    on_disk = Batch(statistics, rows, images["group"].astype("category").cat.codes.to_numpy())
    in_memory = replace(on_disk, features=rows[np.arange(len(rows))])
    assert detect_drift(on_disk, on_disk) == detect_drift(in_memory, in_memory)


def test_different_numbers_of_rows_are_rejected():
    batch = draw_batch(0, 4)
    with pytest.raises(EvaluationError, match=r"drift: .* 12 .* 12 .* 11 "):
        replace(batch, groups=batch.groups[1:])
    with pytest.raises(EvaluationError, match="one image"):
        Batch(np.empty((0, NUM_STATISTICS)), np.empty((0, 4), np.float32), np.empty(0, np.int64))


def test_the_report_is_frozen():
    report = detect_drift(draw_batch(0, 9), draw_batch(1, 9))
    with pytest.raises(FrozenInstanceError):
        report.is_shifted = True


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("false_alarm_rate", (0.001, 0.05), (0.0009, 0.051)),
        ("min_effect_size", (0, 100), (-0.001, 100.1)),
        ("min_auc", (0.5, 1), (0.499, 1.001)),
        ("min_num_groups", (6, 1_000_000), (5, 1_000_001)),
    ],
)
def test_settings_are_bounded(name, allowed, refused):
    for value in allowed:
        assert getattr(DriftSettings.model_validate({name: value}), name) == value
    for value in refused:
        with pytest.raises(ValidationError):
            DriftSettings.model_validate({name: value})
