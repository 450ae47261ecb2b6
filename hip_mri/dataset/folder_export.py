"""The preprocessed images as a tree of folders that any program can read: `DATA/<split>/<label>/<image id>.png`."""

import os
import shutil
from pathlib import Path

from hip_mri.config import LABELS, SPLITS, PreprocessingSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.preprocessing import name_set
from hip_mri.errors import WorkspaceError
from hip_mri.storage import link_or_copy
from hip_mri.workspace import Workspace


def export_folders(workspace: Workspace, settings: PreprocessingSettings) -> Path:
    """Make `DATA/` show exactly the present split: add what is missing, remove what is not in it any more.

    The files are hard links into the set of preprocessed images, or copies where the disk knows no links.

    Args:
        workspace: Its manifest says what stands where.
        settings: The set that is shown.

    Returns:
        The folder `DATA`.

    Raises:
        WorkspaceError: A preprocessed image is missing, or the disk is full or not writable.
    """
    set_name = name_set(settings)
    ready = select_ready(read_manifest(workspace.manifest_file))
    for split in SPLITS:
        for label in LABELS:
            folder = workspace.data_folder / split / label
            images = ready[(ready["split"] == split) & (ready["label"] == label)]
            wanted = {
                f"{image_id}.png": workspace.preprocessed_file(set_name, sha256)
                for image_id, sha256 in zip(images["image_id"], images["sha256"], strict=True)
            }
            try:
                _show(folder, wanted)
            except OSError as error:
                raise WorkspaceError(
                    f"{folder} could not be laid out ({error}). Make room on the disk or free the folder, "
                    "then start again: preprocessed images that are missing are made again."
                ) from error
    return workspace.data_folder


def _show(folder: Path, wanted: dict[str, Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with os.scandir(folder) as entries:
        present = {entry.name: entry.inode() for entry in entries}
    for name in present.keys() - wanted.keys():
        _remove(folder / name)
    for name, original in wanted.items():
        if present.get(name) != original.stat().st_ino:
            _remove(folder / name)
            link_or_copy(original, folder / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
