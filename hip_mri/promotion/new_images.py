"""What has come since the latest version was trained."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from hip_mri.config import LABELS
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.evaluation.tables import read_table
from hip_mri.registry.versions import Version, list_unreported, list_versions
from hip_mri.workspace import Workspace


@dataclass(frozen=True)
class Arrivals:
    """Images that no version was trained with.

    Attributes:
        num_images: Images in use that the latest version did not know.
        counts: The same by label.
        num_known: Images in use that it knew.
        since: Name of the latest version; `None` before the first.
    """

    num_images: int
    counts: Mapping[str, int]
    num_known: int
    since: str | None


def find_arrivals(workspace: Workspace) -> Arrivals:
    """Count the images of the manifest that are in use and that the latest version did not know, by their content."""
    images = select_ready(read_manifest(workspace.manifest_file))
    latest = find_latest(workspace)
    new = images[~images["sha256"].isin(list_known(latest)["sha256"])]
    counts = new["label"].value_counts().reindex(list(LABELS), fill_value=0)
    return Arrivals(
        num_images=len(new),
        counts={label: int(count) for label, count in counts.items()},
        num_known=len(images) - len(new),
        since=latest.name if latest else None,
    )


def find_latest(workspace: Workspace) -> Version | None:
    """The version with the highest number, champion or not; `None` before the first.

    A challenger that no report speaks of does not count, or the images that it was trained with would be known, and
    the retraining that was killed over it would never be ended.
    """
    unreported = list_unreported(workspace)
    versions = [version for version in list_versions(workspace) if version not in unreported]
    return versions[-1] if versions else None


def list_known(version: Version | None) -> pd.DataFrame:
    """Images that a version was trained, tuned or tested with; columns image_id, sha256, label, split and group."""
    columns = ["image_id", "sha256", "label", "split", "group"]
    if version is None:
        return pd.DataFrame({column: [] for column in columns}, dtype="str")
    listed = read_table(version.folder / "manifest.csv")
    return listed.loc[listed["state"] == "ready", columns]
