"""Every chart with small, typical and extreme data: it is drawn, no text overlaps, and its labels are complete."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from sklearn.metrics import average_precision_score, roc_auc_score

from hip_mri.evaluation.charts.calibration import bin_scores, draw_calibration
from hip_mri.evaluation.charts.curves import ScoredSplit, draw_precision_recall, draw_roc
from hip_mri.evaluation.charts.decisions import draw_confusion_matrices, draw_decision_curve, draw_score_histogram
from hip_mri.evaluation.charts.flow_diagram import draw_flow
from hip_mri.evaluation.charts.image_sheets import (
    ContrastSample,
    draw_contrast_samples,
    draw_explanations,
    draw_pairs,
    shorten_id,
)
from hip_mri.evaluation.charts.leakage import draw_fold_comparison, draw_leakage
from hip_mri.evaluation.charts.shortcuts import draw_shortcuts
from hip_mri.evaluation.charts.training import draw_learning_curves, draw_training_sizes
from hip_mri.evaluation.metrics.curves import DecisionCurve
from tests.evaluation.charts.material import (
    KINDS,
    LONG_ID,
    make_cases,
    make_decision_curve,
    make_flow,
    make_folds,
    make_leakage,
    make_pairs,
    make_shortcuts,
    make_sizes,
    make_split,
    make_splits,
)

NOTICE = "SYNTHETIC DATA"
ALL_OUTCOMES = ["true positive", "true positive", "true negative", "false positive", "false negative"]


def make_history(num_epochs: int) -> pd.DataFrame:
    falling = np.exp(-np.arange(1, num_epochs + 1) / 8)
    stages = ["head" if epoch < num_epochs - 2 else "fine_tune" for epoch in range(num_epochs)]
    return pd.DataFrame(
        {
            "loss": falling,
            "accuracy": 1 - falling,
            "val_loss": falling + 0.1,
            "val_accuracy": 0.9 - falling,
            "stage": stages,
        }
    )


def make_samples(kind) -> list[ContrastSample]:
    image = np.random.default_rng(6).integers(0, 256, (40, 50), np.uint8)
    return [ContrastSample(kind.image_id, "normal" if row else "osseous_lesion", image, image) for row in range(3)]


DRAWINGS = {
    "roc": lambda kind: draw_roc(make_splits(kind), kind.threshold, NOTICE),
    "precision_recall": lambda kind: draw_precision_recall(make_splits(kind), kind.threshold, NOTICE),
    "confusion_matrix": lambda kind: draw_confusion_matrices(make_splits(kind), kind.threshold, NOTICE),
    "score_histogram": lambda kind: draw_score_histogram(make_split(kind), kind.threshold, "Test images", NOTICE),
    "calibration": lambda kind: draw_calibration(make_split(kind), "Calibration", make_split(kind).scores ** 2, NOTICE),
    "decision_curve": lambda kind: draw_decision_curve(make_decision_curve(kind), kind.threshold, "Decision", NOTICE),
    "learning_curves": lambda kind: draw_learning_curves(make_history(1 if kind.num_lesions == 1 else 30), NOTICE),
    "shortcuts": lambda kind: draw_shortcuts(make_shortcuts(kind), make_split(kind).metrics, NOTICE),
    "training_sizes": lambda kind: draw_training_sizes(make_sizes(kind), NOTICE),
    "explanations": lambda kind: draw_explanations(
        make_cases(kind, ALL_OUTCOMES if kind.num_lesions > 12 else ["true positive"]), NOTICE
    ),
    "contrast_samples": lambda kind: draw_contrast_samples(make_samples(kind), NOTICE),
    "flow": lambda kind: draw_flow(make_flow(kind), NOTICE),
    "leakage": lambda kind: draw_leakage(make_leakage(kind), NOTICE),
    "close_pairs": lambda kind: draw_pairs(
        make_pairs(kind, 3 if kind.num_lesions > 12 else 1), ("Test", "Training"), NOTICE
    ),
    "folds": lambda kind: draw_fold_comparison(*make_folds(kind), NOTICE),
}


def read_texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text().strip()]


def list_overlaps(figure, monkeypatch) -> list[tuple[str, str]]:
    """List pairs of overlapping texts, and texts beyond the edge of the figure."""
    drawn: list[Text] = []
    draw = Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, renderer: (drawn.append(text), draw(text, renderer))[1])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = []
    for text in drawn:
        if text.get_text().strip() and text.get_visible() and text.get_alpha() != 0:
            box = text.get_window_extent(canvas.get_renderer())
            boxes.append((text.get_text(), box.x0 + 1, box.y0 + 1, box.x1 - 1, box.y1 - 1))
    width, height = canvas.get_width_height()
    over_edge = [(box[0], "edge") for box in boxes if min(box[1:3]) < 0 or box[3] > width or box[4] > height]
    return over_edge + [
        (first[0], second[0])
        for first, second in combinations(boxes, 2)
        if first[1] < second[3] and second[1] < first[3] and first[2] < second[4] and second[2] < first[4]
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DRAWINGS)
def test_chart_is_complete_and_no_text_overlaps(name, kind, monkeypatch):
    figure = DRAWINGS[name](KINDS[kind])
    assert NOTICE in read_texts(figure)
    assert list_overlaps(figure, monkeypatch) == []


def test_charts_name_patients_where_groups_are_patients():
    kind = KINDS["typical"]
    for figure in (
        draw_flow(make_flow(kind), group="patient"),
        draw_fold_comparison(*make_folds(kind), group="patient"),
    ):
        texts = " ".join(read_texts(figure)).lower()
        assert "patient" in texts
        assert "group" not in texts


def test_curves_name_areas_intervals_and_both_thresholds():
    kind = KINDS["typical"]
    splits = make_splits(kind)
    for draw, measure, oracle, between in (
        (draw_roc, "AUC", roc_auc_score, "0.710 to 0.930"),
        (draw_precision_recall, "AP", average_precision_score, "0.600 to 0.900"),
    ):
        figure = draw(splits, kind.threshold)
        texts = read_texts(figure)
        value = oracle(splits["test"].labels, splits["test"].scores)
        assert f"Test ({measure} {value:.3f}, 95% interval {between})" in texts
        assert {"At 0.31, the chosen threshold", "At 0.5", "95% band, test"} <= set(texts)
        assert len(figure.axes[0].collections) == 1  # one band
        marks = [line for line in figure.axes[0].lines if line.get_marker() in "oD" and len(line.get_xdata())]
        assert len(marks) == 4
        widths = [line.get_linewidth() for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
        assert widths[0] > widths[1]


def test_marks_stand_at_sensitivity_and_specificity():
    metrics = {"auc": 0.75, "average_precision": 0.75}
    split = ScoredSplit(np.array([0, 0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.4, 0.6, 0.35, 0.9]), metrics)
    figure = draw_roc({"test": split}, 0.3)
    marks = [line for line in figure.axes[0].lines if line.get_marker() in "oD" and len(line.get_xdata())]
    np.testing.assert_allclose([mark.get_xydata()[0] for mark in marks], [[0.5, 1.0], [0.25, 0.5]])
    figure = draw_precision_recall({"test": split}, 0.95)  # no lesion call, no precision
    marks = [line for line in figure.axes[0].lines if line.get_marker() in "oD" and len(line.get_xdata())]
    np.testing.assert_allclose([mark.get_xydata()[0] for mark in marks], [[0.5, 0.5]])
    assert "Chance (prevalence in test, 0.333)" in read_texts(figure)


def test_confusion_matrices_show_counts_at_both_thresholds():
    splits = make_splits(KINDS["typical"])
    figure = draw_confusion_matrices(splits, 0.31)
    assert len(figure.axes) == 4
    assert [axes.get_xlabel() for axes in figure.axes] == [
        *["Called, at the threshold 0.31"] * 2,
        *["Called, at the threshold 0.5"] * 2,
    ]
    for axes, (split, threshold) in zip(
        figure.axes, [(splits[name], threshold) for threshold in (0.31, 0.5) for name in splits], strict=True
    ):
        called = split.scores >= threshold
        counts = np.array([[np.sum(called[split.labels == truth] == call) for call in (0, 1)] for truth in (0, 1)])
        fractions = counts / counts.sum(axis=1, keepdims=True)
        expected = [f"{count}\n{part:.1%}" for count, part in zip(counts.ravel(), fractions.ravel(), strict=True)]
        assert [text.get_text() for text in axes.texts] == expected
    assert len(draw_confusion_matrices(splits, 0.5).axes) == 2


def test_histogram_counts_every_image_once():
    split = make_split(KINDS["typical"])
    figure = draw_score_histogram(split, 0.31, "Test images")
    counts = [sum(patch.get_height() for patch in axes.patches) for axes in figure.axes]
    assert counts == [280, 120]
    assert figure.axes[1].get_title("left") == "Test images: osseous lesion (120)"


def test_bins_have_equal_mass_and_equal_scores_stay_together():
    generator = np.random.default_rng(7)
    scores = generator.random(400)
    labels = (generator.random(400) < scores).astype(np.int64)
    bins = bin_scores(labels, scores)
    assert len(bins.means) == 10
    assert bins.means[0] == pytest.approx(np.sort(scores)[:40].mean())
    assert bins.fractions[0] == pytest.approx(labels[np.argsort(scores)[:40]].mean())
    assert (bins.lower <= bins.fractions).all()
    assert (bins.fractions <= bins.upper).all()
    tied = bin_scores(labels, np.where(scores < 0.7, 0.2, 0.8))
    assert tied.means.tolist() == pytest.approx([0.2, 0.8])
    assert len(bin_scores(labels[:5], scores[:5]).means) == 1


def test_calibration_is_written_in_the_legend():
    figure = draw_calibration(make_split(KINDS["typical"]), "Calibration")
    text = "Expected calibration error 0.061\nSlope 0.840 (ideal 1), intercept not available (ideal 0)"
    assert text in read_texts(figure)
    assert "After recalibration" not in read_texts(figure)


@pytest.mark.parametrize("threshold", [0.02, 0.5, 0.98])
def test_the_marker_of_the_decision_curve_lies_inside(threshold):
    thresholds = np.linspace(0.01, 0.99, 99)
    curve = DecisionCurve(thresholds, 0.3 - 4 * thresholds**2, 0.3 - thresholds)
    (axes,) = draw_decision_curve(curve, threshold, "Decision").axes
    (marker,) = [line for line in axes.lines if len(line.get_xdata()) == 1]
    lowest, highest = axes.get_ylim()
    assert lowest < marker.get_ydata()[0] < highest


def test_decision_curve_shows_three_ways_and_the_threshold():
    curve = make_decision_curve(KINDS["typical"])
    texts = read_texts(draw_decision_curve(curve, 0.31, "Decision"))
    assert {"Treat by the model", "Treat all", "Treat none", "At 0.31, the chosen threshold"} <= set(texts)
    assert not any("chosen threshold" in text for text in read_texts(draw_decision_curve(curve, 0.999, "Decision")))


def test_learning_curves_divide_the_stages():
    plain = draw_learning_curves(make_history(8).drop(columns="stage"))
    assert not any("fine-tune" in text for text in read_texts(plain))
    for axes in draw_learning_curves(make_history(8)).axes:
        assert axes.get_title("right") == "after the line: fine-tune"
        assert any(list(line.get_xdata()) == [6.5, 6.5] for line in axes.lines)


def test_outcomes_without_cases_get_a_note():
    texts = read_texts(draw_explanations(make_cases(KINDS["small"], ["true positive", "true negative"])))
    assert texts.count("None among\nthe test images") == 2
    assert {"Lesion found", "Normal, called normal", "False positive", "Lesion missed"} <= set(texts)
    assert "no region\nincreased\nthe score" in texts
    assert texts.count("score 0.500") == 2


def test_no_more_than_three_cases_of_a_kind_are_shown():
    texts = read_texts(draw_explanations(make_cases(KINDS["small"], ["false positive"] * 5)))
    assert texts.count("score 0.500") == 3


def test_flow_adds_up_and_names_every_count():
    flow = make_flow(KINDS["typical"])
    texts = read_texts(draw_flow(flow))
    expected = {"n = 2,430", "n = 2,420", "n = 2,407", "Not used: 10", "reason 1: 2", "Copies excluded: 13"}
    assert expected | {"Held out", "27 images", "1 group", "40 groups", "12 groups"} <= set(texts)


def test_many_reasons_are_gathered():
    texts = read_texts(draw_flow(make_flow(KINDS["extreme"])))
    assert {"reason 7: 8", "reason 3: 4", "other reasons: 6"} <= set(texts)
    assert "reason 2: 3" not in texts


def test_leakage_shows_every_kind_of_blocks():
    assert {"2 in\norder", "16 in\norder", "similar\npair"} <= set(
        read_texts(draw_leakage(make_leakage(KINDS["typical"])))
    )


def test_folds_show_means_and_gap():
    assert {"0.940", "0.877", "inflation\n+0.063"} <= set(read_texts(draw_fold_comparison(*make_folds(KINDS["small"]))))
    reverse = np.array([0.8, 0.8]), np.array([0.81, 0.82])
    assert "no inflation\n-0.015" in read_texts(draw_fold_comparison(*reverse))


def test_pairs_name_both_images_and_their_distance():
    texts = read_texts(draw_pairs(make_pairs(KINDS["small"], 3), ("Test", "Training")))
    assert {"distance 0", "distance 0.01", "distance 0.02", "0123456789abcdef", "fedcba9876543210"} <= set(texts)


def test_long_ids_keep_both_ends():
    assert shorten_id(LONG_ID) == "a-hospita…00000001"
    assert shorten_id("0123456789abcdef") == "0123456789abcdef"
