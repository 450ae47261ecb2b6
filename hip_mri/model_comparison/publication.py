"""Publishes a comparison: scores, results, chart, HTML page, and settings for `hip-mri run --config`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd
import yaml

from hip_mri.config import CompareConfig
from hip_mri.evaluation.charts.captions import collect_notices, summarize_notices
from hip_mri.evaluation.charts.style import save_figure
from hip_mri.evaluation.environment import find_commit, list_versions
from hip_mri.evaluation.report.embedding import encode_data_uri, read_picture, shrink_png
from hip_mri.evaluation.report.settings import withhold_names
from hip_mri.evaluation.report.templates import load_templates
from hip_mri.hashes import record_hashes
from hip_mri.model_comparison.chart import draw_candidates
from hip_mri.model_comparison.evaluated_candidate import EvaluatedCandidate
from hip_mri.model_comparison.results import SCORE_COLUMNS, compute_results
from hip_mri.models.cross_validation import read_training_images
from hip_mri.run_files import CONFIG_FILE, REPORT_FILE
from hip_mri.storage import find_next_folder, publish_folder, write_bytes, write_json
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

COMPARISON_FILE: Final = "comparison.json"
SCORES_FILE: Final = "scores.csv"
CHART_FILE: Final = "candidates.png"
CONFIGS_FOLDER: Final = "configs"
"""Settings of each candidate, by its number in the list."""

MAX_PICTURE_BYTES: Final = 60_000
"""Largest picture in a Prefect artifact."""

_TEMPLATES: Final = load_templates("hip_mri.model_comparison")


@dataclass(frozen=True)
class PublishedComparison:
    """A published comparison.

    Attributes:
        folder: Holds `report.html`, `comparison.json`, `scores.csv`, `config.yaml` and more.
        headline: The result in one line.
        rows: Table for Prefect.
        markdown: Summary for Prefect.
    """

    folder: Path
    headline: str
    rows: list[dict[str, Any]] = field(repr=False)
    markdown: str = field(repr=False)


def publish_comparison(
    workspace: Workspace,
    config: CompareConfig,
    evaluated: Sequence[EvaluatedCandidate],
    left_out: Mapping[str, str],
    *,
    is_synthetic: bool,
) -> PublishedComparison:
    """Compute the results and write the folder of a comparison.

    Args:
        workspace: The comparison gets the next number in its `comparisons`.
        config: Settings of the comparison.
        evaluated: The candidates, the reference first.
        left_out: Reason by name of the candidates that could not be evaluated.
        is_synthetic: Whether the images are synthetic.
    """
    folder, scores = find_next_folder(workspace.model_comparisons_folder), gather_scores(workspace, evaluated)
    candidates = [it.describe() for it in evaluated]
    notices = dict.fromkeys([*collect_notices(is_synthetic=is_synthetic, weights_notice=""), *_list_notices(evaluated)])
    facts = {
        "name": folder.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": config.seed,
        "notices": list(notices),
        "left_out": dict(left_out),
        "candidates": candidates,
        "results": compute_results(scores, candidates, config.seed),
        "versions": list_versions(),
        "commit": find_commit(),
    }
    with publish_folder(folder) as fresh:
        scores.to_csv(fresh / SCORES_FILE, index=False)
        write_json(fresh / COMPARISON_FILE, facts)
        chart = save_figure(draw_candidates(facts["results"], summarize_notices(notices)), fresh / CHART_FILE)
        _write_configs(evaluated, facts["results"]["simplest"], fresh)
        page = render(facts, encode_data_uri(read_picture(chart)), "comparison.html.jinja")
        write_bytes(fresh / REPORT_FILE, page.encode())
        picture = encode_data_uri(shrink_png(chart, MAX_PICTURE_BYTES))
        markdown = render(facts, picture, "comparison.md.jinja")
        record_hashes(fresh)
    headline = describe_result(facts["results"])
    logger.info("Comparison %s: %s", folder.name, headline)
    return PublishedComparison(folder, headline, tabulate(facts), markdown)


def gather_scores(workspace: Workspace, evaluated: Sequence[EvaluatedCandidate]) -> pd.DataFrame:
    """Join the stored scores of all candidates with the groups of the images; columns of `SCORE_COLUMNS`."""
    groups = read_training_images(workspace).set_index("image_id")["group"]
    tables = [pd.read_csv(it.scores_file, dtype={"image_id": "str"}).assign(candidate=it.name) for it in evaluated]
    scores = pd.concat(tables, ignore_index=True)
    return scores.assign(group=groups.loc[scores["image_id"]].to_numpy())[list(SCORE_COLUMNS)]


def _list_notices(evaluated: Sequence[EvaluatedCandidate]) -> list[str]:
    """List the warnings on backbones, with the candidates that they concern."""
    names: dict[str, list[str]] = {}
    for it in evaluated:
        for notice in it.list_notices():
            names.setdefault(notice, []).append(it.name)
    everyone = len(evaluated)
    return [text if len(who) == everyone else f"{text} Candidates: {'; '.join(who)}." for text, who in names.items()]


def _write_configs(evaluated: Sequence[EvaluatedCandidate], simplest: str, folder: Path) -> None:
    """Write the settings of each candidate, and as `config.yaml` those of the simplest one."""
    (folder / CONFIGS_FOLDER).mkdir()
    for number, it in enumerate(evaluated, start=1):
        settings = withhold_names(it.described.candidate.config.model_dump(mode="json"))
        content = f"# Candidate: {it.name}\n{yaml.safe_dump(settings, sort_keys=False)}"
        (folder / CONFIGS_FOLDER / f"{number:02d}.yaml").write_text(content)
        if it.name == simplest:
            (folder / CONFIG_FILE).write_text(content)


def describe_result(results: Mapping[str, Any]) -> str:
    """Describe the result in one line."""
    best, simplest = f"“{results['best']}”", f"“{results['simplest']}”"
    if not results["is_any_difference_shown"]:
        return f"No difference shown; the simplest candidate within one standard error of the best is {simplest}"
    if best == simplest:
        return f"{best} has the highest AUC, and no simpler candidate is within one standard error"
    return f"{best} has the highest AUC; the simplest candidate within one standard error is {simplest}"


def list_rows(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Join what is known of each candidate, the highest AUC first."""
    measured = {row["name"]: row for row in facts["results"]["candidates"]}
    rows = [{**candidate, **measured[candidate["name"]]} for candidate in facts["candidates"]]
    return sorted(rows, key=lambda row: -row["auc"])


def tabulate(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the rows of the table in Prefect."""
    results = facts["results"]

    def write(difference: Mapping[str, Any] | None) -> str:
        if difference is None:
            return ""
        interval = difference["interval"]
        limits = f" ({interval[0]:+.3f} to {interval[1]:+.3f})" if interval else ""
        return f"{difference['value']:+.3f}{limits}{'' if difference['is_shown'] else ', not shown'}"

    return [
        {
            "candidate": row["name"],
            "AUC": f"{row['auc']:.3f}"
            + ("" if row["interval"] is None else " ({:.3f} to {:.3f})".format(*row["interval"])),
            "difference to the best": write(row["difference_to_best"]),
            f"difference to {results['reference']}": write(row["difference_to_reference"]),
            "ms per image": round(1000 * row["seconds_per_image"], 1),
            "MB": round(row["num_bytes"] / 1e6, 1),
            "remark": list_remarks(row["name"], results),
        }
        for row in list_rows(facts)
    ]


def list_remarks(name: str, results: Mapping[str, Any]) -> str:
    """Name the roles of a candidate."""
    roles = {"best": "highest AUC", "simplest": "simplest within one standard error", "reference": "reference"}
    return ", ".join(text for role, text in roles.items() if results[role] == name)


def render(facts: Mapping[str, Any], picture: str, template: str) -> str:
    """Render the page or the summary."""
    return _TEMPLATES.get_template(template).render(
        facts,
        headline=describe_result(facts["results"]),
        rows=list_rows(facts),
        picture=picture,
        list_remarks=list_remarks,
    )
