"""The model that scores new images: found by name, checked against its recorded hashes, and never loaded otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from hip_mri.config import Precision, PreprocessingSettings
from hip_mri.errors import ReleaseError, list_offenders
from hip_mri.hashes import HASHES, read_hashes
from hip_mri.registry.champion import read_champion
from hip_mri.registry.versions import MODEL, RECORD, read_record, read_version
from hip_mri.serving.served_network import SavedNetwork
from hip_mri.storage import digest_file, read_json
from hip_mri.workspace import Workspace, resolve_path

CHAMPION: Final = "champion"

NOVELTY: Final = "novelty.npz"

NEEDED_FILES: Final = (MODEL, "metrics.json", "config.yaml")
"""Files of a run or a version without which nothing can be scored."""


@dataclass(frozen=True)
class ServedModel:
    """A model that may score new images.

    Attributes:
        name: Such as `version 0003` or `run 0001`.
        network: The whole network, with the hash that was recorded for it.
        threshold: Scores at or above it are called a lesion; it was chosen on validation images.
        notices: What every output of it must say.
        novelty_file: For `load_novelty`; `None` where an older run wrote none.
    """

    name: str
    network: SavedNetwork
    threshold: float
    notices: tuple[str, ...]
    novelty_file: Path | None


def find_model(workspace: Workspace, model: str) -> ServedModel:
    """Find the model that is to score, and see that it is what was recorded.

    Args:
        workspace: Where versions and the champion are looked for.
        model: `champion`, the number of a version, or the path of the folder of a run or a version.

    Returns:
        The model.

    Raises:
        ReleaseError: There is none of that name, or a file of it is not the recorded one.
        SettingsError: The path begins with a home folder that nobody has.
        WorkspaceError: Its record cannot be read.
    """
    if model == CHAMPION:
        champion = read_champion(workspace)
        if champion is None:
            raise ReleaseError(
                f"model: no version serves in {workspace.root} yet. Promote one, or give --model the number of a "
                "version or the folder of a run, such as workspace/runs/0001."
            )
        return load_served_model(champion.folder)
    if model.isdecimal():
        return load_served_model(read_version(workspace, int(model)).folder)
    return load_served_model(resolve_path(model, "model"))


def load_served_model(folder: Path) -> ServedModel:
    """Read what a run or a version says of its model.

    Args:
        folder: It needs nothing around it, so that it can be copied to another machine.

    Returns:
        The model.

    Raises:
        ReleaseError: The folder holds no run and no version, or a file of it is not the recorded one.
        WorkspaceError: Its record cannot be read.
    """
    recorded, name = _read_record(folder)
    used = [file for file in (*NEEDED_FILES, NOVELTY) if file in recorded or file in NEEDED_FILES]
    changed = [file for file in used if not _is_as_recorded(folder / file, recorded.get(file))]
    if changed:
        raise ReleaseError(
            f"model: {list_offenders(changed)} in {folder} is missing or has another SHA-256 than was recorded, so "
            "nothing is loaded. Restore the folder from a backup, or give another model."
        )
    metrics, settings = read_json(folder / "metrics.json"), yaml.safe_load((folder / "config.yaml").read_text())
    try:
        return ServedModel(
            name=name,
            network=SavedNetwork(
                folder / MODEL,
                recorded[MODEL],
                settings["model"]["backbone"],
                PreprocessingSettings.model_validate(settings["preprocessing"]),
                _find_precision(metrics, settings),
            ),
            threshold=float(metrics["threshold"]),
            notices=tuple(metrics["notices"]),
            novelty_file=folder / NOVELTY if NOVELTY in used else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ReleaseError(
            f"model: metrics.json or config.yaml in {folder} does not say what is needed ({error}). Train again, or "
            "give another model."
        ) from error


def _read_record(folder: Path) -> tuple[Mapping[str, str], str]:
    """Recorded hash of each file by its name, and what to call the model."""
    if (folder / RECORD).is_file():
        version = read_record(folder)
        return version.files, f"version {version.name}"
    if (folder / HASHES).is_file():
        return read_hashes(folder), f"run {folder.name}"
    raise ReleaseError(
        f"model: {folder} is neither a finished run nor a version: it has no {HASHES} and no {RECORD}. Give "
        f"`{CHAMPION}`, the number of a version, or a folder such as workspace/runs/0001."
    )


def _is_as_recorded(file: Path, sha256: str | None) -> bool:
    return file.is_file() and digest_file(file) == sha256


def _find_precision(metrics: Mapping[str, Any], settings: Mapping[str, Any]) -> Precision:
    """Precision behind the figures; a fine-tuned network scores all images as a whole, in float32."""
    return "float32" if settings["training"]["fine_tune"]["epochs"] else metrics["features"]["precision"]
