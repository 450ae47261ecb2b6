"""The synthetic demo: reproducible by seed, correct anatomy, and no shortcut between the classes."""

import csv
import io
import itertools
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hip_mri.config import LABELS
from hip_mri.errors import SettingsError
from hip_mri.synthetic import demo
from hip_mri.synthetic.demo import DemoImage, draw_demo, write_demo_zip
from hip_mri.synthetic.phantom import HEAD_RADIUS, TISSUE_OF_PART, Tissue, draw_body, paint_slice


@pytest.fixture(scope="module")
def images() -> list[DemoImage]:
    return list(draw_demo(seed=0))


@pytest.fixture(scope="module")
def patients(images: list[DemoImage]) -> list[list[DemoImage]]:
    return [list(slices) for _, slices in itertools.groupby(images, key=lambda image: image.patient_id)]


def test_default_demo_is_small_and_holds_both_classes(images: list[DemoImage]):
    assert 490 <= len(images) <= 520
    assert {image.label for image in images} == set(LABELS)
    assert 0.35 <= np.mean([image.label == LABELS[1] for image in images]) <= 0.45


def test_images_are_gray_squares_of_varying_size(images: list[DemoImage]):
    assert {image.pixels.dtype for image in images} == {np.dtype(np.uint8)}
    assert {image.pixels.shape for image in images} == {(size, size) for size in (224, 240, 256)}
    assert all(image.pixels.min() < 30 and image.pixels.max() > 150 for image in images)


def test_patients_have_neighboring_slices_of_one_size_and_class(patients: list[list[DemoImage]]):
    assert len({slices[0].patient_id for slices in patients}) == len(patients) == 290
    assert {len(slices) for slices in patients} == {1, 2}
    for slices in patients:
        assert len({(image.label, image.pixels.shape) for image in slices}) == 1


def test_neighboring_slices_are_more_alike_than_patients(patients: list[list[DemoImage]]):
    small = [
        [cv2.resize(image.pixels, (64, 64), interpolation=cv2.INTER_AREA).ravel() for image in slices[:2]]
        for slices in [slices for slices in patients if len(slices) > 1][:20]
    ]
    within = [np.corrcoef(first, second)[0, 1] for first, second in small]
    between = [np.corrcoef(one[0], other[0])[0, 1] for one, other in itertools.combinations(small, 2)]
    assert np.min(within) > 0.9
    assert np.median(within) > np.max(between)


def test_names_run_on_through_a_patient_and_do_not_reveal_the_patient(images: list[DemoImage]):
    for label, stem in (("normal", "hip-normal"), ("osseous_lesion", "hip")):
        names = [image.source_name for image in images if image.label == label]
        assert names == [f"Synthetic Hip MRI/{label}/{stem}{i + 1:06d}.png" for i in range(len(names))]


def test_lesions_are_in_the_marrow_of_lesion_slices_alone(images: list[DemoImage]):
    for image in images:
        assert image.marrow.shape == image.lesion.shape == image.pixels.shape
        assert not (image.lesion & ~image.marrow).any()
        assert (image.lesion.sum() > 150) == (image.label == "osseous_lesion")
        assert image.label == "osseous_lesion" or not image.lesion.any()


def draw_slices(seed: int, contrast: demo.Contrast, has_lesion: bool) -> list[demo.Slice]:
    traits = demo.Traits(size=256, contrast=contrast, brightness=1.0, num_slices=3, num_lesions=2, lesion_strength=0.8)
    return demo.draw_patient(np.random.default_rng(seed), traits, has_lesion)


def test_lesion_is_the_only_difference_between_the_classes():
    with_lesion, without = draw_slices(7, demo.T1, has_lesion=True), draw_slices(7, demo.T1, has_lesion=False)
    for (ill, marrow, lesion), (healthy, same_marrow, no_lesion) in zip(with_lesion, without, strict=True):
        assert np.array_equal(marrow, same_marrow)
        assert not no_lesion.any()
        difference = np.abs(ill.astype(float) - healthy)
        far = ~cv2.dilate(lesion.astype(np.uint8), np.ones((31, 31))).astype(bool)
        assert difference[lesion].mean() > 25
        assert difference[far].mean() < 8  # the window, which follows the mean of the first slice


@pytest.mark.parametrize(("contrast", "sign"), [(demo.T1, -1), (demo.FAT_SUPPRESSED, 1)])
def test_lesions_are_dark_on_t1_and_bright_with_suppressed_fat(contrast: demo.Contrast, sign: int):
    for seed in range(4):
        for pixels, marrow, lesion in draw_slices(seed, contrast, has_lesion=True):
            assert sign * (pixels[lesion].mean() - pixels[marrow & ~lesion].mean()) > 10


@pytest.mark.parametrize(
    "measure",
    [
        lambda image: image.pixels.mean(),
        lambda image: np.median(image.pixels),
        lambda image: image.pixels.std(),
        lambda image: image.pixels.shape[0],
        lambda image: (image.pixels == 0).mean(),
    ],
    ids=["mean", "median", "deviation", "size", "black"],
)
def test_no_trivial_measure_separates_the_classes(images: list[DemoImage], measure):
    labels = [image.label == "osseous_lesion" for image in images]
    assert roc_auc_score(labels, [measure(image) for image in images]) == pytest.approx(0.5, abs=0.12)


def test_number_of_slices_does_not_reveal_the_class(patients: list[list[DemoImage]]):
    labels = [slices[0].label == "osseous_lesion" for slices in patients]
    assert roc_auc_score(labels, [len(slices) for slices in patients]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("seed", range(8))
def test_bones_are_drawn_whole_on_all_slices(seed: int):
    body = draw_body(np.random.default_rng(seed), 256)
    for z in (-13.0, 0.0, 13.0):
        tissues = TISSUE_OF_PART[paint_slice(body, z)]
        area = (tissues == Tissue.FEMUR_MARROW).sum() * (body.pixel_spacing / 2) ** 2
        head_area = np.pi * (HEAD_RADIUS**2 - z**2)
        assert area > 1.5 * head_area
        assert (tissues == Tissue.PELVIS_MARROW).sum() > 0.3 * (tissues == Tissue.FEMUR_MARROW).sum()
        assert set(np.unique(tissues)) >= set(Tissue) - {Tissue.BOWEL, Tissue.AIR, Tissue.SKIN}


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path):
    first, again, other = (
        write_demo_zip(tmp_path / f"{name}.zip", seed, num_patients=5).read_bytes()
        for name, seed in (("first", 3), ("again", 3), ("other", 4))
    )
    assert first == again
    assert first != other


def test_zip_looks_like_the_original_and_says_that_it_is_synthetic(tmp_path: Path):
    file = write_demo_zip(tmp_path / "new" / "demo.zip", seed=1, num_patients=6)
    drawn = list(draw_demo(seed=1, num_patients=6))
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        pictures = [name for name in archive.namelist() if name.endswith(".png")]
        notice = archive.read("Synthetic Hip MRI/SYNTHETIC.txt").decode()
        table = archive.read("Synthetic Hip MRI/SYNTHETIC-patients.csv").decode()
        first = cv2.imdecode(np.frombuffer(archive.read(pictures[0]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert pictures == [image.source_name for image in drawn]
    assert np.array_equal(first, drawn[0].pixels)
    assert len(notice.splitlines()) == 1
    assert "not patients" in notice
    rows = list(csv.DictReader(io.StringIO(table)))
    columns = ("source_name", "patient_id", "sequence")
    assert [tuple(row.values()) for row in rows] == [tuple(getattr(image, name) for name in columns) for image in drawn]
    assert list(file.parent.iterdir()) == [file]


def test_failed_write_keeps_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "demo.zip"
    file.write_bytes(b"older")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo.zipfile.ZipFile, "writestr", fail)
    with pytest.raises(KeyboardInterrupt):
        write_demo_zip(file, seed=0, num_patients=5)
    assert file.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [file]


def test_too_few_patients_are_refused_with_the_reason():
    with pytest.raises(SettingsError, match=r"num_patients: .*4.* at least 5"):
        next(draw_demo(seed=0, num_patients=4))
