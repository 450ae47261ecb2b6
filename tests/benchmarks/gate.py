"""How often the gate is wrong, and how often it detects a gain: `python -m tests.benchmarks.gate --looks 20000`.

A history is a test set, a champion and 24 retrainings of it, one after the other. Scores are binormal. By default those
of any two models correlate by 0.9 on the same image, half of what is particular to an image it shares with the others
of its patient, and of eleven images one has a lesion; a patient with lesions has two such images and two normal ones.
"""

import argparse
import json
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtri

from hip_mri.config import ReleaseSettings
from hip_mri.promotion.difference import Difference, bound_difference
from hip_mri.promotion.error_budget import find_alpha

NUM_LOOKS = 24
CORRELATION, WITHIN_PATIENT = 0.9, 0.5
CHAMPION_AUC = 0.90
SETTINGS = ReleaseSettings(num_looks=NUM_LOOKS)
MARGIN = SETTINGS.non_inferiority_margin
NUM_SUBSETS = 2048  # of the permutation test: fewer than the gate draws, which keeps the error and costs some power

SIZES = ((5, 5), (8, 12), (10, 10), (20, 30), (60, 90), (350, 525))  # patients with lesions, and without
SIMILAR, INDEPENDENT = 0.9, 0.0

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def make_test_set(num_lesions: int) -> tuple[Integers, Integers]:
    """Labels and patients of a test set with ten normal images per lesion, four images per patient."""
    num_with = num_lesions // 2
    num_without = (10 * num_lesions - 2 * num_with) // 4
    labels = np.concatenate([np.tile([1, 1, 0, 0], num_with), np.zeros(4 * num_without, np.int64)])
    return labels, np.repeat(np.arange(num_with + num_without), 4)


def make_patients(num_with: int, num_without: int, sizes: Integers) -> tuple[Integers, Integers]:
    """Labels and patients of a test set in which each patient has images of one class, `sizes` each."""
    patients = np.repeat(np.arange(num_with + num_without), sizes)
    return (patients < num_with).astype(np.int64), patients


def draw_history(
    generator: np.random.Generator,
    labels: Integers,
    patients: Integers,
    gain: float,
    num_looks: int,
    correlation: float = CORRELATION,
    within_patient: float = WITHIN_PATIENT,
    auc: float = CHAMPION_AUC,
    spread: float = 1.0,
) -> tuple[Floats, Floats]:
    """Scores of a champion, shape (num_images,), and of challengers, (num_looks, num_images).

    `gain` is in AUC; `spread` is the standard deviation of a challenger's lesions, in that of its normal images.
    """
    of_patients = generator.standard_normal((num_looks + 2, patients[-1] + 1))[:, patients]
    of_images = generator.standard_normal((num_looks + 2, len(labels)))
    parts = math.sqrt(within_patient) * of_patients + math.sqrt(1 - within_patient) * of_images
    noise = math.sqrt(correlation) * parts[0] + math.sqrt(1 - correlation) * parts[1:]
    noise[1:, labels == 1] *= spread
    distances = np.full(num_looks + 1, math.sqrt(1 + spread**2) * ndtri(auc + gain))
    distances[0] = math.sqrt(2) * ndtri(auc)
    scores = expit(noise + distances[:, None] * (labels - 0.5))
    return scores[0], scores[1:]


def count_accepted_losses(num_with: int, num_without: int, num_looks: int, margin: float, auc: float) -> float:
    """Models that lose the margin and are called non-inferior, per look, divided by the error that a look may spend."""
    generator, alpha = np.random.default_rng(0), find_alpha(1, SETTINGS)
    labels, patients = make_patients(num_with, num_without, np.full(num_with + num_without, 6))
    accepted = 0
    for _ in range(num_looks):
        champion, challengers = draw_history(generator, labels, patients, -margin, 1, within_patient=0.7, auc=auc)
        difference = bound_difference(labels, champion, challengers[0], patients, alpha, margin, NUM_SUBSETS)
        accepted += difference.excludes_loss
    return accepted / num_looks / alpha


def count_false_promotions(
    num_with: int, num_without: int, num_looks: int, *, has_uneven_patients: bool = False, **model: float
) -> float:
    """Promotions of models that are no better, per look, divided by the error that a look may spend.

    A patient has six images, or from one to about thirty, and two thirds of what is particular to an image is shared
    within the patient; `model` goes to `draw_history`.
    """
    generator, alpha, num_promoted = np.random.default_rng(0), find_alpha(1, SETTINGS), 0
    sizes = np.full(num_with + num_without, 6)
    for _ in range(num_looks):
        if has_uneven_patients:
            sizes = np.minimum(generator.geometric(1 / 6, len(sizes)), 30)
        labels, patients = make_patients(num_with, num_without, sizes)
        champion, challengers = draw_history(generator, labels, patients, 0.0, 1, within_patient=0.7, **model)
        difference = bound_difference(labels, champion, challengers[0], patients, alpha, MARGIN, NUM_SUBSETS)
        num_promoted += difference.interval[0] > 0
    return num_promoted / num_looks / alpha


def measure_sizes(num_looks: int) -> Iterator[dict[str, object]]:
    """False promotions of models with ROC curves of the same and of another shape, in test sets of many sizes."""
    models = {"same shape": {}, "lesions spread": {"spread": 1.6}, "uneven patients": {"has_uneven_patients": True}}
    for num_with, num_without in SIZES:
        looks = max(400, num_looks * 50 // max(50, num_with + num_without))
        for name, options in models.items():
            for correlation in (SIMILAR, INDEPENDENT):
                yield {
                    "patients": f"{num_with} + {num_without}",
                    "models": name,
                    "correlation": correlation,
                    "looks": looks,
                    "false_promotions_in_nominal_by_auc": {
                        auc: round(
                            count_false_promotions(
                                num_with, num_without, looks, auc=auc, correlation=correlation, **options
                            ),
                            2,
                        )
                        for auc in (0.75, 0.9)
                    },
                }
        accepted = {
            auc: round(count_accepted_losses(num_with, num_without, looks, MARGIN, auc), 2) for auc in (0.75, 0.9, 0.97)
        }
        yield {"patients": f"{num_with} + {num_without}", "looks": looks, "accepted_losses_in_nominal_by_auc": accepted}


def look_back(
    num_lesions: int, gain: float, num_histories: int, num_looks: int, alpha: float, seed: int = 0
) -> Iterator[list[Difference]]:
    """The comparisons of the gate, by history and by look."""
    generator = np.random.default_rng(seed)
    labels, patients = make_test_set(num_lesions)
    for _ in range(num_histories):
        champion, challengers = draw_history(generator, labels, patients, gain, num_looks)
        yield [
            bound_difference(labels, champion, scores, patients, alpha, MARGIN, NUM_SUBSETS) for scores in challengers
        ]


def find_p_values(num_lesions: int, gain: float, num_histories: int, num_looks: int, seed: int = 0) -> Floats:
    """One-sided p-values of `look_back`, shape (num_histories, num_looks); superiority is shown below alpha."""
    histories = look_back(num_lesions, gain, num_histories, num_looks, 0.05, seed)
    return np.array([[look.p_value for look in history] for history in histories])


def share_alpha(settings: ReleaseSettings, num_looks: int = NUM_LOOKS) -> Floats:
    return np.array([find_alpha(number, settings) for number in range(1, num_looks + 1)])


def measure(num_lesions: int, num_histories: int) -> dict[str, object]:
    """Error and power at one size of the test set, for both ways to share the budget."""
    same = find_p_values(num_lesions, 0.0, num_histories, NUM_LOOKS)
    worse = find_p_values(num_lesions, -0.05, num_histories, NUM_LOOKS, seed=1)
    better = find_p_values(num_lesions, 0.03, 2 * num_histories, 1, seed=2)[:, 0]
    even = find_alpha(1, SETTINGS)
    kept_out = [not look.excludes_loss for (look,) in look_back(num_lesions, -0.05, num_histories, 1, even, 3)]
    results: dict[str, object] = {"lesions": num_lesions, "images": 11 * num_lesions}
    for spending in ("even", "falling"):
        alpha = share_alpha(SETTINGS.model_copy(update={"spending": spending}))
        results[spending] = {
            "histories_with_a_false_promotion": float((same <= alpha).any(axis=1).mean()),
            "losses_of_5_points_kept_out": float((worse > alpha).mean()),
            "histories_that_keep_out_all_such_losses": float((worse > alpha).all(axis=1).mean()),
            "power_for_3_points_by_look": {
                look: float((better <= alpha[look - 1]).mean()) for look in (1, 3, 6, 12, 24)
            },
        }
    results["power_for_3_points_without_a_budget"] = float((better <= 0.05).mean())
    results["false_promotion_without_a_budget"] = float((same <= 0.05).any(axis=1).mean())
    results["losses_of_5_points_kept_out_if_non_inferior_promotes"] = float(np.mean(kept_out))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--lesions", type=int, nargs="+", default=[40, 350])
    parser.add_argument("--looks", type=int, default=20_000, help="of test sets with up to 50 patients")
    given = parser.parse_args()
    for row in measure_sizes(given.looks):
        print(json.dumps(row), flush=True)
    print(json.dumps([measure(lesions, given.histories) for lesions in given.lesions], indent=2))


if __name__ == "__main__":
    main()
