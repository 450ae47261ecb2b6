from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from matplotlib import pyplot

from hip_mri.errors import EvaluationError, WorkspaceError
from hip_mri.evaluation.embedding import encode_data_uri, shrink_png
from hip_mri.evaluation.figures import draw_confusion_matrices, draw_figures, draw_learning_curves, draw_roc
from hip_mri.evaluation.metrics import evaluate_predictions, split_predictions
from hip_mri.evaluation.style import INK

NAMES = ["roc.png", "precision_recall.png", "confusion_matrix.png", "learning_curves.png", "contrast_samples.png"]


def read_pixels(file):
    pixels = cv2.imread(str(file), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels


def read_texts(axes):
    legend = axes.get_legend()
    return [text.get_text() for text in [*axes.texts, *(legend.get_texts() if legend else [])]]


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


def test_roc_names_areas_and_marks_the_threshold(predictions):
    metrics = evaluate_predictions(predictions, 0.3)
    axes = draw_roc(split_predictions(predictions), metrics, 0.3, "").axes[0]
    texts = read_texts(axes)
    assert f"Test (AUC {metrics['test']['auc']:.3f})" in texts
    assert "At the threshold 0.3" in texts
    rings = [line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
    expected = [1 - metrics["test"]["specificity"], metrics["test"]["sensitivity"]]
    assert any(np.allclose(ring, expected) for ring in rings)


def test_confusion_matrix_shows_counts_and_shares_of_the_row(predictions):
    metrics = evaluate_predictions(predictions, 0.5)
    figure = draw_confusion_matrices(metrics, 0.5, "")
    assert [axes.get_title("left") for axes in figure.axes] == ["Test images", "Validation images"]
    counts = np.array(metrics["test"]["confusion_matrix"])
    shares = counts / counts.sum(axis=1, keepdims=True)
    expected = [f"{count}\n{share:.1%}" for count, share in zip(counts.ravel(), shares.ravel(), strict=True)]
    assert read_texts(figure.axes[0]) == expected


def test_learning_curves_divide_the_stages(history):
    assert not any("fine-tune" in text for axes in draw_learning_curves(history, "").axes for text in read_texts(axes))
    staged = history.assign(stage=["head"] * 5 + ["fine_tune"] * 3)
    for axes in draw_learning_curves(staged, "").axes:
        assert any(list(line.get_xdata()) == [5.5, 5.5] for line in axes.lines)
        assert any("fine-tune" in text for text in read_texts(axes))


def test_one_epoch_can_be_drawn(history):
    draw_learning_curves(history[:1], "").canvas.draw_idle()


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
