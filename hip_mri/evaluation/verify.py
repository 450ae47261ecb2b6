"""Verifies a finished run.

Computes all metrics again from `predictions.csv`, `manifest.csv` and the other tables of the run, and compares them and
all hashes with the recorded ones. A network that was built with Keras settings other than those of this pipeline is
reported as well.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeGuard, cast

import pandas as pd
import yaml

from hip_mri.config import PipelineConfig, RetrainConfig, TrainingConfig
from hip_mri.errors import HipMriError, SettingsError, WeightsError, WorkspaceError
from hip_mri.evaluation.conformal import decide, read_image_rule
from hip_mri.evaluation.corrections import summarize_corrections
from hip_mri.evaluation.metrics.results import evaluate
from hip_mri.evaluation.review.page import check_review
from hip_mri.evaluation.run_tables import read_scores, read_table
from hip_mri.grouping.split_checks import count_images
from hip_mri.hashes import HASHES, compare_hashes, digest, digest_file
from hip_mri.models.loading import list_foreign_settings
from hip_mri.run_files import (
    CONFIG_FILE,
    CORRECTIONS_FILE,
    MANIFEST_FILE,
    METRICS_FILE,
    MODEL_FILE,
    PREDICTIONS_FILE,
    REVIEW_FILE,
)
from hip_mri.storage import read_json
from hip_mri.workspace import Workspace, resolve_path

TOLERANCE: Final = 1e-9
"""Maximum relative difference; sums are rounded differently on other processors, a changed digit is a larger one."""


ADDED: Final = ("conformal", "uniform_attributes", "worst_errors")
"""Metrics that runs of earlier versions do not have."""


def verify_run(folder: Path) -> list[str]:
    """Verify a run folder.

    Args:
        folder: Such as `workspace/runs/0001`; the workspace around it has the attributes for subgroups.

    Returns:
        One sentence per difference.

    Raises:
        WorkspaceError: There is no finished run.
    """
    if not (folder / HASHES).is_file():
        raise WorkspaceError(f"{folder} is no finished run: it has no {HASHES}. Pass a folder in runs.")
    differences = compare_hashes(folder)
    try:
        metrics = read_json(folder / METRICS_FILE)
        config = _read_config(folder / CONFIG_FILE)
        scores = read_scores(folder, Workspace(folder.parent.parent), metrics["grouping"]["attributes"])
        computed = evaluate(scores, config.evaluation, config.seed)
        computed = {key: value for key, value in computed.items() if key in metrics or key not in ADDED}
        differences += compare(metrics, computed)
        differences += _compare_decisions(scores.predictions, computed)
        differences += compare(metrics, _count_images(folder), METRICS_FILE)
        if (review := folder / REVIEW_FILE).is_file():
            differences += check_review(review, metrics)
    except (HipMriError, OSError, ValueError, KeyError, TypeError) as error:
        differences.append(f"the metrics cannot be computed again: {error}")
        return differences
    return [
        *differences,
        *_compare_test_set(folder, metrics),
        *_compare_weights(config, metrics),
        *_check_keras_settings(folder / MODEL_FILE),
    ]


def compare(recorded: Any, computed: Any, name: str = METRICS_FILE) -> list[str]:
    """List the computed values that differ from the recorded ones; values that are only recorded are ignored.

    Args:
        recorded: A JSON value.
        computed: The same value, computed again.
        name: Position of the value.
    """
    if isinstance(computed, Mapping) and isinstance(recorded, Mapping):
        return [
            difference
            for key, value in cast("Mapping[str, Any]", computed).items()
            for difference in compare(
                recorded.get(key), value, f"{name}: {key}" if ":" not in name else f"{name}.{key}"
            )
        ]
    if _is_list(computed) and _is_list(recorded) and len(computed) == len(recorded):
        pairs = enumerate(zip(recorded, computed, strict=True))
        return [text for index, (one, other) in pairs for text in compare(one, other, f"{name}[{index}]")]
    if _is_number(computed) and _is_number(recorded):
        is_same = math.isclose(recorded, computed, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    else:
        is_same = recorded == computed
    return [] if is_same else [f"{name} says {_shorten(recorded)}, computed again it is {_shorten(computed)}"]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _count_images(folder: Path) -> dict[str, Any]:
    manifest = read_table(folder / MANIFEST_FILE)
    used = manifest[manifest["state"] == "ready"]
    states = Counter(manifest["state"])
    corrections_file = folder / CORRECTIONS_FILE
    corrections = summarize_corrections(read_table(corrections_file)) if corrections_file.exists() else None
    return {
        "data": {
            "num_images": states["ready"],
            "num_duplicates": states["duplicate"],
            "num_quarantined": states["quarantined"],
            "num_held_out": states["held_out"],
            "quarantined": dict(Counter(manifest.loc[manifest["state"] == "quarantined", "reason"])),
            "splits": count_images(used),
        },
        **({"corrections": corrections} if corrections else {}),
    }


def _compare_decisions(predictions: pd.DataFrame, computed: Mapping[str, Any]) -> Iterator[str]:
    if "conformal" in computed:
        is_other = predictions["decision"] != decide(predictions["score"], read_image_rule(computed))
        if is_other.any():
            yield f"{PREDICTIONS_FILE}: {is_other.sum()} decisions are not those of the scores"


def _compare_test_set(folder: Path, metrics: Mapping[str, Any]) -> Iterator[str]:
    locked = metrics["test_set"]
    manifest = read_table(folder / MANIFEST_FILE)
    listed = sorted(manifest.loc[manifest["split"] == "test", "sha256"])
    if not locked["num_missing"] and not locked.get("num_excluded") and digest(listed) != locked["sha256"]:
        yield f"{MANIFEST_FILE} has other test images than the locked test set of {METRICS_FILE}"


def _read_config(file: Path) -> TrainingConfig:
    settings = yaml.safe_load(file.read_text())
    return (RetrainConfig if "sources" in settings else PipelineConfig).model_validate(settings)


def _compare_weights(config: TrainingConfig, metrics: Mapping[str, Any]) -> Iterator[str]:
    """Compare the weights file, if it still exists, with the one that was used."""
    if config.model.weights in ("imagenet", "random"):
        return
    try:
        file = resolve_path(config.model.weights, "model.weights")
    except SettingsError:  # a home folder that only the machine of the run has
        return
    if file.is_file() and digest_file(file) != metrics["weights"]:
        yield "model.weights: the file has changed since the run"


def list_unrecorded(folder: Path) -> list[str]:
    """List what the run does not record and what therefore cannot be verified; these are no differences."""
    try:
        has_settings = "keras" in read_json(folder / METRICS_FILE)
    except (HipMriError, TypeError):  # listed as a difference
        return []
    return (
        []
        if has_settings
        else [
            "not recorded: the settings of Keras. The run was made by an earlier version, whose features depended on a "
            "keras.json; if there was one, run the pipeline again in the same workspace"
        ]
    )


def _check_keras_settings(model_file: Path) -> Iterator[str]:
    """Check for the data format and dtype of a `keras.json`, which earlier versions used."""
    try:
        foreign = list_foreign_settings(model_file)
    except (WeightsError, OSError):  # missing or changed, which the hashes show
        return
    if foreign:
        yield (
            f"{model_file.name}: its layers have {', '.join(foreign)}, from the settings of a keras.json: the metrics "
            "are not those of this architecture; run the pipeline again"
        )
