"""Counts the images that were added since the latest version was trained."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pandas as pd

from hip_mri.config import LABELS
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.split_registry import HELD_OUT
from hip_mri.evaluation.run_tables import read_table
from hip_mri.registry.conclusions import list_unconcluded
from hip_mri.registry.versions import Version, list_versions
from hip_mri.run_files import MANIFEST_FILE
from hip_mri.workspace import Workspace


@dataclass(frozen=True)
class NewImages:
    """Counts of images that the latest version was not trained, tuned or tested with.

    Attributes:
        num_images: New images in use.
        counts: The same by label.
        num_known: Images in use that are not new.
        since: Name of the latest version; `None` before the first.
    """

    num_images: int
    counts: Mapping[str, int]
    num_known: int
    since: str | None


def find_new_images(workspace: Workspace) -> NewImages:
    """Count the images in use whose content is new to the latest version."""
    images = select_ready(read_manifest(workspace.manifest_file))
    latest = find_latest_version(workspace)
    new = select_new(images, latest)
    counts = new["label"].value_counts().reindex(list(LABELS), fill_value=0)
    return NewImages(
        num_images=len(new),
        counts={label: int(count) for label, count in counts.items()},
        num_known=len(images) - len(new),
        since=latest.name if latest else None,
    )


def select_new(images: pd.DataFrame, latest: Version | None) -> pd.DataFrame:
    """Select the rows of images whose content is new to the latest version.

    Images that it held out are not new: a delivered image is ready until the split holds it out again.
    """
    return images[~images["sha256"].isin(list_images(latest, ("ready", HELD_OUT))["sha256"])]


def find_latest_version(workspace: Workspace) -> Version | None:
    """Find the version with the highest number, champion or not; `None` before the first.

    A challenger whose retraining was interrupted does not count: otherwise its images would not be new to the next
    retraining, which has to finish with it.
    """
    unconcluded = list_unconcluded(workspace)
    versions = [version for version in list_versions(workspace) if version not in unconcluded]
    return versions[-1] if versions else None


def list_images(version: Version | None, states: Collection[str] = ("ready",)) -> pd.DataFrame:
    """List the images of a version; by default those that it was trained, tuned or tested with.

    Args:
        version: The version; none has no images.
        states: States of the images in the manifest of the version.

    Returns:
        Columns image_id, sha256, label, split, group and patient, as text.
    """
    columns = ["image_id", "sha256", "label", "split", "group", "patient"]
    if version is None:
        return pd.DataFrame(columns=columns, dtype="str")
    listed = read_table(version.folder / MANIFEST_FILE)
    return listed.loc[listed["state"].isin(states), columns]
