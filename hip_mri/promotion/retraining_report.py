"""Writes the report of a retraining: an HTML page, a summary for Prefect, and a JSON record."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd

from hip_mri.config import LABELS, SPLITS
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.evaluation.charts.captions import SPLIT_TITLES
from hip_mri.evaluation.metrics.table import METRICS
from hip_mri.evaluation.report.embedding import encode_data_uri, read_picture, shrink_png
from hip_mri.evaluation.report.templates import load_templates
from hip_mri.promotion.batch_check import BatchCheck
from hip_mri.promotion.challenge import Challenge
from hip_mri.promotion.comparison_records import COMPARISON_PICTURE, DRIFT_PICTURE, ComparedRetraining
from hip_mri.promotion.new_images import NewImages, Reference, list_images
from hip_mri.registry.audit import Verdict
from hip_mri.run_files import MANIFEST_FILE, REPORT_FILE
from hip_mri.storage import find_next_folder, link_or_copy, publish_folder, write_bytes, write_json
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

Outcome = Literal["stopped", "promoted", "kept", "unjudged", "declined", "unanswered", "overtaken"]

HEADLINES: Final[Mapping[Outcome, str]] = {
    "stopped": "Stopped: the new images differ from the training images",
    "promoted": "The new model is the champion",
    "kept": "The champion stays",
    "unjudged": "The new model cannot be judged on this test set: nothing is promoted",
    "declined": "The champion stays: the new model was declined",
    "unanswered": "The champion stays: the request for approval timed out",
    "overtaken": "The champion stays: it has changed since the comparison",
}

HEADLINES_WITHOUT_CHAMPION: Final[Mapping[Outcome, str]] = {
    "kept": "There is no champion yet: the new model misses a requirement",
    "declined": "There is no champion yet: the new model was declined",
    "unanswered": "There is no champion yet: the request for approval timed out",
    "overtaken": "Another version became the champion since the comparison",
}

COMPARED_METRICS: Final = ("auc", "average_precision", "sensitivity", "specificity", "brier")
"""Metrics of the comparison."""

DECISION_KEYS: Final = {"requirements": "floors", "comparison": "look"}
"""Keys of `retraining.json` that differ from the names of fields, for programs that read it."""

MAX_PICTURE_BYTES: Final = 60_000
"""Largest picture in a Prefect artifact."""

_TEMPLATES: Final = load_templates("hip_mri.promotion")


@dataclass(frozen=True)
class Retraining:
    """A finished retraining.

    Attributes:
        outcome: How it ended.
        new_images: Counts of the new images.
        check: Comparison of the new images with the training images; `None` where it was not made.
        compared: The challenger and the decision of the gate; `None` where nothing was trained.
        verdict: Who approved or declined, and why; `None` where nobody was asked.
    """

    outcome: Outcome
    new_images: NewImages
    check: BatchCheck | None = None
    compared: ComparedRetraining | None = None
    verdict: Verdict | None = None

    @property
    def challenge(self) -> Challenge | None:
        """The challenger and the decision of the gate."""
        return self.compared and self.compared.challenge

    @property
    def notices(self) -> tuple[str, ...]:
        """Texts that every output shows."""
        of_batch = self.check.notices if self.check else ()
        return self.challenge.notices if self.challenge else of_batch

    @property
    def headline(self) -> str:
        """The outcome in one line."""
        has_champion = self.challenge is None or self.challenge.champion is not None
        return (HEADLINES if has_champion else HEADLINES | HEADLINES_WITHOUT_CHAMPION)[self.outcome]


@dataclass(frozen=True)
class PublishedRetraining:
    """A published report.

    Attributes:
        outcome: How the retraining ended.
        headline: The same in one line.
        folder: Holds `report.html`, `retraining.json` and `figures/`.
        markdown: The summary, at most about 200 KB.
    """

    outcome: Outcome
    headline: str
    folder: Path
    markdown: str = field(repr=False)


def publish_retraining(workspace: Workspace, retraining: Retraining) -> PublishedRetraining:
    """Write the report of a retraining.

    Args:
        workspace: The report gets the next number in its `retrainings`.
        retraining: What is reported.

    Returns:
        The folder and the summary.

    Raises:
        WorkspaceError: The disk is full or not writable.
    """
    folder, challenge = find_next_folder(workspace.retrainings_folder), retraining.challenge
    facts = {
        "name": folder.name,
        "created": datetime.now(UTC).date().isoformat(),
        "retraining": retraining,
        **_collect_facts(workspace, _list_known(workspace, retraining.new_images, retraining.compared), challenge),
    }
    with publish_folder(folder) as fresh:
        pictures = _copy_pictures(retraining, fresh / "figures")
        write_json(fresh / "retraining.json", _describe(retraining, facts))
        page = _render("retraining.html.jinja", facts, pictures, read_picture)
        write_bytes(fresh / REPORT_FILE, page.encode())
        markdown = _render("retraining.md.jinja", facts, pictures, lambda file: shrink_png(file, MAX_PICTURE_BYTES))
    logger.info("Retraining %s: %s", folder.name, retraining.headline)
    return PublishedRetraining(retraining.outcome, retraining.headline, folder, markdown)


def describe_comparison(workspace: Workspace, compared: ComparedRetraining) -> str:
    """Describe a comparison as Markdown, for manual approval."""
    facts = _collect_facts(workspace, _list_known(workspace, compared.new_images, None), compared.challenge)
    return _TEMPLATES.get_template("approval.md.jinja").render(facts, compared=compared)


def _list_known(workspace: Workspace, new_images: NewImages, stored: ComparedRetraining | None) -> pd.DataFrame:
    """List the images that are not new; a stored comparison has a copy of the list, since runs can be deleted."""
    if stored is not None and (stored.folder / MANIFEST_FILE).exists():
        return list_images(stored.folder)
    return list_images(Reference.named(new_images.since, workspace).folder if new_images.since else None)


def _collect_facts(workspace: Workspace, known: pd.DataFrame, challenge: Challenge | None) -> dict[str, Any]:
    """Collect what several templates show."""
    return {
        "challenge": challenge,
        "rows": tabulate_measures(challenge) if challenge else [],
        "label_titles": {label: label.replace("_", " ") for label in LABELS},
        "split_titles": SPLIT_TITLES,
        **_compare_splits(workspace, known, challenge),
    }


def tabulate_measures(challenge: Challenge) -> list[dict[str, Any]]:
    """List the measures of the test images: title, and value with interval of challenger and champion."""
    rows = []
    for metric in (METRICS[key] for key in COMPARED_METRICS):
        title = f"{metric.title} at its own threshold" if metric.kind == "decision" else metric.title
        row: dict[str, Any] = {"title": title, "challenger": None, "champion": None}
        for model, measures in challenge.measures.items():
            row[model] = [metric.get(measures), metric.get(measures.get("intervals", {}))]
        rows.append(row)
    return rows


def _copy_pictures(retraining: Retraining, folder: Path) -> list[dict[str, Any]]:
    """Copy the pictures of the report; file, title and text of each."""
    folder.mkdir()
    compared, check = retraining.compared, retraining.check
    pictures = [
        (
            compared and compared.folder / COMPARISON_PICTURE,
            "ROC curves and difference of AUC",
            "Both models on the locked test images; the limits hold at the error of this comparison.",
        ),
        (
            check and check.picture_file,
            "New images and training images",
            "Statistics of the source images, those that differ most first, and examples of both sides.",
        ),
    ]
    copied = []
    for name, (original, title, text) in zip((COMPARISON_PICTURE, DRIFT_PICTURE), pictures, strict=True):
        if original is not None and original.exists():
            link_or_copy(original, folder / name)
            copied.append({"file": folder / name, "title": title, "text": text})
    return copied


def _compare_splits(workspace: Workspace, known: pd.DataFrame, challenge: Challenge | None) -> dict[str, Any]:
    """Count images per split before and now, images that changed their split, and new patients.

    "Now" is what the challenger was trained on: another run may have changed the manifest while this one waited for
    approval.
    """
    images = (
        list_images(challenge.challenger.folder) if challenge else select_ready(read_manifest(workspace.manifest_file))
    )
    split = images.set_index("sha256")["split"]
    kept = known[known["sha256"].isin(split.index)]
    counts = [
        {
            "split": name,
            "before": int((known["split"] == name).sum()),
            "now": int((images["split"] == name).sum()),
            "lesions": int(((images["split"] == name) & (images["label"] == LABELS[1])).sum()),
        }
        for name in SPLITS
    ]
    return {
        "splits": counts,
        "num_moved": int((split.reindex(kept["sha256"]).to_numpy() != kept["split"].to_numpy()).sum()),
        "num_gone": len(known) - len(kept),
        "num_patients": _count_new_patients(images, known),
    }


def _count_new_patients(images: pd.DataFrame, known: pd.DataFrame) -> int | None:
    """Count patients without a known image; `None` where the patient of a new image is not known."""
    is_known = images["sha256"].isin(known["sha256"])
    new = images[~is_known]
    if (new["patient"] == "").any():
        return None
    return len(set(new["patient"]) - set(images.loc[is_known, "patient"]))


def _describe(retraining: Retraining, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `retraining.json`."""
    challenge, drift = retraining.challenge, retraining.check and retraining.check.report
    decision = asdict(challenge.decision) if challenge else {}
    return {
        "outcome": retraining.outcome,
        "created": facts["created"],
        "notices": list(retraining.notices),
        "arrivals": asdict(retraining.new_images),
        "splits": facts["splits"],
        "num_moved": facts["num_moved"],
        "drift": drift
        and {
            "is_shifted": drift.is_shifted,
            "is_judged": drift.is_judged,
            "reasons": list(drift.reasons),
            "p_values": drift.p_values,
            "effects": drift.effects,
            "feature_auc": drift.features and drift.features.auc,
        },
        "challenger": challenge and challenge.challenger.name,
        "champion": challenge and challenge.champion and challenge.champion.name,
        "decision": {DECISION_KEYS.get(name, name): value for name, value in decision.items()} or None,
        "answer": retraining.verdict and asdict(retraining.verdict),
    }


def _render(
    template: str, facts: Mapping[str, Any], pictures: Sequence[Mapping[str, Any]], read: Callable[[Path], bytes]
) -> str:
    embedded = [{**picture, "uri": encode_data_uri(read(picture["file"]))} for picture in pictures]
    return _TEMPLATES.get_template(template).render(facts, pictures=embedded)
