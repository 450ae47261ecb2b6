"""The reporting checklists CLAIM 2024 and TRIPOD+AI, filled in as far as a run can know."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Final

import yaml

from hip_mri.evaluation.report.record import RunRecord, Statement
from hip_mri.evaluation.report.statements import make_statements
from hip_mri.evaluation.report.templates import ENVIRONMENT
from hip_mri.storage import write_bytes

GUIDELINES: Final = ("claim_2024", "tripod_ai")
"""Files beside this one, without ending."""


@dataclass(frozen=True)
class Item:
    """One item of a checklist.

    Attributes:
        number: As the guideline counts, such as `12c`.
        section: Heading that it belongs to.
        asks: What it asks for, in our words.
        answer: Name of the statement that answers it; empty where only the authors can.
        left: What the authors have to add to the answer.
    """

    number: str
    section: str
    asks: str
    answer: str = ""
    left: str = ""


@dataclass(frozen=True)
class Guideline:
    """A checklist.

    Attributes:
        title: Short name.
        source: Publication.
        items: In its order.
    """

    title: str
    source: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Row:
    """An item with what the run says to it.

    Attributes:
        item: What is asked.
        statement: What is answered; `None` where that is up to the authors.
        link: File of the run to look it up in; empty where the run has none.
    """

    item: Item
    statement: Statement | None
    link: str

    @property
    def state(self) -> str:
        """`filled`, `partly filled`, or `to be written by the authors`."""
        if self.statement is None:
            return "to be written by the authors"
        return "partly filled" if self.item.left else "filled"


@lru_cache
def read_guideline(name: str) -> Guideline:
    """Read one of `GUIDELINES`."""
    content = yaml.safe_load((files("hip_mri.evaluation.report") / f"{name}.yaml").read_text(encoding="utf-8"))
    return Guideline(content["title"], content["source"], tuple(Item(**item) for item in content["items"]))


def fill_guideline(guideline: Guideline, record: RunRecord) -> list[Row]:
    """Answer each item as far as the run can."""
    statements: Mapping[str, Statement] = make_statements(record)
    rows = []
    for item in guideline.items:
        statement = statements.get(item.answer)
        link = statement.file if statement and statement.file in record.files else ""
        rows.append(Row(item, statement, link))
    return rows


def compose_checklist(record: RunRecord) -> str:
    """Write both checklists as Markdown, with links to the files of the run.

    Args:
        record: What the run knows.
    """
    guidelines = [read_guideline(name) for name in GUIDELINES]
    filled = [(guideline, fill_guideline(guideline, record)) for guideline in guidelines]
    return ENVIRONMENT.get_template("checklist.md.jinja").render(filled=filled)


def write_checklist(checklist_file: Path, record: RunRecord) -> None:
    """Write `checklist.md`; see `compose_checklist`.

    Raises:
        WorkspaceError: The file cannot be written.
    """
    write_bytes(checklist_file, compose_checklist(record).encode())
