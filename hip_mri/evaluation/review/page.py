"""Writes the page `review.html` of a run, and checks its figures.

The page is one file that loads nothing: its style sheet and its script are allowed by their hash, and nothing else is.
Data and pictures are JSON in it.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from hip_mri.config import LABELS
from hip_mri.dataset.identities import ATTRIBUTE_PREFIX
from hip_mri.errors import EvaluationError
from hip_mri.evaluation.charts.captions import SPLIT_TITLES, name_label
from hip_mri.evaluation.charts.image_sheets import ExplainedCase
from hip_mri.evaluation.conformal import UNCERTAIN, read_image_rule
from hip_mri.evaluation.figure_data import RunImages
from hip_mri.evaluation.metrics.results import Scores
from hip_mri.evaluation.report.run_report import TITLE, RunReport
from hip_mri.evaluation.report.templates import load_templates
from hip_mri.evaluation.review.pictures import EncodedPictures, encode_pictures
from hip_mri.evaluation.review.reviewed_images import (
    MAX_IMAGES,
    NUM_STEPS,
    SPLIT_ORDER,
    collect_images,
    count_calls,
    list_columns,
    rank_informative,
)
from hip_mri.hashes import digest
from hip_mri.storage import write_bytes

MAX_PAGE_BYTES: Final = 30_000_000
"""Size that the page stays below."""

MAX_PICTURE_CHARACTERS: Final = 27_500_000
"""Part of it that pictures may take; the rest is for the data of `MAX_IMAGES` images."""

OUTCOMES: Final = (
    *(("TP", "● TP lesion found"), ("TN", "○ TN normal, called normal")),
    *(("FP", "▲ FP normal, called lesion"), ("FN", "▼ FN lesion missed")),
)
"""Outcomes and their titles in the filter."""

_TEMPLATES: Final = load_templates("hip_mri.evaluation.review")

_DATA: Final = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


class Inline(NamedTuple):
    """A style sheet or script in the page, and the hash by which the page's policy allows it."""

    text: Markup
    hash: str


def write_review(
    file: Path,
    run: RunReport,
    scores: Scores,
    distances: pd.DataFrame | None,
    images: RunImages,
    explained: Sequence[ExplainedCase],
    num_threads: int,
    max_images: int = MAX_IMAGES,
) -> None:
    """Write the page.

    Args:
        file: Such as `review.html` in the folder of the run.
        run: Facts of the run.
        scores: Tables of the run.
        distances: See `collect_images`.
        images: Reads the images.
        explained: Images with heat maps.
        num_threads: Threads that read and encode images.
        max_images: Images that are shown; of more, the most informative ones.

    Raises:
        EvaluationError: The run has no label review.
        WorkspaceError: An image cannot be read, or the file cannot be written.
    """
    metrics, min_size = run.metrics, run.config["evaluation"]["min_subgroup_size"]
    collected, attributes = collect_images(scores, distances, read_image_rule(metrics), min_size)
    ranked = rank_informative(collected, metrics["threshold"])
    shown, others = ranked.head(max_images), ranked.iloc[max_images:]
    pictures = encode_pictures(list(shown["image_id"]), images, explained, MAX_PICTURE_CHARACTERS, num_threads)
    has_clahe = run.config["preprocessing"]["clahe_clip_limit"] > 0
    data = describe_data(metrics, shown, others, attributes, has_clahe=has_clahe)
    write_bytes(file, render_review(run, data, pictures).encode())


def describe_data(
    metrics: Mapping[str, Any],
    shown: pd.DataFrame,
    others: pd.DataFrame,
    attributes: Sequence[str],
    *,
    has_clahe: bool = True,
) -> dict[str, Any]:
    """Describe the images for the script.

    Args:
        metrics: Content of `metrics.json`.
        shown: Images of the page; see `collect_images`.
        others: The other images of the run, which the figures of a threshold count.
        attributes: Columns for subgroups.
        has_clahe: Whether the contrast of the images was equalized.
    """
    columns = list_columns(shown.sort_values("rank"))
    return {
        "key": digest([metrics["threshold"], columns["image_id"], columns["score"]])[:16],
        "threshold": metrics["threshold"],
        "num_images": len(shown) + len(others),
        "num_steps": NUM_STEPS,
        "input_title": "Input of the network (after CLAHE)" if has_clahe else "Input of the network",
        "labels": list(LABELS),
        "splits": SPLIT_TITLES,
        "attributes": list(attributes),
        "images": columns,
        "others": count_calls(others, metrics["threshold"]) if len(others) else None,
    }


def render_review(run: RunReport, data: Mapping[str, Any], pictures: EncodedPictures) -> str:
    """Render the page."""
    images, test = data["images"], run.metrics["test"]
    projected = test["at_threshold"]["at_prevalences"]
    prevalence = projected[0]["prevalence"] if projected else test["num_lesions"] / test["num_images"]
    return _TEMPLATES.get_template("review.html.jinja").render(
        title=TITLE,
        run=run.folder.name,
        notices=run.metrics["notices"],
        num_all=data["num_images"],
        scores_text=_explain_scores(run.metrics, is_fine_tuned=run.config["training"]["fine_tune"]["epochs"] > 0),
        notes=_list_notes(data, pictures),
        splits=[(split, SPLIT_TITLES[split]) for split in SPLIT_ORDER],
        labels=[(label, name_label(label)) for label in LABELS],
        outcomes=OUTCOMES,
        decisions=[(it, name_label(it)) for it in (*LABELS, UNCERTAIN) if it in images["decision"]],
        has_distances=any(distance is not None for distance in images["distance"]),
        attributes=[_describe_attribute(name, images[name]) for name in data["attributes"]],
        prevalence=f"{100 * prevalence:.4g}",
        style=_read_inline(("hip_mri.evaluation.report", "report.css"), ("hip_mri.evaluation.review", "review.css")),
        script=_read_inline(("hip_mri.evaluation.review", "review.js")),
        data=htmlsafe_json_dumps(data, dumps=_write_json),
        pictures=htmlsafe_json_dumps({"small": pictures.small, "large": pictures.large}, dumps=_write_json),
    )


def _write_json(value: object) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _explain_scores(metrics: Mapping[str, Any], *, is_fine_tuned: bool) -> str:
    scored = "Validation and test images are scored by the model of the run"
    if metrics["cross_validation"] is None:
        return f"{scored}. Training images have no score, since the run was not cross-validated."
    text = f"{scored}, training images out of fold, by models that were trained without images of their group"
    return f"{text}; these are not fine-tuned." if is_fine_tuned else f"{text}."


def _list_notes(data: Mapping[str, Any], pictures: EncodedPictures) -> list[str]:
    num_shown, num_all, num_large = len(data["images"]["image_id"]), data["num_images"], len(pictures.large)
    notes = []
    if num_shown < num_all:
        notes.append(
            f"The run has {num_all:,} images. The page shows the {num_shown:,} most informative ones: suspected "
            "labels, wrong calls, images unlike the training images and uncertain ones first, then test images, each "
            "by loss. The figures of the threshold count all images."
        )
    if num_large < num_shown:
        notes.append(
            f"The {num_large:,} most informative images have large pictures, the others enlarged thumbnails, so that "
            f"the page stays below {MAX_PAGE_BYTES / 1e6:.0f} MB."
        )
    return notes


def _describe_attribute(name: str, values: Sequence[str]) -> dict[str, Any]:
    return {"name": name.removeprefix(ATTRIBUTE_PREFIX), "options": [(value, value) for value in sorted(set(values))]}


def _read_inline(*parts: tuple[str, str]) -> Inline:
    text = "\n".join((files(package) / name).read_text(encoding="utf-8") for package, name in parts)
    sha256 = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return Inline(Markup(text), f"sha256-{sha256}")


def check_review(file: Path, metrics: Mapping[str, Any]) -> list[str]:
    """List the figures of a page at the threshold of the run that differ from `metrics.json`.

    Args:
        file: The page.
        metrics: Content of `metrics.json`.

    Raises:
        EvaluationError: The page has no data.
    """
    data = read_review_data(file)
    differences = []
    if data["threshold"] != metrics["threshold"]:
        differences.append(f"{file.name}: the threshold is {data['threshold']}, {metrics['threshold']} was recorded")
    for split in ("test", "val"):
        shown, recorded = count_matrix(data, split), metrics[split]["at_threshold"]["confusion_matrix"]
        if shown != recorded:
            differences.append(f"{file.name}: the confusion matrix of {split} is {shown}, {recorded} was recorded")
    return differences


def read_review_data(file: Path) -> dict[str, Any]:
    """Read the data of a page; see `describe_data`.

    Raises:
        EvaluationError: The page has no data.
    """
    found = _DATA.search(file.read_text(encoding="utf-8"))
    if found is None:
        raise EvaluationError(f"{file.name} has no data. Run the pipeline again.")
    return json.loads(found[1])


def count_matrix(data: Mapping[str, Any], split: str) -> list[list[int]]:
    """Count the calls of a split at the threshold of the run: `[[tn, fp], [fn, tp]]`."""
    images = pd.DataFrame({name: data["images"][name] for name in ("split", "label", "score")})
    images["score"] = images["score"].astype("float64")
    counts = count_calls(images, data["threshold"])[split]
    others = data["others"][split] if data["others"] else {label: [0] * (NUM_STEPS + 2) for label in LABELS}
    totals = [np.add(counts[label], others[label]) for label in LABELS]
    return [[int(total[0] - total[-1]), int(total[-1])] for total in totals]
