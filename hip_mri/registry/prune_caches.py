"""Removes cached files that neither the latest run nor a champion, present or former, uses.

Other versions can still score new images: their networks are then prepared again from the files of the version.
Everything that is removed can be computed again. Runs, versions, reports, predictions, the images of the manifest and
the fetched sources of training images are never removed.
"""

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hip_mri.errors import WorkspaceError
from hip_mri.grouping.fingerprints import FINGERPRINT_RECIPE
from hip_mri.hashes import HASHES, digest_file, read_hashes
from hip_mri.models.backbones.backbone import IDENTITY_NAME, open_backbone
from hip_mri.models.backbones.engine_choice import ENGINE_SUFFIX
from hip_mri.models.network import TUNED_BACKBONE
from hip_mri.registry.champion import read_history
from hip_mri.registry.conclusions import list_unconcluded
from hip_mri.registry.versions import read_version
from hip_mri.run_files import METRICS_FILE, MODEL_FILE
from hip_mri.storage import read_json
from hip_mri.workspace import Workspace

SERVED_NETWORK: Final = "network.json"
"""In the folder of a network that was prepared for scoring; its `model_sha256` is that of the model."""

EXPORT_SUFFIX: Final = "-openvino"
"""Ending of the folder with the OpenVINO export of the backbone beside it."""


@dataclass(frozen=True)
class Removal:
    """A cached file or folder that is not needed.

    Attributes:
        kind: Name of the cache, such as `features`.
        path: What is removed.
        num_bytes: Disk space that this frees; files with another hard link free none.
    """

    kind: str
    path: Path
    num_bytes: int


def plan_pruning(workspace: Workspace) -> list[Removal]:
    """List the cached files that neither the latest finished run nor a champion uses; removes nothing.

    What was written after that run is kept, since a run that was interrupted continues with it.

    Args:
        workspace: Where to look.

    Returns:
        The files and folders, sorted by kind and path.

    Raises:
        WorkspaceError: The folder has neither a finished run nor scored images, or a run uses it.
    """
    with _hold(workspace):
        return _plan(workspace)


def prune(workspace: Workspace) -> list[Removal]:
    """Remove what `plan_pruning` lists.

    Returns:
        What was removed.

    Raises:
        WorkspaceError: As `plan_pruning`, or a file cannot be removed.
    """
    with _hold(workspace):
        plan = _plan(workspace)
        for removal in plan:
            try:
                shutil.rmtree(removal.path) if removal.path.is_dir() else removal.path.unlink()
            except OSError as error:
                raise WorkspaceError(
                    f"workspace: {removal.path} could not be removed ({error.strerror}). Make it writable, then prune "
                    "again."
                ) from error
        return plan


@contextlib.contextmanager
def _hold(workspace: Workspace) -> Iterator[None]:
    """Lock a workspace, and its serving part, against runs; another folder is refused before the lock is created."""
    if _find_latest_run(workspace) is None and not workspace.serving.root.is_dir():
        raise WorkspaceError(
            f"workspace: {workspace.root} holds no finished run, so what is in use is not known. Finish a run first, "
            "or give another workspace."
        )
    with workspace.hold_serving(), workspace.hold():
        yield


def _plan(workspace: Workspace) -> list[Removal]:
    run = _find_latest_run(workspace)
    needed = set() if run is None else set(read_hashes(run).values())
    for number in {change.version for change in read_history(workspace)}:
        needed.update(read_version(workspace, number).files.values())
    unused = [("serving", path) for path in _list_unused_in_serving(workspace.serving, needed)]
    if run is not None:
        unused += _list_unused(workspace, run, needed)
    return _measure(sorted(unused))


def _find_latest_run(workspace: Workspace) -> Path | None:
    finished = [file.parent for file in workspace.runs_folder.glob(f"[0-9]*/{METRICS_FILE}")]
    return max(finished, key=lambda folder: int(folder.name), default=None)


def _list_unused(workspace: Workspace, run: Path, needed: set[str]) -> Iterator[tuple[str, Path]]:
    """List what is not needed and not newer than the latest run, with its kind.

    Args:
        workspace: Where to look.
        run: Folder of the latest finished run.
        needed: SHA-256 of every file of that run and of the champions.
    """
    features = read_json(run / METRICS_FILE)["features"]
    models = [folder for folder in _list(workspace.models_folder) if _read_model_sha256(folder) in needed]
    sets = features["set"], features["preprocessed"]
    backbones = _list_needed_backbones(workspace, models)
    is_pending = bool(list_unconcluded(workspace))  # its report will show the picture of the drift check

    is_needed: dict[Path, Callable[[Path], bool]] = {
        workspace.features_folder: lambda folder: folder.name in sets,
        workspace.preprocessed_folder: lambda folder: folder.name in sets,
        workspace.fingerprints_folder: lambda folder: folder.name == str(FINGERPRINT_RECIPE),
        workspace.models_folder: lambda folder: folder in models,
        workspace.backbones_folder: lambda folder: (
            folder.name.removesuffix(EXPORT_SUFFIX).removesuffix(ENGINE_SUFFIX) in backbones
        ),
        workspace.drift_folder: lambda _: is_pending,
    }
    is_needed |= dict.fromkeys(
        (
            *(workspace.folds_folder, workspace.neighbors_folder, workspace.leakage_folder, workspace.novelty_folder),
            *(workspace.shortcuts_folder, workspace.training_sizes_folder, workspace.label_review_folder),
        ),
        lambda file: digest_file(file) in needed,
    )
    is_needed |= dict.fromkeys(
        (workspace.explanations_folder, workspace.shards_folder, workspace.cache_folder), lambda _: False
    )
    ended_at = (run / HASHES).stat().st_mtime
    for cache, check in is_needed.items():
        yield from ((cache.name, it) for it in _list(cache) if it.stat().st_mtime <= ended_at and not check(it))


def _list_needed_backbones(workspace: Workspace, models: Sequence[Path]) -> set[str]:
    """Name the folders of the backbones that models use, or that their fine-tuning may have started from."""
    digests = {read_json(folder / IDENTITY_NAME)["backbone"] for folder in models}
    tuned = [open_backbone(folder / TUNED_BACKBONE) for folder in models if (folder / TUNED_BACKBONE).is_dir()]
    architectures = [backbone.identity for backbone in tuned]
    names = set()
    for folder in _list(workspace.backbones_folder):
        with contextlib.suppress(WorkspaceError, LookupError, TypeError):  # an export, or damaged
            backbone = open_backbone(folder)
            if backbone.digest in digests or backbone.identity in architectures:
                names.add(folder.name)
    return names


def _read_model_sha256(folder: Path) -> str | None:
    """Read the SHA-256 of a trained model; `None` for a checkpoint and where the list of hashes is damaged."""
    try:
        return read_hashes(folder).get(MODEL_FILE)
    except WorkspaceError:
        return None


def _list_unused_in_serving(serving: Workspace, needed: set[str]) -> Iterator[Path]:
    """List everything but the networks that were prepared from needed models."""
    kept = {
        file.parent.name
        for file in serving.backbones_folder.glob(f"[!.]*/{SERVED_NETWORK}")
        if read_json(file)["model_sha256"] in needed
    }
    for path in _list(serving.root):
        if path == serving.backbones_folder:
            yield from (it for it in _list(path) if it.name.removesuffix(EXPORT_SUFFIX) not in kept)
        elif path.is_dir():
            yield from _list(path)
        elif path != serving.format_file:
            yield path


def _list(folder: Path) -> list[Path]:
    """List the content of a folder without hidden files, such as locks; empty where the folder is missing."""
    return sorted(folder.glob("[!.]*"))


def _measure(unused: Sequence[tuple[str, Path]]) -> list[Removal]:
    """Add the disk space that each removal frees, given that all others are removed too."""
    files = [[it.lstat() for it in (path, *path.rglob("*")) if not it.is_dir()] for _, path in unused]
    num_links = Counter((it.st_dev, it.st_ino) for found in files for it in found)
    return [
        Removal(kind, path, sum(it.st_size for it in found if num_links.pop((it.st_dev, it.st_ino), 0) == it.st_nlink))
        for (kind, path), found in zip(unused, files, strict=True)
    ]
