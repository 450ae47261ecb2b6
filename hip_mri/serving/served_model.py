"""Finds the model that scores new images and checks it against its recorded hashes before it is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from hip_mri.config import Precision, PreprocessingSettings
from hip_mri.errors import ReleaseError, list_offenders
from hip_mri.evaluation.conformal import DecisionRule, read_image_rule, read_patient_rule
from hip_mri.hashes import HASHES, find_changed, read_hashes
from hip_mri.registry.champion import read_champion
from hip_mri.registry.versions import RECORD, read_record, read_version
from hip_mri.run_files import CONFIG_FILE, MANIFEST_FILE, METRICS_FILE, MODEL_FILE, NOVELTY_FILE
from hip_mri.serving.served_network import SavedNetwork
from hip_mri.storage import read_json
from hip_mri.workspace import Workspace, resolve_path

CHAMPION: Final = "champion"

NEEDED_FILES: Final = (MODEL_FILE, METRICS_FILE, CONFIG_FILE)
"""Files of a run or a version that scoring needs."""


@dataclass(frozen=True)
class ServedModel:
    """A model that can score new images.

    Attributes:
        name: Such as `version 0003` or `run 0001`.
        network: The whole network, with its recorded hash.
        threshold: Scores at or above it are called a lesion; it was chosen on validation images.
        conformal: Rule of `hip_mri.evaluation.conformal.decide` for images.
        patients: The same for the mean score of a patient's images; `None` if the run has no threshold for patients.
        notices: Texts that every output must show.
        novelty_file: File for `load_novelty`; `None` where the run wrote none.
        manifest_file: File for `read_known_splits`; `None` where it is missing.
    """

    name: str
    network: SavedNetwork
    threshold: float
    conformal: DecisionRule
    patients: DecisionRule | None
    notices: tuple[str, ...]
    novelty_file: Path | None
    manifest_file: Path | None


def find_model(workspace: Workspace, model: str) -> ServedModel:
    """Find a model by name and check its files.

    Args:
        workspace: Has the versions and the champion.
        model: `champion`, the number of a version, or the path of the folder of a run or a version.

    Raises:
        ReleaseError: There is no such model, or one of its files was changed.
        SettingsError: The path begins with the home folder of a user who does not exist.
        WorkspaceError: Its record cannot be read.
    """
    if model == CHAMPION:
        if not workspace.root.is_dir():
            raise ReleaseError(f"workspace: there is no folder {workspace.root}. Give --workspace.")
        champion = read_champion(workspace)
        if champion is None:
            raise ReleaseError(
                f"model: {workspace.root} has no champion yet. Promote a version, or give --model the number of a "
                "version or the folder of a run, such as workspace/runs/0001."
            )
        return load_served_model(champion.folder)
    if model.isdecimal():
        return load_served_model(read_version(workspace, int(model)).folder)
    return load_served_model(resolve_path(model, "model"))


def load_served_model(folder: Path) -> ServedModel:
    """Read the model of a run or a version from its folder, which may have been copied to another machine.

    Raises:
        ReleaseError: The folder is neither a run nor a version, or a file in it was changed.
        WorkspaceError: Its record cannot be read.
    """
    recorded, name = _read_record(folder)
    used = [file for file in (*NEEDED_FILES, NOVELTY_FILE) if file in recorded or file in NEEDED_FILES]
    if MANIFEST_FILE in recorded and (folder / MANIFEST_FILE).is_file():  # a copy of the folder may lack it
        used.append(MANIFEST_FILE)
    changed = find_changed(folder, {file: recorded.get(file, "") for file in used})
    if changed:
        raise ReleaseError(
            f"model: {list_offenders(changed)} in {folder} is missing or has another SHA-256 than was recorded, so "
            "the model is not loaded. Restore the folder from a backup, or give another model."
        )
    metrics, settings = read_json(folder / METRICS_FILE), yaml.safe_load((folder / CONFIG_FILE).read_text())
    try:
        return ServedModel(
            name=name,
            network=SavedNetwork(
                folder / MODEL_FILE,
                recorded[MODEL_FILE],
                settings["model"]["backbone"],
                PreprocessingSettings.model_validate(settings["preprocessing"]),
                _find_precision(metrics, settings),
                metrics["features"].get("averages_mirrored", False),  # not in runs of earlier versions
            ),
            threshold=float(metrics["threshold"]),
            conformal=read_image_rule(metrics),
            patients=read_patient_rule(metrics),
            notices=tuple(metrics["notices"]),
            novelty_file=folder / NOVELTY_FILE if NOVELTY_FILE in used else None,
            manifest_file=folder / MANIFEST_FILE if MANIFEST_FILE in used else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ReleaseError(
            f"model: metrics.json or config.yaml in {folder} is incomplete ({error}). Train again, or give another "
            "model."
        ) from error


def _read_record(folder: Path) -> tuple[Mapping[str, str], str]:
    """Return the recorded SHA-256 of each file by name, and the name of the model."""
    if (folder / RECORD).is_file():
        version = read_record(folder)
        return version.files, f"version {version.name}"
    if (folder / HASHES).is_file():
        return read_hashes(folder), f"run {folder.name}"
    raise ReleaseError(
        f"model: {folder} is neither a finished run nor a version: it has no {HASHES} and no {RECORD}. Give "
        f"`{CHAMPION}`, the number of a version, or a folder such as workspace/runs/0001."
    )


def _find_precision(metrics: Mapping[str, Any], settings: Mapping[str, Any]) -> Precision:
    """Return the precision in which the model was evaluated; a fine-tuned network is evaluated in float32."""
    return "float32" if settings["training"]["fine_tune"]["epochs"] else metrics["features"]["precision"]
