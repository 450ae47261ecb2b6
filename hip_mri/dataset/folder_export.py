"""Exports the preprocessed images as a tree of folders for other programs: `DATA/<split>/<label>/<image id>.png`."""

import filecmp
import shutil
from collections.abc import Mapping
from pathlib import Path

from hip_mri.config import LABELS, SPLITS, PreprocessingSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.preprocessing import name_set
from hip_mri.disk_errors import explain_write_errors
from hip_mri.errors import WorkspaceError
from hip_mri.storage import make_private_folder
from hip_mri.workspace import Workspace


def export_folders(workspace: Workspace, settings: PreprocessingSettings) -> Path:
    """Make `DATA/` hold exactly the images of the current split: add, replace and remove files as needed.

    The files are copies: what users do with them changes nothing that the pipeline reads.

    Returns:
        The folder `DATA`, accessible by its owner alone.

    Raises:
        WorkspaceError: A preprocessed image is missing, or the disk is full or not writable.
    """
    set_name = name_set(settings)
    ready = select_ready(read_manifest(workspace.manifest_file))
    for split in SPLITS:
        for label in LABELS:
            images = ready[(ready["split"] == split) & (ready["label"] == label)]
            originals = {
                f"{image_id}.png": workspace.preprocessed_file(set_name, sha256)
                for image_id, sha256 in zip(images["image_id"], images["sha256"], strict=True)
            }
            _mirror(originals, workspace.data_folder / split / label)
    return workspace.data_folder


def _mirror(originals: Mapping[str, Path], folder: Path) -> None:
    """Make a folder hold copies of these files, by name, and nothing else."""
    with explain_write_errors(folder):
        make_private_folder(folder)
        for path in list(folder.iterdir()):
            if path.name not in originals:
                _remove(path)
    for name, original in originals.items():
        if not original.exists():
            raise WorkspaceError(f"{original} is missing. Start again: it is made again.")
        copy = folder / name
        with explain_write_errors(copy):
            if not _is_copy(copy, original):
                _remove(copy)
                shutil.copy2(original, copy)


def _is_copy(path: Path, original: Path) -> bool:
    """Whether a file has equal content, or equal size and time, and is no link to the original."""
    return path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1 and filecmp.cmp(original, path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
