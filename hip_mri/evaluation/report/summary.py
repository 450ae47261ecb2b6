"""What a run has to tell, as one value: the material of the report and of the Prefect artifact."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

from hip_mri.config import LABELS
from hip_mri.evaluation.charts.captions import NOT_AVAILABLE, SPLIT_TITLES, name_evidence
from hip_mri.evaluation.report.templates import format_measure

WITHHELD: Final = "given, not shown"
"""Stands for a value that could name a person or a place on the disk."""

PRIVATE_SETTINGS: Final = ("source", "sources", "workspace", "data.patients_file", "data.patient_pattern")
"""Settings that can hold names of people or places."""

RANKING_ROWS: Final = {
    "auc": ("AUC", "a lesion scores higher than a normal image"),
    "average_precision": ("Average precision", "area under the precision-recall curve"),
}
DECISION_ROWS: Final = {
    "sensitivity": ("Sensitivity", "lesions that are found"),
    "specificity": ("Specificity", "normal images that are called normal"),
    "ppv": ("PPV", "alarms that are right, at this share of lesions"),
    "npv": ("NPV", "all-clears that are right, at this share of lesions"),
    "accuracy": ("Accuracy", "images that are called right"),
    "balanced_accuracy": ("Balanced accuracy", "mean of sensitivity and specificity"),
    "f1": ("F1", "harmonic mean of sensitivity and PPV"),
    "mcc": ("MCC", "correlation of call and truth, -1 to 1"),
}
PROBABILITY_ROWS: Final = {
    "brier": ("Brier score", "mean squared error of the scores; lower is better"),
    "expected_calibration_error": ("Calibration error", "mean gap of score and frequency; lower is better"),
    "calibration_slope": ("Calibration slope", "1 is ideal; below 1 the scores are too extreme"),
    "calibration_intercept": ("Calibration intercept", "0 is ideal; below 0 the scores are too high"),
}


@dataclass(frozen=True)
class ReportSummary:
    """A finished run.

    Attributes:
        run_name: Such as `0001`.
        metrics: What `metrics.json` holds.
        settings: Settings of the run by dotted name. Sources and absolute paths are withheld from the report.
        figures: PNG files, in the order in which they are shown.
        report_location: Where the full report lies, relative to the workspace, such as `runs/0001/report.html`.
        title: Heading of the report.
    """

    run_name: str
    metrics: Mapping[str, Any]
    settings: Mapping[str, object] = field(default_factory=dict)
    figures: tuple[Path, ...] = ()
    report_location: str = ""
    title: str = "Hip MRI: normal or osseous lesion"


@dataclass(frozen=True)
class MetricRow:
    """One metric over the splits, ready to print.

    Attributes:
        title: Name of the metric.
        meaning: What it says, in a few words.
        values: By split, test first; `None` where it is not defined.
        interval: 95 % interval on the test images; `None` where there is none.
        is_share: Whether it runs from 0 to 1.
    """

    title: str
    meaning: str
    values: dict[str, float | None]
    interval: tuple[float, float] | None
    is_share: bool = True

    def describe_interval(self) -> str:
        """The interval in words."""
        return f"{self.interval[0]:.3f} to {self.interval[1]:.3f}" if self.interval else NOT_AVAILABLE


def tabulate_metrics(metrics: Mapping[str, Any]) -> list[MetricRow]:
    """Arrange the metrics as rows of a table, the most telling first; calls are at the chosen threshold."""
    splits = [split for split in ("test", "val", "train") if split in metrics]
    measured = {split: metrics[split] | metrics[split]["at_threshold"] for split in splits}
    bounds = metrics["test"]["intervals"]
    bounds = bounds | bounds["at_threshold"]
    titles = {**RANKING_ROWS, **DECISION_ROWS, **PROBABILITY_ROWS}
    return [
        MetricRow(
            title,
            meaning,
            {split: measured[split][name] for split in splits},
            tuple(bounds[name]) if bounds[name] else None,
            is_share=name not in ("mcc", "calibration_slope", "calibration_intercept"),
        )
        for name, (title, meaning) in titles.items()
    ]


def tabulate_thresholds(metrics: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Test figures of calls at the chosen threshold and at 0.5, with intervals, ready to print."""
    test = metrics["test"]
    return [
        (
            title,
            [
                format_measure(test[section][name], test["intervals"][section][name])
                for section in ("at_threshold", "at_half")
            ],
        )
        for name, (title, _) in DECISION_ROWS.items()
    ]


def tabulate_prevalences(metrics: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Predictive values at given shares of lesions, at the chosen threshold, ready to print."""
    section = metrics["test"]["at_threshold"]
    bounds = metrics["test"]["intervals"]["at_threshold"]["at_prevalences"]
    return [
        (f"{row['prevalence']:.1%}", [format_measure(row[name], found[name]) for name in ("ppv", "npv")])
        for row, found in zip(section["at_prevalences"], bounds, strict=True)
    ]


def tabulate_subgroups(metrics: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Figures of the subgroups of the user's table, ready to print."""
    return [
        (
            f"{row['column']}: {row['value']}",
            [
                f"{row['num_images']:,}",
                f"{row['num_lesions']:,}",
                *(format_measure(row[name], row["intervals"][name]) for name in ("auc", "sensitivity", "specificity")),
            ],
        )
        for row in metrics["subgroups"]
    ]


def name_level(metrics: Mapping[str, Any]) -> str:
    """What the figures may be called: patient-level only where the patient of every image is known."""
    return "patient-level" if metrics["grouping"]["is_patient_level"] else "groups inferred from image similarity"


def compose_answer(summary: ReportSummary) -> str:
    """Say in one sentence how well the model did on the test images."""
    test = summary.metrics["test"]
    calls = test["at_threshold"]
    (tn, fp), (fn, tp) = calls["confusion_matrix"]
    bounds = test["intervals"]["auc"]
    interval = f"95% interval {bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else "too few groups for an interval"
    return (
        f"On {test['num_images']:,} test images in {test['num_groups']:,} groups that it was not trained on, the model "
        f"told osseous lesions from normal images with an AUC of {test['auc']:.3f} ({interval}); at the threshold "
        f"{calls['threshold']:.3f}, chosen on validation images, it found {tp:,} of {tp + fn:,} lesions (sensitivity "
        f"{calls['sensitivity']:.1%}) and called {tn:,} of {tn + fp:,} normal images normal (specificity "
        f"{calls['specificity']:.1%})."
    )


def list_limits(summary: ReportSummary) -> list[tuple[str, str]]:
    """What must not be concluded from the figures: a heading and a sentence each."""
    limits = [_split_notice(notice) for notice in summary.metrics["notices"]]
    limits.append(
        (
            "Research only",
            "This is no medical device. No figure here supports a diagnosis, and no clinic has tested the model.",
        )
    )
    grouping = summary.metrics["grouping"]
    if grouping["is_patient_level"]:
        limits.append(
            (
                "Patient-level split, as far as the given identities are right",
                "All images of one patient share a split, and intervals take patients, not images, as independent.",
            )
        )
    else:
        limits.append(
            (
                "Groups inferred from image similarity, not patient-level",
                f"The patient of {grouping['num_without_patient']:,} images is not known. Copies and near copies share "
                "a split, but different slices of one patient can stand in both training and test; then the figures "
                "are too optimistic and the intervals too narrow. Give a table of patients.",
            )
        )
    if grouping.get("has_constant_patient"):
        limits.append(
            (
                "One patient ID in all files",
                "All images name one and the same patient, as a placeholder does; it was ignored.",
            )
        )
    if given := describe_given_split(summary.metrics["data"]):
        limits.append(("Split given by the source", " ".join(given)))
    limits.append(
        (
            "One source, one split",
            "Other scanners, sequences and patients were not tested, and another random split gives other figures.",
        )
    )
    limits.append(
        (
            "Predictive values depend on how common lesions are",
            "PPV and NPV hold for the share of lesions in these test images; the table by prevalence says how they "
            "would be elsewhere.",
        )
    )
    return limits


def _split_notice(notice: str) -> tuple[str, str]:
    heading, _, text = notice.partition(":")
    text = text.strip()
    return heading.capitalize(), text[:1].upper() + text[1:]


def describe_leakage(metrics: Mapping[str, Any]) -> list[str]:
    """What the leakage audit found, in sentences."""
    leakage, folds = metrics["leakage"], metrics["cross_validation"]
    sentences = []
    if not metrics["grouping"]["is_patient_level"]:
        sentences.append(
            "Patients are not known, so neither figure below can show a leak between different slices of one patient: "
            "other groups, the yardstick of both, can hold the same patients. Look at the closest pairs."
        )
    if leakage["share_nearer_than_strangers"] is not None:
        sentences.append(
            f"{leakage['share_nearer_than_strangers']:.1%} of {leakage['num_test_images']:,} test images are nearer to "
            "a training image than 99% of training images are to the nearest one of another group. Where nothing leaks "
            "about 1% is expected, by chance several percent where test images are few."
        )
    if folds and folds["inflation"] is not None:
        grouped, by_image = folds["grouped"], folds["by_image"]
        spread = grouped["standard_deviation"]
        sentences.append(
            f"Cross-validated on the training images, the AUC is {grouped['mean']:.3f}"
            + (f" (standard deviation of the {len(grouped['aucs'])} folds {spread:.3f})" if spread is not None else "")
            + f" with folds that keep groups whole and {by_image['mean']:.3f} with folds of single images: splitting "
            f"by image would have changed it by {folds['inflation']:+.3f}."
        )
    return sentences


def tabulate_evidence(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the groups came about, ready to print."""
    grouping, data, test_set = metrics["grouping"], metrics["data"], metrics["test_set"]
    rows = [(f"Images tied by {name_evidence(kind)}", f"{count:,}") for kind, count in grouping["evidence"].items()]
    return [
        ("Level", name_level(metrics)),
        ("Groups", f"{grouping['num_groups']:,}"),
        ("Images of the largest group", f"{grouping['largest_group']:,}"),
        ("Patients known", f"{grouping['num_patients']:,}"),
        *rows,
        ("Largest deviation from the shares asked for", f"{data['largest_deviation']:.2%} of a class"),
        ("Images that kept the split of an earlier run", f"{data['num_kept']:,}"),
        ("Images whose split the source gives", _describe_given(data)),
        ("Locked test set", f"{test_set['num_images']:,} images, SHA-256 {test_set['sha256'][:12]}…"),
        ("Locked test images that the source no longer holds", f"{test_set['num_missing']:,}"),
    ]


def _describe_given(data: Mapping[str, Any]) -> str:
    given = data.get("given_split") or {}
    by = f" (by {given['by']})" if given.get("by") else ""
    held_out = _list_by_split(given.get("num_held_out"), "; held out: ")
    return f"{data['num_prescribed']:,}{by}{held_out}"


def describe_given_split(data: Mapping[str, Any]) -> list[str]:
    """Say what became of a split that the source gives, in sentences; none where it gives none.

    Args:
        data: What `metrics.json` holds under `data`; runs of earlier versions have no key `given_split`.
    """
    given = data.get("given_split") or {}
    by = {"folders": "the folders of the source", "table": "the table of patients"}
    parts = [by[name] for name in str(given.get("by") or "").split(" and ") if name in by]
    num_images = data.get("num_prescribed") or 0
    if not num_images:
        return []
    sentences = [
        f"The split was given: {num_images:,} images have the split that {' and '.join(parts or [by['table']])} "
        f"{'prescribes' if parts in ([], [by['table']]) else 'give'}"
        f"{_list_by_split(given.get('num_images'), ' (', ')')}."
    ]
    if num_held_out := _list_by_split(given.get("num_held_out")):
        sentences.append(
            f"Of these, held out of all parts since related images stand in another part: {num_held_out} "
            f"({given['num_divided_groups']:,} groups stood in several parts). The test goes before validation, and "
            "validation before training: no given test image was trained on."
        )
    elif given and not given.get("num_divided_groups"):
        sentences.append("No group of related images stood in more than one part.")
    if given.get("num_given_twice"):
        sentences.append(
            f"{given['num_given_twice']:,} images stood in several parts as copies, byte for byte, and count for the "
            "test, else for validation, alone."
        )
    if num_drawn := _list_by_split(given.get("num_drawn")):
        sentences.append(
            f"The source lacks a part; drawn for it, by group, from those given for training: {num_drawn}."
        )
    return sentences


def _list_by_split(counts: Mapping[str, int] | None, before: str = "", after: str = "") -> str:
    """Numbers of images by split in words, such as `training 12, validation 3`; empty without any."""
    known = counts or {}
    told = [f"{title.lower()} {known[split]:,}" for split, title in SPLIT_TITLES.items() if known.get(split)]
    return f"{before}{', '.join(told)}{after}" if told else ""


def tabulate_splits(summary: ReportSummary) -> list[tuple[str, list[int]]]:
    """Number of images by class in the order of `LABELS`, for each split and for all."""
    counts = summary.metrics["data"]["splits"]
    rows = [
        (title, [counts[split].get(label, 0) for label in LABELS])
        for split, title in SPLIT_TITLES.items()
        if split in counts
    ]
    return [*rows, ("All", [sum(column) for column in zip(*(counts for _, counts in rows), strict=True)])]


def name_weights(weights: str) -> str:
    """Name the backbone's weights for a reader; a file is known by the beginning of its SHA-256 alone."""
    known = {"imagenet": "pretrained on ImageNet", "random": "random, not pretrained"}
    return known.get(weights, f"from a file with SHA-256 {weights[:12]}…")


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flatten_settings(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def disclose(name: str, value: object) -> str:
    """Write the value of a setting, unless it could name a person or a place on the disk.

    Args:
        name: Dotted name of the setting.
        value: Anything; `None` becomes the word.
    """
    text = "none" if value is None else str(value)
    is_path = PurePosixPath(text).is_absolute() or PureWindowsPath(text).drive or text.startswith("~") or "://" in text
    is_private = value is not None and name in PRIVATE_SETTINGS
    return WITHHELD if is_path or is_private else text
