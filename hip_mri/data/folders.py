"""The preprocessed images as a tree of folders that any program can read: `DATA/<split>/<label>/<image id>.png`."""

import os
import shutil
from pathlib import Path

from hip_mri.config import LABELS, SPLITS, PreprocessingSettings
from hip_mri.data.manifest import read_manifest, select_ready
from hip_mri.data.preprocess import name_set
from hip_mri.workspace import Workspace


def lay_out_folders(workspace: Workspace, settings: PreprocessingSettings) -> Path:
    """Make `DATA/` show exactly the present split: add what is missing, remove what is not in it any more.

    The files are hard links into the set of preprocessed images, or copies where the disk knows no links.

    Args:
        workspace: Its manifest says what stands where.
        settings: The set that is shown.

    Returns:
        The folder `DATA`.
    """
    ready = select_ready(read_manifest(workspace.manifest_file))
    for split in SPLITS:
        for label in LABELS:
            folder = workspace.data_folder / split / label
            folder.mkdir(parents=True, exist_ok=True)
            images = ready[(ready["split"] == split) & (ready["label"] == label)]
            wanted = {
                f"{image_id}.png": workspace.preprocessed_file(name_set(settings), sha256)
                for image_id, sha256 in zip(images["image_id"], images["sha256"], strict=True)
            }
            _show(folder, wanted)
    return workspace.data_folder


def _show(folder: Path, wanted: dict[str, Path]) -> None:
    with os.scandir(folder) as entries:
        present = {entry.name: entry.inode() for entry in entries}
    for name in present.keys() - wanted.keys():
        (folder / name).unlink()
    for name, original in wanted.items():
        if present.get(name) != original.stat().st_ino:
            _link(original, folder / name)


def _link(original: Path, shown: Path) -> None:
    shown.unlink(missing_ok=True)
    try:
        os.link(original, shown)
    except OSError:
        shutil.copyfile(original, shown)
