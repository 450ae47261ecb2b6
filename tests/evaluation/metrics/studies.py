"""Data for metrics: small random ones with many ties, and simulated studies with known parameters."""

import math

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

quick = settings(max_examples=60, deadline=None, database=None)

SCORES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1, allow_subnormal=False)
"""Few values, so that ties are common, among all."""

IMAGES = st.lists(st.tuples(st.integers(0, 1), SCORES), min_size=2, max_size=40).filter(
    lambda images: len({label for label, _ in images}) == 2
)

DISTANCE, PATIENT_DEVIATION, IMAGE_DEVIATION = 1.36, 0.8, 0.8
TRUE_AUC = 0.5 * (1 + math.erf(DISTANCE / math.hypot(PATIENT_DEVIATION, IMAGE_DEVIATION) / 2))
"""Of two images of different patients, about 0.80; pairs within a patient are too few to count."""

THRESHOLD = 0.4
SLOPE, OFFSET = 1.3, -1.0


def find_true_sensitivity():
    """Expected fraction of lesions whose score reaches the threshold."""
    cut = (math.log(THRESHOLD / (1 - THRESHOLD)) - OFFSET) / SLOPE + DISTANCE / 2
    return 0.5 * math.erfc((cut - DISTANCE) / math.hypot(PATIENT_DEVIATION, IMAGE_DEVIATION) / math.sqrt(2))


def draw_study(generator, num_patients):
    """Draw labels, scores and patients; a random effect of the patient is added to the scores of all their images.

    40% of the patients have lesions, on about 60% of their images; each patient has one to eight images.
    """
    patients = np.repeat(np.arange(num_patients), generator.integers(1, 9, num_patients))
    has_lesion = generator.random(num_patients) < 0.4
    labels = (has_lesion[patients] & (generator.random(len(patients)) < 0.6)).astype(int)
    signal = DISTANCE * (labels - 0.5) + generator.normal(0, PATIENT_DEVIATION, num_patients)[patients]
    signal += generator.normal(0, IMAGE_DEVIATION, len(patients))
    return labels, 1 / (1 + np.exp(-(OFFSET + SLOPE * signal))), patients
