"""Titles, captions and notices that figures and reports share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import yaml

SPLIT_TITLES: Final = {"train": "Training", "val": "Validation", "test": "Test"}

NOT_AVAILABLE: Final = "not available"
"""Text for a value that was not computed or is not defined."""

EVIDENCE_TITLES: Final = {
    "patient_id": "the table of patients",
    "patient_pattern": "their file names",
    "study": "their DICOM study",
    "series": "their series of slices",
    "similar": "near duplicates",
    "order": "the order of files (inferred)",
    "features": "similar image features (inferred)",
}
"""Kinds of evidence that images belong to one group."""

SYNTHETIC_NOTICE: Final = (
    "SYNTHETIC DATA: the images are phantoms drawn by this program, not images of patients. The results show that the "
    "pipeline works; they say nothing about hip MRI."
)


@dataclass(frozen=True)
class Caption:
    """Sentences of `RunReport`: title, description for readers who cannot see the figure, and how to read it."""

    title: str
    alternative: str
    text: str


def _read_captions() -> dict[str, Caption]:
    content = (files("hip_mri.evaluation.charts") / "captions.yaml").read_text(encoding="utf-8")
    return {name: Caption(**caption) for name, caption in yaml.safe_load(content).items()}


CAPTIONS: Final = _read_captions()
"""Captions by the file name of the figure without suffix."""


def name_label(label: str) -> str:
    """Write the name of a class as words."""
    return label.replace("_", " ")


def name_group(grouping: Mapping[str, Any]) -> str:
    """Name the sets of images that stay in one split: `patient` or `group`.

    Args:
        grouping: Part of `metrics.json`.

    Returns:
        `patient` if the patient of every image is known and no near duplicates relate two patients.
    """
    is_patient = grouping.get("is_patient_level") and grouping["num_groups"] == grouping["num_patients"]
    return "patient" if is_patient else "group"


def collect_notices(
    *,
    is_synthetic: bool,
    weights_notice: str,
    scaling_notice: str = "",
    pretraining_notice: str = "",
    num_held_out: int = 0,
) -> tuple[str, ...]:
    """Collect the warnings that every output of a run shows.

    Args:
        is_synthetic: Whether the images are synthetic.
        weights_notice: `Weights.notice`; empty if there is no warning.
        scaling_notice: `Backbone.notice`; empty if there is no warning.
        pretraining_notice: See `explain_pretraining`; empty if there is no warning.
        num_held_out: Images that are in no split.

    Returns:
        Sentences that begin with a heading in capitals and a colon, as `summarize_notices` expects.
    """
    held_out = (
        f"IMAGES HELD OUT: {num_held_out:,} images are in no split, since they are related to images of another split "
        "or to the locked test set."
    )
    of_source = SYNTHETIC_NOTICE if is_synthetic else ""
    of_backbone = (weights_notice, scaling_notice, pretraining_notice)
    notices = (of_source, *of_backbone, held_out if num_held_out else "")
    return tuple(notice for notice in notices if notice)


def explain_pretraining(pretrained_on: str | None, collection: str | None) -> str:
    """Describe that the weights of the backbone may come from training on the images of the run.

    Args:
        pretrained_on: Collection that the weights were trained on.
        collection: Collection that the images come from; `None` if it is not known.

    Returns:
        A notice; empty if the weights were trained on ImageNet or on another collection than the images'.
    """
    if pretrained_on is None or _simplify(pretrained_on).startswith("imagenet"):
        return ""
    if collection is None:
        return (
            f"IMAGES POSSIBLY SEEN: the weights of the backbone were trained on {pretrained_on}. If the images come "
            "from it, the backbone has seen them with their labels, and the test metrics are no estimate for new "
            "patients. Name the collection of the images in data.collection."
        )
    if _simplify(collection) != _simplify(pretrained_on):
        return ""
    return (
        f"IMAGES SEEN BY THE BACKBONE: its weights were trained on {pretrained_on}, from which the images come. It has "
        "seen them with their labels: the test metrics are no estimate for new patients."
    )


def _simplify(name: str) -> str:
    """Remove case, blanks and dashes, in which names of collections differ."""
    return "".join(character for character in name.casefold() if character.isalnum())


def summarize_notices(notices: Iterable[str]) -> str:
    """Shorten notices to their headings, for the banner of a figure: `SYNTHETIC DATA · RANDOM WEIGHTS`."""
    return " · ".join(notice.partition(":")[0] for notice in notices)
