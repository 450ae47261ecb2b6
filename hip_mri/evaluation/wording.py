"""Words that figures and report share: names of splits and classes, notices, and how to read a picture."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

SPLIT_TITLES: Final = {"train": "Training", "val": "Validation", "test": "Test"}

SYNTHETIC_NOTICE: Final = (
    "SYNTHETIC DATA: the images are phantoms drawn by this program, no patient's. The figures show that the pipeline "
    "works; they say nothing about hip MRI."
)


def name_label(label: str) -> str:
    """Write the name of a class as words."""
    return label.replace("_", " ")


def collect_notices(*, is_demo: bool, weights_notice: str) -> tuple[str, ...]:
    """Gather what every output of a run must say about itself.

    Args:
        is_demo: Whether the images are synthetic.
        weights_notice: `Weights.notice`; empty when there is nothing to warn of.

    Returns:
        Sentences that begin with a heading in capitals and a colon, the form that `summarize_notices` reads.
    """
    return tuple(notice for notice in (SYNTHETIC_NOTICE if is_demo else "", weights_notice) if notice)


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
    "roc": Caption(
        "ROC curve",
        "Line chart of sensitivity against 1 minus specificity, for test and validation images.",
        "Each point of a line is one possible threshold. The further a line bends to the upper left, the better the "
        "two classes are told apart; the dotted diagonal is guessing. A ring marks the threshold in use. Test and "
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
        "Two tables of counts, true class by called class, for test and validation images.",
        "Rows are the truth, columns what the model called; percentages are of the row. Lower left: lesions missed. "
        "Upper right: false alarms.",
    ),
    "learning_curves": Caption(
        "Learning curves",
        "Two line charts by epoch, loss and accuracy, for training and validation images.",
        "Falling validation loss: still learning. Validation loss rising while training loss falls: overfitting. "
        "The training line is measured while the weights still move, so it can lie above the validation line at first.",
    ),
    "contrast_samples": Caption(
        "Contrast enhancement",
        "Pairs of images of both classes, before and after contrast enhancement.",
        "Left of each pair the image as it came, right the image as the network sees it, after CLAHE and resizing. "
        "Anatomy should stay, with faint structure easier to see; blotches or noise ask for a lower clip limit.",
    ),
}
"""Captions by the picture's file name without ending."""


def find_caption(name: str) -> Caption:
    """Caption of a picture, by its file name without ending; a plain one for a picture that has none."""
    title = name.replace("_", " ").capitalize()
    return CAPTIONS.get(name, Caption(title, title, ""))
