"""What a run has to tell, as one value: the material of the report and of the Prefect artifact."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from hip_mri.config import LABELS
from hip_mri.data.ingest import IngestReport
from hip_mri.evaluation.intervals import Interval, find_intervals
from hip_mri.evaluation.metrics import SplitMetrics
from hip_mri.evaluation.wording import SPLIT_TITLES

WITHHELD = "given, not shown"
"""Stands for a value that could name a person or a place on the disk."""


@dataclass(frozen=True)
class ReportSummary:
    """A finished run.

    Attributes:
        title: Heading of the report.
        run_name: Such as `0001`.
        created: Date and time as they shall be read.
        threshold: Scores at or above it are called a lesion, 0-1.
        metrics: Metrics by split; `test` is needed, `val` and `train` are shown where they are there.
        split_counts: Images in use, by split and label.
        ingest: What came of the entries of the source.
        quarantine_reasons: Number of quarantined files by reason code.
        weights: `Weights.name`.
        engine: Such as `openvino, bfloat16`.
        engine_reason: `EngineChoice.reason`.
        settings: Settings of the run by dotted name. Sources and absolute paths are withheld from the report.
        seconds: Duration of each step, in the order in which they ran.
        versions: Version by package.
        figures: PNG files, in the order in which they are shown.
        notices: What every output must say; see `collect_notices`.
        is_grouped: Whether the images of one patient share a split.
        report_location: Where the full report lies, relative to the workspace, such as `runs/0001/report.html`.
    """

    title: str
    run_name: str
    created: str
    threshold: float
    metrics: Mapping[str, SplitMetrics]
    split_counts: Mapping[str, Mapping[str, int]]
    ingest: IngestReport
    quarantine_reasons: Mapping[str, int] = field(default_factory=dict)
    weights: str = "imagenet"
    engine: str = ""
    engine_reason: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    figures: tuple[Path, ...] = ()
    notices: tuple[str, ...] = ()
    is_grouped: bool = False
    report_location: str = ""

    @property
    def num_entries(self) -> int:
        """Number of all files that the source held."""
        ingest = self.ingest
        return ingest.num_images + ingest.num_duplicates + ingest.num_quarantined + ingest.num_ignored


@dataclass(frozen=True)
class MetricRow:
    """One metric over the splits, ready to print.

    Attributes:
        title: Name of the metric.
        meaning: What it says, in a few words.
        values: By split, 0-1; only the splits that were measured.
        interval: 95 % confidence interval on the test images; `None` where there is no formula.
    """

    title: str
    meaning: str
    values: dict[str, float]
    interval: Interval | None


def tabulate_metrics(metrics: Mapping[str, SplitMetrics]) -> list[MetricRow]:
    """Arrange the metrics as rows of a table, the most telling first."""
    intervals = find_intervals(metrics["test"])
    splits = [split for split in ("test", "val", "train") if split in metrics]
    meanings = {
        "auc": ("AUC", "a lesion scores higher than a normal image"),
        "sensitivity": ("Sensitivity", "lesions that are found"),
        "specificity": ("Specificity", "normal images that are called normal"),
        "accuracy": ("Accuracy", "images that are called right"),
        "average_precision": ("Average precision", "area under the precision-recall curve"),
    }
    return [
        MetricRow(title, meaning, {split: metrics[split][name] for split in splits}, intervals.get(name))
        for name, (title, meaning) in meanings.items()
    ]


def compose_answer(summary: ReportSummary) -> str:
    """Say in one sentence how well the model did on the test images."""
    metrics = summary.metrics["test"]
    (tn, fp), (fn, tp) = metrics["confusion_matrix"]
    lower, upper = find_intervals(metrics)["auc"]
    return (
        f"On {metrics['num_images']:,} test images that it was not trained on, the model told osseous lesions from "
        f"normal images with an AUC of {metrics['auc']:.3f} (95% interval {lower:.3f} to {upper:.3f}); at the "
        f"threshold {summary.threshold:g} it found {tp:,} of {tp + fn:,} lesions (sensitivity "
        f"{metrics['sensitivity']:.1%}) and called {tn:,} of {tn + fp:,} normal images normal (specificity "
        f"{metrics['specificity']:.1%})."
    )


def list_limits(summary: ReportSummary) -> list[tuple[str, str]]:
    """What must not be concluded from the figures: a heading and a sentence each."""
    limits = [_split_notice(notice) for notice in summary.notices]
    limits.append(
        (
            "Research only",
            "This is no medical device. No figure here supports a diagnosis, and no clinic has tested the model.",
        )
    )
    if summary.is_grouped:
        limits.append(("Split by group", "Images of one group share a split, so no group stands on both sides."))
    else:
        limits.append(
            (
                "Split by image, not by patient",
                "Images of one patient can stand in both training and test. The model may recognise the patient, and "
                "the figures may be too optimistic; the intervals, which take images as independent, too narrow.",
            )
        )
    limits.append(
        (
            "One source, one split",
            "Other scanners, sequences and patients were not tested, and another random split gives other figures.",
        )
    )
    return limits


def _split_notice(notice: str) -> tuple[str, str]:
    heading, _, text = notice.partition(":")
    text = text.strip()
    return heading.capitalize(), text[:1].upper() + text[1:]


def tabulate_splits(summary: ReportSummary) -> list[tuple[str, list[int]]]:
    """Number of images by class in the order of `LABELS`, for each split and for all."""
    rows = [
        (title, [summary.split_counts[split].get(label, 0) for label in LABELS])
        for split, title in SPLIT_TITLES.items()
        if split in summary.split_counts
    ]
    return [*rows, ("All", [sum(column) for column in zip(*(counts for _, counts in rows), strict=True)])]


def name_weights(weights: str) -> str:
    """Name the backbone's weights for a reader; a file is known by the beginning of its SHA-256 alone."""
    known = {"imagenet": "pretrained on ImageNet", "random": "random, not pretrained"}
    return known.get(weights, f"from a file with SHA-256 {weights[:12]}…")


def disclose(name: str, value: object) -> str:
    """Write the value of a setting, unless it could name a person or a place on the disk.

    Args:
        name: Dotted name of the setting.
        value: Anything; `None` becomes the word.
    """
    text = "none" if value is None else str(value)
    is_path = PurePosixPath(text).is_absolute() or PureWindowsPath(text).drive or text.startswith("~") or "://" in text
    is_place = value is not None and name.rpartition(".")[2] in ("source", "workspace")
    return WITHHELD if is_path or is_place else text
