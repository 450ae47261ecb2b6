"""What a retraining came to, for people: one page, a short form for Prefect, and a record for programs."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd

from hip_mri.config import LABELS, SPLITS
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.evaluation.charts.captions import SPLIT_TITLES
from hip_mri.evaluation.metrics.validation import number_labels
from hip_mri.evaluation.report.embedding import encode_data_uri, read_picture, shrink_png
from hip_mri.evaluation.report.templates import load_templates
from hip_mri.promotion.batch_check import BatchCheck
from hip_mri.promotion.challenge import Challenge, Verdict, read_test_scores
from hip_mri.promotion.new_images import Arrivals, list_known
from hip_mri.registry.versions import Version, read_version
from hip_mri.storage import link_or_copy, publish_folder, write_bytes, write_json
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

Outcome = Literal["stopped"] | Verdict

HEADLINES: Final[Mapping[Outcome, str]] = {
    "stopped": "Stopped: the new images do not look like those of training",
    "promoted": "The new model is the champion",
    "kept": "The champion stays",
    "declined": "The champion stays: a person decided so",
    "unanswered": "The champion stays: nobody answered in time",
    "overtaken": "The champion stays as it is: it changed while this model waited",
}

MOST_PICTURE_BYTES: Final = 60_000
"""Most bytes of a picture in a Prefect artifact."""

_TEMPLATES: Final = load_templates("hip_mri.promotion")


@dataclass(frozen=True)
class Retraining:
    """What happened.

    Attributes:
        outcome: How it ended.
        arrivals: What had come.
        check: Whether it looked like the training images; `None` where that was not asked.
        challenge: The gate; `None` where nothing was trained.
        answer: What a person said, if one was asked.
        notices: What every output must say.
    """

    outcome: Outcome
    arrivals: Arrivals
    check: BatchCheck | None = None
    challenge: Challenge | None = None
    answer: str = ""
    notices: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The outcome in a few words."""
        if self.outcome == "kept" and self.challenge is not None and self.challenge.champion is None:
            return "There is no champion yet: the new model misses a floor"
        return HEADLINES[self.outcome]


@dataclass(frozen=True)
class Picture:
    """A picture of the report.

    Attributes:
        file: PNG.
        title: Its heading.
        text: What it shows.
    """

    file: Path
    title: str
    text: str


@dataclass(frozen=True)
class PublishedRetraining:
    """A finished report.

    Attributes:
        outcome: How the retraining ended.
        headline: The same in a few words.
        folder: Holds `report.html`, `retraining.json` and `figures/`.
        markdown: The short form, at most some 200 KB.
    """

    outcome: Outcome
    headline: str
    folder: Path
    markdown: str = field(repr=False)


def publish_retraining(workspace: Workspace, retraining: Retraining, margin: float = 0.0) -> PublishedRetraining:
    """Write the report of a retraining.

    Args:
        workspace: The report gets the next number among its `retrainings`.
        retraining: What happened.
        margin: Loss of AUC that is as good as none, for the picture.

    Returns:
        The folder and the short form.

    Raises:
        WorkspaceError: The disk is full or not writable.
    """
    folder = workspace.retrainings_folder / f"{workspace.next_retraining_number():04d}"
    with publish_folder(folder) as fresh:
        pictures = _draw_pictures(workspace, retraining, fresh / "figures", margin)
        facts = _gather(workspace, retraining) | {"name": folder.name}
        write_json(fresh / "retraining.json", _record(retraining, facts))
        page = _render("retraining.html.jinja", facts, pictures, read_picture)
        write_bytes(fresh / "report.html", page.encode())
        markdown = _render("retraining.md.jinja", facts, pictures, lambda file: shrink_png(file, MOST_PICTURE_BYTES))
    logger.info("Retraining %s: %s", folder.name, retraining.headline)
    return PublishedRetraining(retraining.outcome, retraining.headline, folder, markdown)


def describe_comparison(challenge: Challenge) -> str:
    """The comparison as Markdown, for the person who decides."""
    facts = {"challenge": challenge, "rows": tabulate_versions(challenge)}
    return _TEMPLATES.get_template("approval.md.jinja").render(facts)


def tabulate_versions(challenge: Challenge) -> list[dict[str, Any]]:
    """Measures of the test images, a row each: title, and value with interval of challenger and champion."""
    rows = []
    for title, name, is_decision in MEASURES:
        row: dict[str, Any] = {"title": title}
        for side in ("challenger", "champion"):
            measures = challenge.measures.get(side)
            place = (measures or {}).get("at_threshold", {}) if is_decision else (measures or {})
            intervals = (measures or {}).get("intervals", {})
            bounds = intervals.get("at_threshold", {}) if is_decision else intervals
            row[side] = None if measures is None else (place.get(name), bounds.get(name))
        rows.append(row)
    return rows


MEASURES: Final = (
    ("AUC", "auc", False),
    ("Average precision", "average_precision", False),
    ("Sensitivity at its own threshold", "sensitivity", True),
    ("Specificity at its own threshold", "specificity", True),
    ("Brier score", "brier", False),
)


def _draw_pictures(workspace: Workspace, retraining: Retraining, folder: Path, margin: float) -> list[Picture]:
    from hip_mri.evaluation.charts.style import save_figure  # noqa: PLC0415 - see above
    from hip_mri.evaluation.charts.versions import draw_comparison  # noqa: PLC0415 - loads matplotlib and scikit-learn

    folder.mkdir()
    pictures, challenge = [], retraining.challenge
    if challenge is not None and challenge.champion is not None and challenge.decision.interval is not None:
        scores = read_test_scores(challenge.challenger, workspace).sort_values("image_id")
        former = read_test_scores(challenge.champion, workspace).sort_values("image_id")
        figure = draw_comparison(
            number_labels(scores),
            former["score"].to_numpy(),
            scores["score"].to_numpy(),
            challenge.decision.interval,
            margin,
        )
        text = "Both models on the locked test images; the bounds hold at the error that this look may spend."
        file = save_figure(figure, folder / "comparison.png")
        pictures.append(Picture(file, "Champion and challenger", text))
    if retraining.check is not None:
        link_or_copy(retraining.check.picture_file, folder / "drift.png")
        text = "Statistics of the images as they came, those that differ most first, and examples of both sides."
        pictures.append(Picture(folder / "drift.png", "New images beside training images", text))
    return pictures


def _gather(workspace: Workspace, retraining: Retraining) -> dict[str, Any]:
    """Everything that the templates speak of."""
    challenge = retraining.challenge
    return {
        "retraining": retraining,
        "challenge": challenge,
        "rows": tabulate_versions(challenge) if challenge else [],
        "label_titles": {label: label.replace("_", " ") for label in LABELS},
        "split_titles": SPLIT_TITLES,
        **_compare_splits(workspace, retraining),
    }


def _compare_splits(workspace: Workspace, retraining: Retraining) -> dict[str, Any]:
    """How the splits have grown since the version before, and how many known images changed theirs."""
    since = retraining.arrivals.since
    earlier: Version | None = read_version(workspace, int(since)) if since else None
    known = list_known(earlier)
    images = select_ready(read_manifest(workspace.manifest_file))
    split = images.set_index("sha256")["split"]
    kept = known[known["sha256"].isin(split.index)]
    counts = [
        {"split": name, "before": int((known["split"] == name).sum()), "now": int((images["split"] == name).sum())}
        for name in SPLITS
    ]
    return {
        "splits": counts,
        "num_moved": int((split.reindex(kept["sha256"]).to_numpy() != kept["split"].to_numpy()).sum()),
        "num_gone": len(known) - len(kept),
        "num_patients": _count_new_patients(images, known),
    }


def _count_new_patients(images: pd.DataFrame, known: pd.DataFrame) -> int | None:
    """Patients of whom no image was known; `None` where the patient of a new image is not known."""
    is_known = images["sha256"].isin(known["sha256"])
    new = images[~is_known]
    if (new["patient"] == "").any():
        return None
    return len(set(new["patient"]) - set(images.loc[is_known, "patient"]))


def _record(retraining: Retraining, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What `retraining.json` holds."""
    challenge, check = retraining.challenge, retraining.check
    return {
        "outcome": retraining.outcome,
        "arrivals": asdict(retraining.arrivals),
        "splits": facts["splits"],
        "num_moved": facts["num_moved"],
        "drift": None
        if check is None
        else {
            "is_shifted": check.report.is_shifted,
            "is_judged": check.report.is_judged,
            "reasons": list(check.report.reasons),
            "p_values": check.report.p_values,
            "effects": check.report.effects,
            "feature_auc": check.report.features and check.report.features.auc,
        },
        "challenger": challenge and challenge.challenger.name,
        "champion": challenge and challenge.champion and challenge.champion.name,
        "decision": challenge and asdict(challenge.decision),
        "answer": retraining.answer,
    }


def _render(template: str, facts: Mapping[str, Any], pictures: Sequence[Picture], read: Any) -> str:
    embedded = [{"title": it.title, "text": it.text, "uri": encode_data_uri(read(it.file))} for it in pictures]
    return _TEMPLATES.get_template(template).render(facts, pictures=embedded)
