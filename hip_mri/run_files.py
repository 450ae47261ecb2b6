"""Names of the files of a run folder; a version holds copies of some of them."""

from typing import Final

METRICS_FILE: Final = "metrics.json"
"""All metrics and the records that they are based on."""

PREDICTIONS_FILE: Final = "predictions.csv"
"""image_id, split, label, score and decision of every image."""

MANIFEST_FILE: Final = "manifest.csv"
"""Every file of the source by pseudonym; see `MANIFEST_COLUMNS`."""

NEIGHBORS_FILE: Final = "neighbours.csv"
"""Nearest training image of each test image."""

LEAKAGE_FILE: Final = "leakage.csv"
"""AUC of each draw of the leakage test."""

SHORTCUTS_FILE: Final = "shortcuts.csv"
"""Numbers of the test images that need no anatomy, and the scores of classifiers that use them alone."""

LABEL_REVIEW_FILE: Final = "label_review.csv"
"""Every image in use, ranked by how probably its label is wrong."""

CORRECTIONS_FILE: Final = "corrections.csv"
"""Corrected labels, also of images that corrections exclude; missing if none were given."""

TRAINING_SIZES_FILE: Final = "training_sizes.csv"
"""Cross-validated AUC by number of training groups."""

FOLDS_FILE: Final = "folds.csv"
"""Scores of cross-validation; missing if it was left out."""

HISTORY_FILE: Final = "history.csv"
"""One row per epoch."""

CONFIG_FILE: Final = "config.yaml"
"""Every setting."""

MODEL_FILE: Final = "model.keras"
"""The complete network."""

NOVELTY_FILE: Final = "novelty.npz"
"""Out-of-distribution detector."""

DISTANCES_FILE: Final = "distances.csv"
"""Distance of images from the training images, by the detector."""

REPORT_FILE: Final = "report.html"
REVIEW_FILE: Final = "review.html"
"""Images of the run with their scores, to look at and to mark."""

MODEL_CARD_FILE: Final = "model_card.md"
CHECKLIST_FILE: Final = "checklist.md"

BORDERS_FILE: Final = "borders.csv"
"""The least certain borders between inferred groups; missing if nothing was inferred."""

PATIENTS_DRAFT_FILE: Final = "patients_draft.csv"
"""Inferred groups by name of the source file; private, and not among the recorded hashes."""

FIGURES_FOLDER: Final = "figures"
