from concurrent.futures import ThreadPoolExecutor

import cv2
import pytest
from matplotlib import pyplot

from hip_mri.errors import EvaluationError, WorkspaceError
from hip_mri.evaluation.charts.captions import CAPTIONS
from hip_mri.evaluation.charts.figures import Findings, draw_figures, gather_splits
from hip_mri.evaluation.charts.style import INK
from hip_mri.evaluation.report.embedding import encode_data_uri, shrink_png
from tests.evaluation.charts.material import (
    KINDS,
    SUMMARY,
    make_cases,
    make_decision_curve,
    make_flow,
    make_folds,
    make_neighbours,
    make_pairs,
    make_split,
)

NAMES = [
    "roc.png",
    "precision_recall.png",
    "confusion_matrix.png",
    "score_histogram.png",
    "calibration.png",
    "learning_curves.png",
    "contrast_samples.png",
]
"""Pictures that need nothing but predictions, history and samples."""


def read_pixels(file):
    pixels = cv2.imread(str(file), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels


def test_every_picture_decodes_and_shows_something(figures):
    assert [file.name for file in figures] == NAMES
    for file in figures:
        picture = read_pixels(file)
        assert picture.shape[0] >= 400
        assert picture.shape[1] >= 600
        assert picture.std() > 10
    assert sorted(file.name for file in figures[0].parent.iterdir()) == sorted(NAMES)


def test_charts_are_small_enough_to_embed_as_they_are(figures):
    assert all(file.stat().st_size <= 80_000 for file in figures[:-1])


def test_notice_runs_along_the_top_of_every_picture(figures, predictions, history, samples, tmp_path):
    ink = int(INK[1:3], 16)
    for file in figures:
        assert (read_pixels(file)[3] == ink).all()
    for file in draw_figures(predictions, history, samples, 0.5, tmp_path):
        assert (read_pixels(file)[3] == 255).all()


def test_without_samples_there_is_no_contrast_sheet(predictions, history, tmp_path):
    assert [file.name for file in draw_figures(predictions, history, [], 0.5, tmp_path)] == NAMES[:-1]


def test_threads_draw_the_same_pictures_and_leave_pyplot_alone(figures, predictions, history, samples, tmp_path):
    def draw(number):
        folder = tmp_path / str(number)
        return draw_figures(predictions, history, samples, 0.5, folder, "SYNTHETIC DATA · RANDOM WEIGHTS")

    with ThreadPoolExecutor(2) as pool:
        for drawn in pool.map(draw, range(2)):
            assert [file.read_bytes() for file in drawn] == [file.read_bytes() for file in figures]
    assert pyplot.get_fignums() == []


def test_findings_add_bands_and_pictures(predictions, history, samples, tmp_path):
    kind = KINDS["typical"]
    band = make_split(kind).roc_band
    assert band is not None
    findings = Findings(
        intervals={"test": {"auc": (0.7, 0.9)}},
        roc_bands={"test": band},
        precision_bands={"test": band},
        calibration=SUMMARY,
        decision_curve=make_decision_curve(kind),
        explained=make_cases(kind, ["true positive", "false negative"]),
        flow=make_flow(kind),
        neighbours=make_neighbours(kind),
        close_pairs=make_pairs(kind, 2),
        folds=make_folds(kind),
    )
    files = draw_figures(predictions, history, samples, 0.4, tmp_path, findings=findings)
    assert [file.stem for file in files] == list(CAPTIONS)
    assert gather_splits(predictions, findings)["test"].intervals == {"auc": (0.7, 0.9)}
    assert list(gather_splits(predictions)) == ["test", "val"]
    assert list(gather_splits(predictions[predictions["split"] == "train"])) == ["train"]


@pytest.mark.parametrize("most_bytes", [80_000, 20_000])
def test_shrunk_picture_fits_and_keeps_its_shape(figures, most_bytes, tmp_path):
    before = read_pixels(figures[-1])
    content = shrink_png(figures[-1], most_bytes)
    (tmp_path / "small.png").write_bytes(content)
    after = read_pixels(tmp_path / "small.png")
    assert len(content) <= most_bytes < figures[-1].stat().st_size
    assert after.shape[1] / after.shape[0] == pytest.approx(before.shape[1] / before.shape[0], rel=0.02)
    assert after.std() > 10


def test_small_picture_is_left_as_it_is(figures):
    assert shrink_png(figures[0]) == figures[0].read_bytes()
    assert encode_data_uri(b"\x00\x01") == "data:image/png;base64,AAE="


def test_pictures_that_cannot_be_shrunk_are_named(figures, tmp_path):
    with pytest.raises(EvaluationError, match=r"roc\.png cannot be reduced to 100 bytes"):
        shrink_png(figures[0], 100)
    with pytest.raises(WorkspaceError, match=r"gone\.png cannot be read \(No such file or directory\)"):
        shrink_png(tmp_path / "gone.png")
    (tmp_path / "text.png").write_bytes(b"no picture" * 20)
    with pytest.raises(EvaluationError, match=r"text\.png is no picture that can be decoded"):
        shrink_png(tmp_path / "text.png", 100)
