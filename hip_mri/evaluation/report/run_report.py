"""The facts of a run that all documents are rendered from, and the sentences about them.

Sentences are Jinja templates in `statements.yaml`, `limitations.yaml` and `captions.yaml`. They use the keys of
`metrics.json` directly, and the further names in `RunReport.facts`. A sentence that needs a value which the run does
not have is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml
from jinja2 import UndefinedError

from hip_mri.config import LABELS
from hip_mri.evaluation.charts.captions import EVIDENCE_TITLES, NOT_AVAILABLE, SPLIT_TITLES, name_group, name_label
from hip_mri.evaluation.metrics.confidence_intervals import MIN_GROUPS
from hip_mri.evaluation.metrics.table import METRICS, SUBGROUP_METRICS
from hip_mri.evaluation.report.settings import disclose, flatten_settings
from hip_mri.evaluation.report.templates import DOCUMENTS, SENTENCES

TITLE: Final = "Hip MRI: normal or osseous lesion"


@dataclass(frozen=True)
class RunReport:
    """A finished run.

    Attributes:
        metrics: Content of `metrics.json`.
        config: Settings of the run, nested as in `config.yaml`. Private values are never rendered.
        folder: Folder of the run, such as `workspace/runs/0001`.
        figures: PNG files, in the order in which they are shown.
        files: Files of the run that can be linked to, relative to its folder, such as `figures/roc.png`.
    """

    metrics: Mapping[str, Any]
    config: Mapping[str, Any]
    folder: Path = Path("runs", "0001")
    figures: tuple[Path, ...] = ()
    files: frozenset[str] = frozenset()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Variables of all templates."""
        group = name_group(self.metrics.get("grouping", {}))
        return {
            **self.metrics,
            "run": self,
            "title": TITLE,
            "group": group,
            "groups": f"{group}s",
            "config": self.config,
            "settings": {name: disclose(name, value) for name, value in flatten_settings(self.config).items()},
            "files": self.files,
            "say": self.say,
            "METRICS": METRICS,
            "SUBGROUP_METRICS": [METRICS[key] for key in SUBGROUP_METRICS],
            "MIN_GROUPS": MIN_GROUPS,
            "SPLITS": SPLIT_TITLES,
            "LABELS": {label: name_label(label) for label in LABELS},
            "EVIDENCE": EVIDENCE_TITLES,
        }

    def render(self, template: str, **variables: Any) -> str:
        """Render a document."""
        return DOCUMENTS.get_template(template).render(self.facts, **variables)

    def say(self, name: str) -> str:
        """Return a sentence of `statements.yaml`; `Not available.` if a value is missing."""
        return self.fill(read_yaml("statements.yaml")[name], missing=f"{NOT_AVAILABLE.capitalize()}.")

    def fill(self, sentence: str, missing: str = "") -> str:
        """Render the template of a sentence; `missing` if a value is missing."""
        try:
            return self._fill(sentence)
        except UndefinedError:
            return missing

    def _fill(self, sentence: str) -> str:
        def say(name: str) -> str:  # unlike `self.say` it does not replace missing values
            return self._fill(read_yaml("statements.yaml")[name])

        return " ".join(SENTENCES.from_string(sentence).render(self.facts, say=say).split())

    @property
    def limits(self) -> list[tuple[str, str]]:
        """Heading and text of each limit of the results; the notices come first."""
        notices = [notice.partition(":") for notice in self.metrics["notices"]]
        limits = [(heading.capitalize(), text.strip()) for heading, _, text in notices]
        limits = [(heading, text[:1].upper() + text[1:]) for heading, text in limits]
        return limits + [
            (heading, text)
            for limit in read_yaml("limitations.yaml")
            if (heading := self.fill(limit["heading"])) and (text := self.fill(limit["text"]))
        ]


@lru_cache
def read_yaml(name: str) -> Any:
    """Read a YAML file of this package."""
    return yaml.safe_load((files("hip_mri.evaluation.report") / name).read_text(encoding="utf-8"))


def list_files(run_folder: Path) -> frozenset[str]:
    """List the files of a run relative to its folder, with forward slashes."""
    return frozenset(file.relative_to(run_folder).as_posix() for file in run_folder.rglob("*") if file.is_file())
