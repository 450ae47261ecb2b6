"""Finds the images that no version was trained, tuned or tested with."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd
import yaml

from hip_mri.config import LABELS
from hip_mri.dataset.ingest import EXCLUDED
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.split_registry import HELD_OUT
from hip_mri.evaluation.run_tables import read_table
from hip_mri.registry.conclusions import list_unconcluded
from hip_mri.registry.versions import Version, list_versions
from hip_mri.run_files import CONFIG_FILE, MANIFEST_FILE, METRICS_FILE
from hip_mri.storage import read_json
from hip_mri.workspace import Workspace

COLUMNS = ("image_id", "sha256", "label", "split", "group", "patient")


@dataclass(frozen=True)
class Reference:
    """What new images are compared with: the latest version; before the first version, the latest run of the pipeline.

    Attributes:
        name: Such as `version 0003` or `run 0001`.
        folder: Holds its manifest and metrics.
    """

    name: str
    folder: Path

    @classmethod
    def named(cls, name: str, workspace: Workspace) -> Self:
        """The reference with a name."""
        kind, _, number = name.partition(" ")
        return cls(name, (workspace.runs_folder if kind == "run" else workspace.versions_folder) / number)

    def read_notices(self) -> tuple[str, ...]:
        """Read the texts that every output shows."""
        return tuple(read_json(self.folder / METRICS_FILE).get("notices", ()))


@dataclass(frozen=True)
class NewImages:
    """Counts of new images.

    Attributes:
        num_images: Images in use that are in no version; before the first version, those that are not in `since`.
        counts: The same by label.
        num_known: Images in use that are not new.
        since: Name of the reference; `None` where there is none.
        num_waiting: Images in use that are in no version, and images that were corrected since the latest one; they
            decide whether a model is trained.
    """

    num_images: int
    counts: Mapping[str, int]
    num_known: int
    since: str | None
    num_waiting: int


def find_new_images(workspace: Workspace) -> NewImages:
    """Count the images in use whose content is new."""
    manifest = read_manifest(workspace.manifest_file)
    images = select_ready(manifest)
    reference, new = find_reference(workspace), select_new(images, workspace)
    num_corrected = _count_corrected(manifest, list_images(reference and reference.folder))
    counts = new["label"].value_counts().reindex(list(LABELS), fill_value=0)
    return NewImages(
        num_images=len(new),
        counts={label: int(count) for label, count in counts.items()},
        num_known=len(images) - len(new),
        since=reference.name if reference else None,
        num_waiting=len(new) + num_corrected if _list_concluded(workspace) else len(images),
    )


def _count_corrected(manifest: pd.DataFrame, known: pd.DataFrame) -> int:
    """Count the images of the latest version that have another label now, or are excluded."""
    is_excluded = (manifest["state"] == "quarantined") & (manifest["reason"] == EXCLUDED)
    present = manifest[(manifest["state"] == "ready") | is_excluded].drop_duplicates("sha256").set_index("sha256")
    shared = present[present.index.isin(known["sha256"])]
    before = known.set_index("sha256")["label"][shared.index]
    return int(((shared["label"] != before) | (shared["state"] == "quarantined")).sum())


def select_new(images: pd.DataFrame, workspace: Workspace) -> pd.DataFrame:
    """Select the rows of images whose content is in no version and not in the reference.

    Images that were held out are not new: a delivered image is ready until the split holds it out again.
    """
    reference = find_reference(workspace)
    folders = {version.folder for version in _list_concluded(workspace)} | ({reference.folder} if reference else set())
    return _drop_images(images, folders)


def select_unused(images: pd.DataFrame, workspace: Workspace) -> pd.DataFrame:
    """Select the rows of new images that are in no challenger either whose retraining has not ended."""
    return _drop_images(select_new(images, workspace), [version.folder for version in list_unconcluded(workspace)])


def find_reference(workspace: Workspace) -> Reference | None:
    """Find what new images are compared with; `None` before the first version and the first run of the pipeline.

    The latest version is that of the latest run: an older run can be registered later.
    """
    if versions := _list_concluded(workspace):
        latest = max(versions, key=lambda version: (version.run, version.number))
        return Reference.named(f"version {latest.name}", workspace)
    runs = [file.parent for file in workspace.runs_folder.glob(f"[0-9]*/{METRICS_FILE}")]
    latest_run = max(filter(_is_of_pipeline, runs), key=lambda folder: folder.name, default=None)
    return Reference.named(f"run {latest_run.name}", workspace) if latest_run else None


def list_images(folder: Path | None, states: Collection[str] = ("ready",)) -> pd.DataFrame:
    """List the images of a version or run; by default those that it was trained, tuned or tested with.

    Args:
        folder: Of the version or run; none has no images.
        states: States of the images in its manifest.

    Returns:
        Columns image_id, sha256, label, split, group and patient, as text.
    """
    if folder is None:
        return pd.DataFrame(columns=list(COLUMNS), dtype="str")
    listed = read_table(folder / MANIFEST_FILE)
    return listed.loc[listed["state"].isin(states), list(COLUMNS)]


def _drop_images(images: pd.DataFrame, folders: Iterable[Path]) -> pd.DataFrame:
    """Drop the rows of images that versions or runs used or held out."""
    known = {sha256 for folder in folders for sha256 in list_images(folder, ("ready", HELD_OUT))["sha256"]}
    return images[~images["sha256"].isin(known)]


def _list_concluded(workspace: Workspace) -> list[Version]:
    """List the versions without challengers whose retraining has not ended.

    The images of these are new to the next retraining, which has to finish with them.
    """
    unconcluded = list_unconcluded(workspace)
    return [version for version in list_versions(workspace) if version not in unconcluded]


def _is_of_pipeline(run: Path) -> bool:
    """Whether a run was made by the pipeline; that of an interrupted retraining does not make its images known."""
    settings = yaml.safe_load((run / CONFIG_FILE).read_text())
    return isinstance(settings, dict) and "source" in settings
