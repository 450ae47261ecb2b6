from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import pytest
from matplotlib import pyplot

from hip_mri.errors import EvaluationError, WorkspaceError
from hip_mri.evaluation.charts.captions import CAPTIONS
from hip_mri.evaluation.charts.figures import draw_figures
from hip_mri.evaluation.charts.style import INK
from hip_mri.evaluation.report.embedding import encode_data_uri, shrink_png
from tests.evaluation.charts.material import KINDS, make_cases, make_decision_curve, make_folds, make_pairs, make_split

NAMES = [
    "split_flow.png",
    "roc.png",
    "precision_recall.png",
    "confusion_matrix.png",
    "score_histogram.png",
    "calibration.png",
    "shortcuts.png",
    "training_sizes.png",
    "learning_curves.png",
    "contrast_samples.png",
    "leakage.png",
]
"""Figures that need only the tables of a run and samples."""


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
    assert all(file.stat().st_size <= 80_000 for file in figures if file.stem != "contrast_samples")


def test_every_figure_has_the_banner(figures, figure_data, tmp_path):
    ink = int(INK[1:3], 16)
    for file in figures:
        assert (read_pixels(file)[3] == ink).all()
    for file in draw_figures(figure_data, tmp_path):
        assert (read_pixels(file)[3] == 255).all()


def test_figures_without_data_are_left_out(figure_data, tmp_path):
    files = draw_figures(replace(figure_data, samples=()), tmp_path)
    assert [file.name for file in files] == [name for name in NAMES if name != "contrast_samples.png"]


def test_threads_draw_the_same_figures_and_pyplot_is_unused(figures, figure_data, tmp_path):
    def draw(number):
        return draw_figures(figure_data, tmp_path / str(number), "SYNTHETIC DATA · RANDOM WEIGHTS")

    with ThreadPoolExecutor(2) as pool:
        for drawn in pool.map(draw, range(2)):
            assert [file.read_bytes() for file in drawn] == [file.read_bytes() for file in figures]
    assert pyplot.get_fignums() == []


def test_all_data_gives_all_figures(figure_data, tmp_path):
    kind = KINDS["typical"]
    aucs = dict(zip(("by_image", "grouped"), make_folds(kind), strict=True))
    folds = {scheme: {"aucs": values.tolist()} for scheme, values in aucs.items()}
    data = replace(
        figure_data,
        metrics=figure_data.metrics | {"cross_validation": folds},
        bands=make_split(kind).bands,
        decision_curve=make_decision_curve(kind),
        explained=make_cases(kind, ["true positive", "false negative"]),
        suspected_labels=make_pairs(kind, 2),
        close_pairs=make_pairs(kind, 2),
        doubtful_pairs=make_pairs(kind, 2),
    )
    assert [file.stem for file in draw_figures(data, tmp_path)] == list(CAPTIONS)


@pytest.mark.parametrize("max_bytes", [80_000, 20_000])
def test_reduced_figure_fits_and_keeps_its_shape(figures, max_bytes, tmp_path):
    file = next(file for file in figures if file.stem == "contrast_samples")
    before = read_pixels(file)
    content = shrink_png(file, max_bytes)
    (tmp_path / "small.png").write_bytes(content)
    after = read_pixels(tmp_path / "small.png")
    assert len(content) <= max_bytes < file.stat().st_size
    assert after.shape[1] / after.shape[0] == pytest.approx(before.shape[1] / before.shape[0], rel=0.02)
    assert after.std() > 10


def test_small_picture_is_left_as_it_is(figures):
    assert shrink_png(figures[0]) == figures[0].read_bytes()
    assert encode_data_uri(b"\x00\x01") == "data:image/png;base64,AAE="


def test_pictures_that_cannot_be_shrunk_are_named(figures, tmp_path):
    with pytest.raises(EvaluationError, match=r"split_flow\.png .* 100 bytes"):
        shrink_png(figures[0], 100)
    with pytest.raises(WorkspaceError, match=r"gone\.png cannot be read"):
        shrink_png(tmp_path / "gone.png")
    (tmp_path / "text.png").write_bytes(b"no picture" * 20)
    with pytest.raises(EvaluationError, match=r"text\.png cannot be decoded"):
        shrink_png(tmp_path / "text.png", 100)
