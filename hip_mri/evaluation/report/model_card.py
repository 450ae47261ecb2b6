"""The model card: what the model is for, what it was made from, how well it did, and what it must not be used for.

Source of the form: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from pathlib import Path

from hip_mri.evaluation.charts.captions import NOT_AVAILABLE, SPLIT_TITLES
from hip_mri.evaluation.report.record import DECISIONS, RANKING, RunRecord
from hip_mri.evaluation.report.statements import make_statements
from hip_mri.evaluation.report.templates import ENVIRONMENT, is_number
from hip_mri.storage import write_bytes

SPLITS = ("test", "val")
"""Columns of the table of results."""


def compose_model_card(record: RunRecord) -> str:
    """Write the model card as Markdown.

    Args:
        record: What the run knows; a figure that it does not have is called not available.
    """
    statements = {name: statement.text for name, statement in make_statements(record).items()}
    return ENVIRONMENT.get_template("model_card.md.jinja").render(
        notices=record.metrics.get("notices") or (),
        say=lambda name: statements.get(name, f"{NOT_AVAILABLE.capitalize()}."),
        titles=[SPLIT_TITLES[split] for split in SPLITS],
        rows=tabulate_measures(record),
        counts=_tabulate_counts(record),
        threshold=f"{threshold:.4g}" if is_number(threshold := record.metrics.get("threshold")) else NOT_AVAILABLE,
        is_patient_level=bool((record.metrics.get("grouping") or {}).get("is_patient_level")),
        settings={name: record.show(name) for name in record.settings},
        files=sorted(record.files),
    )


def tabulate_measures(record: RunRecord) -> list[tuple[str, list[str]]]:
    """Name and value with interval of each measure, for the test and validation images."""
    names = [(title, name, "") for name, title in RANKING.items()]
    names += [(f"{title} at the threshold", name, "at_threshold") for name, title in DECISIONS.items()]
    return [(title, [record.measure(split, name, group) for split in SPLITS]) for title, name, group in names]


def _tabulate_counts(record: RunRecord) -> list[tuple[str, list[str]]]:
    names = {"num_images": "Images", "num_lesions": "Images with a lesion", "num_groups": "Groups"}
    values = {split: record.metrics.get(split) or {} for split in SPLITS}
    return [
        (title, [f"{count:,}" if is_number(count := values[split].get(name)) else NOT_AVAILABLE for split in SPLITS])
        for name, title in names.items()
    ]


def write_model_card(card_file: Path, record: RunRecord) -> None:
    """Write `model_card.md`; see `compose_model_card`.

    Raises:
        WorkspaceError: The file cannot be written.
    """
    write_bytes(card_file, compose_model_card(record).encode())
