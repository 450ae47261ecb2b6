"""Renders and writes the documents of a run: HTML report, Markdown for Prefect, model card and checklists."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.charts.captions import CAPTIONS
from hip_mri.evaluation.metrics.table import METRICS
from hip_mri.evaluation.report.embedding import encode_data_uri, read_picture, shrink_png
from hip_mri.evaluation.report.run_report import RunReport, list_files, read_yaml
from hip_mri.evaluation.report.templates import format_interval
from hip_mri.run_files import CHECKLIST_FILE, METRICS_FILE, MODEL_CARD_FILE, REPORT_FILE
from hip_mri.storage import write_bytes

CHECKLISTS: Final = ("claim_2024.yaml", "tripod_ai.yaml")
"""Files of the reporting checklists."""

MAX_MARKDOWN_BYTES: Final = 500_000
"""Maximum length of a Prefect artifact."""

MAX_PICTURE_BYTES: Final = 60_000
"""Maximum size of a figure in the artifact; base64 adds a third, 80,000 characters."""

MARKDOWN_TEXT_BYTES: Final = 20_000
"""Part of the artifact that is reserved for text."""


class ChecklistRow(NamedTuple):
    """An item of a checklist: what it asks for, the answer of the run, what the authors add, a file with details."""

    number: str
    section: str
    asks: str
    state: str = "to be written by the authors"
    answer: str = ""
    add: str = ""
    link: str = ""


def write_documents(run_folder: Path, run: RunReport) -> None:
    """Write `report.html`, `model_card.md` and `checklist.md`.

    Args:
        run_folder: Folder of the run; the model card lists and links its files.
        run: Facts of the run.

    Raises:
        EvaluationError: There are no test metrics.
        WorkspaceError: A figure cannot be read, or a file cannot be written.
    """
    write_bytes(run_folder / REPORT_FILE, render_report(run).encode())
    run = replace(run, files=list_files(run_folder))
    write_bytes(run_folder / MODEL_CARD_FILE, render_model_card(run).encode())
    write_bytes(run_folder / CHECKLIST_FILE, render_checklists(run).encode())


def render_report(run: RunReport) -> str:
    """Render the report as one HTML page without external files, scripts or network access.

    Raises:
        EvaluationError: There are no test metrics.
        WorkspaceError: A figure cannot be read.
    """
    _check_test_metrics(run)
    return run.render("report.html.jinja", pictures=[_embed(run, file, read_picture(file)) for file in run.figures])


def render_markdown(run: RunReport) -> str:
    """Render notices, result, metrics and reduced figures as Markdown of at most `MAX_MARKDOWN_BYTES`, for Prefect.

    Raises:
        EvaluationError: There are no test metrics, or the text is too long.
        WorkspaceError: A figure cannot be read.
    """
    _check_test_metrics(run)
    available = (MAX_MARKDOWN_BYTES - MARKDOWN_TEXT_BYTES) * 3 // 4 // max(len(run.figures), 1)
    max_bytes = min(MAX_PICTURE_BYTES, available)
    text = run.render(
        "report.md.jinja", pictures=[_embed(run, file, shrink_png(file, max_bytes)) for file in run.figures]
    )
    if len(text.encode()) > MAX_MARKDOWN_BYTES:
        raise EvaluationError(
            f"report: the Markdown has {len(text.encode()):,} bytes, {MAX_MARKDOWN_BYTES:,} are allowed. "
            "Shorten the notices."
        )
    return text


def tabulate_metrics(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tabulate each metric with its interval on the test set and its value in each split, for Prefect."""
    rows = []
    for metric in METRICS.values():
        values = {name: metric.get(metrics[name]) for name in ("test", "val", "train")}
        rounded = {name: None if value is None else round(value, 4) for name, value in values.items()}
        interval = format_interval(metric.get(metrics["test"]["intervals"]))
        rows.append({"metric": metric.title, "interval": interval, **rounded})
    return rows


def render_model_card(run: RunReport) -> str:
    """Render the model card as Markdown.

    Source of the form: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
    """
    return run.render("model_card.md.jinja")


def render_checklists(run: RunReport) -> str:
    """Render the reporting checklists CLAIM 2024 and TRIPOD+AI as Markdown, with links to the files of the run."""
    checklists = [(read_yaml(name), list(fill_checklist(name, run))) for name in CHECKLISTS]
    return run.render("checklist.md.jinja", checklists=checklists)


def fill_checklist(name: str, run: RunReport) -> Iterator[ChecklistRow]:
    """Answer the items of a checklist from the facts of a run.

    Args:
        name: One of `CHECKLISTS`.
        run: Facts of the run.
    """
    for section, items in read_yaml(name)["sections"].items():
        for number, item in items.items():
            if isinstance(item, str):
                yield ChecklistRow(number, section, item)
            elif answer := run.fill(_join_statements(item["answer"])):
                add, file = item.get("add", ""), item.get("file", METRICS_FILE)
                state = "partly filled" if add else "filled"
                yield ChecklistRow(number, section, item["asks"], state, answer, add, file if file in run.files else "")
            else:
                yield ChecklistRow(number, section, item["asks"])


def _join_statements(names: str | list[str]) -> str:
    return " ".join(f"{{{{ say('{name}') }}}}" for name in ([names] if isinstance(names, str) else names))


def _check_test_metrics(run: RunReport) -> None:
    if "test" not in run.metrics:
        raise EvaluationError("report: there are no metrics of the test images. Score the test split, then report.")


def _embed(run: RunReport, file: Path, content: bytes) -> dict[str, Any]:
    caption = {key: run.fill(text) for key, text in asdict(CAPTIONS[file.stem]).items()}
    return {"name": file.stem, "caption": caption, "uri": encode_data_uri(content)}
