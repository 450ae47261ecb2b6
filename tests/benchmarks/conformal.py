"""Measures the errors of decisions on simulated studies with groups: `python -m tests.benchmarks.conformal`.

Each study draws validation patients and a new batch of patients, with a random effect of the patient on their scores.
`similar sizes`: as in `tests.evaluation.metrics.studies`, one to eight images, both classes in one patient. `unequal
sizes`: one class per patient, sizes from a lognormal distribution (median 3, one in 50 above 30), and a patient effect
three times the deviation of single images. Methods:

- `hierarchical`: that of `hip_mri.evaluation.conformal`, all images, weighted by group;
- `one per group`: one random image of each group;
- `maximum`: of each group the image that is most like the other class, as one image;
- `images`: all images as if they were independent, without groups.

Printed for each number of patients and method: the fraction of studies that could be calibrated, the fraction of
uncertain images, and the error of each class, of a random image of a random new group and of all new images alike.
"""

import argparse
import itertools
from collections import defaultdict

import numpy as np

from hip_mri.evaluation.conformal import calibrate, decide
from tests.evaluation.metrics.studies import draw_study

ERROR_RATE, THRESHOLD = 0.1, 0.4
NUM_PATIENTS = (40, 60, 120, 400)
NUM_NEW_PATIENTS = 1000


def draw_unequal_study(generator, num_patients):
    """Draw labels, scores and patients with very unequal numbers of images."""
    sizes = np.ceil(generator.lognormal(1.0, 1.2, num_patients)).astype(int)
    patients = np.repeat(np.arange(num_patients), sizes)
    labels = (generator.random(num_patients) < 0.4)[patients].astype(int)
    signal = 1.36 * (labels - 0.5) + generator.normal(0, 1.07, num_patients)[patients]
    return labels, 1 / (1 + np.exp(-signal - generator.normal(0, 0.36, len(patients)))), patients


DRAW = {"similar sizes": draw_study, "unequal sizes": draw_unequal_study}


def pick_one_per_group(labels, scores, groups, generator, *, is_maximum):
    """Positions of one image of each class of each group: a random one, or the one most like the other class."""
    keys = np.where(labels == 1, -scores, scores) if is_maximum else generator.random(len(scores))
    order = np.lexsort((-keys, labels, groups))
    _, first = np.unique(np.stack([groups, labels])[:, order], axis=1, return_index=True)
    return order[first]


def list_methods(labels, scores, groups, generator):
    """Labels, scores and groups that each method calibrates on."""
    one = pick_one_per_group(labels, scores, groups, generator, is_maximum=False)
    maximum = pick_one_per_group(labels, scores, groups, generator, is_maximum=True)
    return {
        "hierarchical": (labels, scores, groups),
        "one per group": (labels[one], scores[one], None),
        "maximum": (labels[maximum], scores[maximum], None),
        "images": (labels, scores, None),
    }


def measure(draw, num_patients, num_studies, generator):
    """Return by method the mean of each figure over the studies that could be calibrated."""
    figures = defaultdict(list)
    for _ in range(num_studies):
        study, (labels, scores, groups) = draw(generator, num_patients), draw(generator, NUM_NEW_PATIENTS)
        for method, cases in list_methods(*study, generator).items():
            rule = calibrate(*cases, THRESHOLD, ERROR_RATE)
            if rule.reason:
                continue
            decisions = decide(scores, rule)
            found = [100.0 * np.mean(decisions == "uncertain")]
            for label, other in enumerate(("osseous_lesion", "normal")):
                own = labels == label
                counts = np.bincount(groups[own])
                by_group = np.bincount(groups[own], decisions[own] == other)[counts > 0] / counts[counts > 0]
                found += [100 * by_group.mean(), 100 * np.mean(decisions[own] == other)]
            figures[method].append(found)
    return {method: (len(found), np.mean(found, axis=0)) for method, found in figures.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = np.random.default_rng(arguments.seed)
    print(f"{'%':40}calibrated  uncertain  normal: group  images  lesion: group  images")
    for (name, draw), num_patients in itertools.product(DRAW.items(), NUM_PATIENTS):
        measured = measure(draw, num_patients, arguments.studies, generator)
        for method, (count, (uncertain, *errors)) in measured.items():
            numbers = f"{uncertain:11.1f}{errors[0]:15.1f}{errors[1]:8.1f}{errors[2]:15.1f}{errors[3]:8.1f}"
            heading = f"{name}, {num_patients} patients, {method}"
            print(f"{heading:44}{100 * count / arguments.studies:6.0f}{numbers}")


if __name__ == "__main__":
    main()
