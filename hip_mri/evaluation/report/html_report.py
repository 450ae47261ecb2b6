"""The report of a run: one self-contained page, and a short form for Prefect."""

from pathlib import Path
from typing import Any, Final

from hip_mri.config import LABELS
from hip_mri.errors import EvaluationError
from hip_mri.evaluation.charts.captions import SPLIT_TITLES, find_caption, name_label
from hip_mri.evaluation.report.embedding import encode_data_uri, read_picture, shrink_png
from hip_mri.evaluation.report.summary import (
    ReportSummary,
    compose_answer,
    describe_leakage,
    disclose,
    list_limits,
    name_level,
    name_weights,
    tabulate_evidence,
    tabulate_metrics,
    tabulate_prevalences,
    tabulate_splits,
    tabulate_subgroups,
    tabulate_thresholds,
)
from hip_mri.evaluation.report.templates import ENVIRONMENT
from hip_mri.storage import write_bytes

MOST_MARKDOWN_BYTES: Final = 500_000
"""Longest text that a Prefect artifact shall carry."""

MOST_PICTURE_BYTES: Final = 60_000
"""Most bytes of a picture in it; as text a picture takes a third more, 80,000 characters."""

MARKDOWN_TEXT_BYTES: Final = 20_000
"""Set aside for all that is not a picture."""


NARROW_PICTURES: Final = ("roc", "precision_recall", "calibration", "decision_curve")
"""Pictures that stand side by side."""


def write_report(report_file: Path, summary: ReportSummary) -> None:
    """Write the report as one HTML file that needs no other file, no script and no network.

    Args:
        report_file: The file to write.
        summary: What the run has to tell. Source names and absolute paths in it are withheld.

    Raises:
        EvaluationError: There are no test metrics.
        WorkspaceError: A picture cannot be read, or the report cannot be written.
    """
    pictures = [_embed(file, read_picture(file)) for file in summary.figures]
    page = ENVIRONMENT.get_template("report.html.jinja").render(
        _gather(summary), pictures=pictures, narrow_pictures=NARROW_PICTURES
    )
    write_bytes(report_file, page.encode())


def compose_markdown(summary: ReportSummary) -> str:
    """Write the short form for a Prefect artifact: notices, answer, metrics and pictures reduced to fit.

    Args:
        summary: What the run has to tell.

    Returns:
        Markdown of at most `MOST_MARKDOWN_BYTES`, pictures included.

    Raises:
        EvaluationError: There are no test metrics, or the text cannot be made short enough.
        WorkspaceError: A picture cannot be read.
    """
    room = (MOST_MARKDOWN_BYTES - MARKDOWN_TEXT_BYTES) * 3 // 4 // max(len(summary.figures), 1)
    most_bytes = min(MOST_PICTURE_BYTES, room)
    pictures = [_embed(file, shrink_png(file, most_bytes)) for file in summary.figures]
    text = ENVIRONMENT.get_template("report.md.jinja").render(
        _gather(summary), pictures=pictures, narrow_pictures=NARROW_PICTURES
    )
    if len(text.encode()) > MOST_MARKDOWN_BYTES:
        raise EvaluationError(
            f"report: the Markdown takes {len(text.encode()):,} bytes, {MOST_MARKDOWN_BYTES:,} are allowed. "
            "Shorten the notices."
        )
    return text


def _gather(summary: ReportSummary) -> dict[str, Any]:
    """Everything that the templates speak of."""
    if "test" not in summary.metrics:
        raise EvaluationError("report: there are no metrics of the test images. Score the test split, then report.")
    metrics = summary.metrics
    return {
        "summary": summary,
        "metrics": metrics,
        "data": metrics["data"],
        "test": metrics["test"],
        "calls": metrics["test"]["at_threshold"],
        "bounds": metrics["test"]["intervals"],
        "answer": compose_answer(summary),
        "limits": list_limits(summary),
        "level": name_level(metrics),
        "metric_rows": tabulate_metrics(metrics),
        "threshold_rows": tabulate_thresholds(metrics),
        "prevalence_rows": tabulate_prevalences(metrics),
        "subgroup_rows": tabulate_subgroups(metrics),
        "evidence_rows": tabulate_evidence(metrics),
        "leakage": describe_leakage(metrics),
        "split_rows": tabulate_splits(summary),
        "weights": name_weights(metrics["weights"]),
        "settings": {name: disclose(name, value) for name, value in summary.settings.items()},
        "narrow_pictures": NARROW_PICTURES,
        "label_names": [name_label(label) for label in LABELS],
        "split_titles": {split: title for split, title in SPLIT_TITLES.items() if split in metrics},
    }


def _embed(file: Path, content: bytes) -> dict[str, Any]:
    return {"name": file.stem, "caption": find_caption(file.stem), "uri": encode_data_uri(content)}
