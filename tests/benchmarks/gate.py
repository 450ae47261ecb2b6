"""How often the gate is wrong, and how often it detects a gain: `python -m tests.benchmarks.gate --histories 1000`.

A history is a test set, a champion and 24 retrainings of it, one after the other. Scores are binormal; those of any
two models correlate by 0.9 on the same image, and half of what is peculiar to an image it shares with the others of
its patient. Of eleven images one has a lesion; a patient with lesions has two such images and two normal ones.
"""

import argparse
import json
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtri

from hip_mri.config import ReleaseSettings
from hip_mri.promotion.error_budget import find_alpha
from hip_mri.promotion.gate import Difference, bound_difference

NUM_LOOKS = 24
CORRELATION, WITHIN_PATIENT = 0.9, 0.5
CHAMPION_AUC = 0.90
SETTINGS = ReleaseSettings(num_looks=NUM_LOOKS)

Floats = NDArray[np.float64]


def make_test_set(num_lesions: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels and patients of a test set with ten normal images per lesion, four images per patient."""
    num_with = num_lesions // 2
    num_without = (10 * num_lesions - 2 * num_with) // 4
    labels = np.concatenate([np.tile([1, 1, 0, 0], num_with), np.zeros(4 * num_without, np.int64)])
    return labels, np.repeat(np.arange(num_with + num_without), 4)


def draw_history(
    generator: np.random.Generator, labels: NDArray[np.int64], patients: NDArray[np.int64], gain: float, num_looks: int
) -> tuple[Floats, Floats]:
    """Scores of a champion, shape (num_images,), and of challengers, (num_looks, num_images); `gain` is in AUC."""
    of_patients = generator.standard_normal((num_looks + 2, patients[-1] + 1))[:, patients]
    of_images = generator.standard_normal((num_looks + 2, len(labels)))
    parts = math.sqrt(WITHIN_PATIENT) * of_patients + math.sqrt(1 - WITHIN_PATIENT) * of_images
    noise = math.sqrt(CORRELATION) * parts[0] + math.sqrt(1 - CORRELATION) * parts[1:]
    distances = math.sqrt(2) * ndtri([CHAMPION_AUC, *[CHAMPION_AUC + gain] * num_looks])
    scores = expit(noise + distances[:, None] * (labels - 0.5))
    return scores[0], scores[1:]


def look_back(
    num_lesions: int, gain: float, num_histories: int, num_looks: int, alpha: float, seed: int = 0
) -> Iterator[list[Difference]]:
    """The comparisons of the gate, by history and by look."""
    generator = np.random.default_rng(seed)
    labels, patients = make_test_set(num_lesions)
    for _ in range(num_histories):
        champion, challengers = draw_history(generator, labels, patients, gain, num_looks)
        yield [bound_difference(labels, champion, scores, patients, alpha) for scores in challengers]


def find_p_values(num_lesions: int, gain: float, num_histories: int, num_looks: int, seed: int = 0) -> Floats:
    """One-sided p-values of `look_back`, shape (num_histories, num_looks); superiority is shown below alpha."""
    histories = look_back(num_lesions, gain, num_histories, num_looks, 0.05, seed)
    return np.array([[1.0 if look.p_value is None else look.p_value for look in history] for history in histories])


def share_alpha(settings: ReleaseSettings, num_looks: int = NUM_LOOKS) -> Floats:
    return np.array([find_alpha(number, settings) for number in range(1, num_looks + 1)])


def measure(num_lesions: int, num_histories: int) -> dict[str, object]:
    """Error and power at one size of the test set, for both ways to share the budget."""
    same = find_p_values(num_lesions, 0.0, num_histories, NUM_LOOKS)
    worse = find_p_values(num_lesions, -0.05, num_histories, NUM_LOOKS, seed=1)
    better = find_p_values(num_lesions, 0.03, 2 * num_histories, 1, seed=2)[:, 0]
    even = find_alpha(1, SETTINGS)
    lower = [[look.interval[0] for look in row] for row in look_back(num_lesions, -0.05, num_histories, 1, even, 3)]
    results: dict[str, object] = {"lesions": num_lesions, "images": 11 * num_lesions}
    for spending in ("even", "falling"):
        alpha = share_alpha(SETTINGS.model_copy(update={"spending": spending}))
        results[spending] = {
            "histories_with_a_false_promotion": float((same < alpha).any(axis=1).mean()),
            "losses_of_5_points_kept_out": float((worse >= alpha).mean()),
            "histories_that_keep_out_all_such_losses": float((worse >= alpha).all(axis=1).mean()),
            "power_for_3_points_by_look": {
                look: float((better < alpha[look - 1]).mean()) for look in (1, 3, 6, 12, 24)
            },
        }
    results["power_for_3_points_without_a_budget"] = float((better < 0.05).mean())
    results["false_promotion_without_a_budget"] = float((same < 0.05).any(axis=1).mean())
    margin = SETTINGS.non_inferiority_margin
    results["losses_of_5_points_kept_out_if_non_inferior_promotes"] = float((np.array(lower) <= -margin).mean())
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--lesions", type=int, nargs="+", default=[40, 350])
    given = parser.parse_args()
    print(json.dumps([measure(lesions, given.histories) for lesions in given.lesions], indent=2))


if __name__ == "__main__":
    main()
