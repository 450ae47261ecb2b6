"""Chart of the drift check: layout, scales and texts."""

import numpy as np
import pytest

from hip_mri.images.image_statistics import STATISTICS, compute_statistics
from hip_mri.monitoring.drift_chart import MAX_EXAMPLES, NUM_PANELS, ChartBatch, draw_drift
from hip_mri.monitoring.shift import measure_shifts
from tests.evaluation.charts.test_charts import NOTICE, list_overlaps, read_texts


def make_batch(seed: int, size: tuple[int, int], count: int) -> ChartBatch:
    images = list(np.random.default_rng(seed).integers(0, 256, (count, *size), np.uint8))
    return ChartBatch(np.array([compute_statistics(image) for image in images]), images)


def draw(reference: ChartBatch, new: ChartBatch, alpha: float | None = 0.01, num_statistics: int = len(STATISTICS)):
    shifts = measure_shifts(reference.statistics, new.statistics, alpha, 0)
    shifts.sort(key=lambda shift: -shift.effect)
    return shifts, draw_drift(shifts[:num_statistics], reference, new, NOTICE)


@pytest.mark.parametrize("num_statistics", [1, 4, len(STATISTICS)])
@pytest.mark.parametrize(
    ("size", "count"), [((40, 50), 20), ((400, 30), 1), ((30, 400), 3)], ids=["like", "one, tall", "three, wide"]
)
def test_it_is_drawn_whole_and_no_text_touches_another(size, count, num_statistics, monkeypatch):
    _, figure = draw(make_batch(0, (48, 48), 30), make_batch(1, size, count), num_statistics=num_statistics)
    assert NOTICE in read_texts(figure)
    assert list_overlaps(figure, monkeypatch) == []


@pytest.mark.parametrize("place", range(len(STATISTICS)))
def test_every_title_fits(place, monkeypatch):
    batch = make_batch(0, (48, 48), 8)
    shift = measure_shifts(batch.statistics, batch.statistics, 0.01, 0)[place]
    figure = draw_drift([shift] * NUM_PANELS, batch, batch)
    assert list_overlaps(figure, monkeypatch) == []


def test_panels_show_the_fractions_of_both_sides_and_the_outcome():
    reference, new = make_batch(0, (48, 48), 30), make_batch(1, (96, 96), 12)
    shifts, figure = draw(reference, new)
    panels = [axes for axes in figure.axes if axes.patches]
    assert len(panels) == NUM_PANELS
    texts = read_texts(figure)
    for axes, shift in zip(panels, shifts, strict=False):
        assert axes.get_title("left").lower() == shift.statistic.title.lower()
        *unit, outcome = axes.get_xlabel().splitlines()
        assert unit == ([shift.statistic.unit] if shift.statistic.unit else [])
        assert outcome == f"{shift.effect:.1f} standard deviations apart, p = {shift.p_value:.2g}"
        for stairs in axes.patches:
            assert stairs.get_data().values.sum() == pytest.approx(1)
    assert {"Training images (n = 30)", "New images (n = 12)", "48 x 48 pixels", "96 x 96 pixels"} <= set(texts)


def test_examples_have_one_scale():
    _, figure = draw(make_batch(0, (48, 40), 9), make_batch(1, (96, 20), 9))
    strips = [axes for axes in figure.axes if axes.images]
    assert len(strips) == 2 * MAX_EXAMPLES
    assert {(axes.get_xlim(), axes.get_ylim()) for axes in strips} == {((0, 40), (96, 0))}
    assert {tuple(axes.images[0].get_clim()) for axes in strips} == {(0, 255)}


def test_a_batch_that_was_not_compared_is_labeled():
    _, figure = draw(make_batch(0, (48, 48), 5), make_batch(1, (48, 48), 2), alpha=None)
    assert all(text.endswith("apart, not tested") for text in read_texts(figure) if "deviations" in text)
