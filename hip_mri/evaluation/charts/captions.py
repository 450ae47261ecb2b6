"""Words that figures and report share: names of splits and classes, notices, and how to read a picture."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

SPLIT_TITLES: Final = {"train": "Training", "val": "Validation", "test": "Test"}

NOT_AVAILABLE: Final = "not available"
"""Stands for a figure that was not taken or is not defined."""

SYNTHETIC_NOTICE: Final = (
    "SYNTHETIC DATA: the images are phantoms drawn by this program, no patient's. The figures show that the pipeline "
    "works; they say nothing about hip MRI."
)


def name_label(label: str) -> str:
    """Write the name of a class as words."""
    return label.replace("_", " ")


EVIDENCE_NAMES: Final = {
    "patient_id": "the table of patients",
    "patient_pattern": "their file names",
    "series": "their series of slices",
    "similar": "near duplicates",
}


def name_evidence(kind: str) -> str:
    """Write a kind of evidence for a group as words."""
    return EVIDENCE_NAMES.get(kind, kind)


def collect_notices(*, is_synthetic: bool, weights_notice: str, num_held_out: int = 0) -> tuple[str, ...]:
    """Gather what every output of a run must say about itself.

    Args:
        is_synthetic: Whether the images are synthetic.
        weights_notice: `Weights.notice`; empty when there is nothing to warn of.
        num_held_out: Images that are used in no split.

    Returns:
        Sentences that begin with a heading in capitals and a colon, the form that `summarize_notices` reads.
    """
    held_out = (
        f"IMAGES HELD OUT: {num_held_out:,} images are in no split, since they are tied to images of another split or "
        "to the locked test set."
    )
    notices = (SYNTHETIC_NOTICE if is_synthetic else "", weights_notice, held_out if num_held_out else "")
    return tuple(notice for notice in notices if notice)


def summarize_notices(notices: Iterable[str]) -> str:
    """Shorten notices to their headings, for a strip on a picture: `SYNTHETIC DATA · RANDOM WEIGHTS`."""
    return " · ".join(notice.partition(":")[0] for notice in notices)


@dataclass(frozen=True)
class Caption:
    """What stands with a picture.

    Attributes:
        title: Heading.
        alternative: What the picture shows, for those who do not see it.
        text: How to read it.
    """

    title: str
    alternative: str
    text: str


CAPTIONS: Final = {
    "split_flow": Caption(
        "From the source to the splits",
        "Flow diagram: entries of the source, readable images, images in use, and the splits with their counts.",
        "Boxes to the right were put aside. A group holds images that must not be parted, such as one patient's.",
    ),
    "roc": Caption(
        "ROC curve",
        "Line chart of sensitivity against 1 minus specificity, for test and validation images.",
        "Each point of a line is one possible threshold. The further a line bends to the upper left, the better the "
        "two classes are told apart; the dotted diagonal is guessing. A ring marks the threshold in use, a diamond "
        "0.5. The band shows, point by point, where the curves of other such test images would lie. Test and "
        "validation lying close together speaks against a lucky split.",
    ),
    "precision_recall": Caption(
        "Precision-recall curve",
        "Line chart of precision against recall, for test and validation images.",
        "Going right, more lesions are found; height is the share of alarms that are right. Guessing stays on the "
        "dotted line, the share of lesions in these images. Where lesions are rarer than here, precision is lower "
        "at the same recall.",
    ),
    "confusion_matrix": Caption(
        "Confusion matrices",
        "Tables of counts, true class by called class, for test and validation images.",
        "Rows are the truth, columns what the model called; percentages are of the row. Lower left of a table: lesions "
        "missed. Upper right: false alarms. A second row of tables shows 0.5 where another threshold is in use.",
    ),
    "score_histogram": Caption(
        "Scores by class",
        "Two histograms of the scores of the test images, one per class, with the thresholds as vertical lines.",
        "What lies right of the solid line is called a lesion. Upper panel right of it: false alarms; lower panel left "
        "of it: lesions missed. Heaps near the line change sides with small changes of the threshold.",
    ),
    "calibration": Caption(
        "Calibration",
        "Line chart of the observed share of lesions against the mean score of each bin, above a histogram.",
        "On the diagonal a score can be read as a probability. Points below it: scores too high; above it: too low. "
        "The bars are 95% intervals that take images as independent. Where lesions are rarer, it can be off.",
    ),
    "decision_curve": Caption(
        "Decision curve",
        "Line chart of net benefit against the threshold probability, for the model, acting always and acting never.",
        "The horizontal axis is the risk at which one would act; net benefit counts the lesions found less the false "
        "alarms, weighed by that risk. The model is of use where its line is the highest.",
    ),
    "learning_curves": Caption(
        "Learning curves",
        "Two line charts by epoch, loss and accuracy, for training and validation images.",
        "Falling validation loss: still learning. Validation loss rising while training loss falls: overfitting. "
        "The training line is measured while the weights still move, so it can lie above the validation line at first. "
        "The ring marks the lowest validation loss; unless training was told to stop early, the last epoch is used.",
    ),
    "explanations": Caption(
        "Where the model looked",
        "Test images beside the same images with a heat map, for right and wrong calls of both classes.",
        "The most confident calls of each kind, one image of a group at most. Warm colour and the contour show which "
        "places raised the score most, by Grad-CAM; each image has a scale of its own, so faint and strong evidence "
        "look alike. Heat outside the bone hints at a shortcut; heat in the right place proves no understanding.",
    ),
    "contrast_samples": Caption(
        "Contrast enhancement",
        "Pairs of images of both classes, before and after contrast enhancement.",
        "Left of each pair the image as it came, right the image as the network sees it, after CLAHE and resizing. "
        "Anatomy should stay, with faint structure easier to see; blotches or noise ask for a lower clip limit.",
    ),
    "neighbour_distances": Caption(
        "Distance to the nearest image",
        "Cumulative distributions of three kinds of nearest-neighbour distance.",
        "If test images lay as close to training images as images of one group lie to each other, the solid line "
        "would run along the dotted one, and the split would leak. It should run along the dashed one, between groups.",
    ),
    "close_pairs": Caption(
        "Closest pairs of test and training image",
        "Pairs of the most similar images that stand on both sides of the split.",
        "Look whether any pair shows the same hip. If so, the split leaks, and the test figures are too optimistic.",
    ),
    "fold_comparison": Caption(
        "What splitting by image would have shown",
        "Dot chart of the AUC of cross-validation with folds by image and folds by group, a ring per fold.",
        "Folds by image can hold images of one group on both sides. The gap between the two means is what that would "
        "have added to the AUC without the model being any better.",
    ),
}
"""Captions by the picture's file name without ending."""


def find_caption(name: str) -> Caption:
    """Caption of a picture, by its file name without ending; a plain one for a picture that has none."""
    title = name.replace("_", " ").capitalize()
    return CAPTIONS.get(name, Caption(title, title, ""))
