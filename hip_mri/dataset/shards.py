"""Cutting the manifest into shards, each the work of one task run.

An image's shard follows from the first bits of its hash. So a new image changes one shard and leaves the others,
and what was remembered about them, as they were.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from hip_mri.dataset.manifest import UNREADABLE, read_manifest, select_ready
from hip_mri.errors import WorkspaceError
from hip_mri.storage import digest, replace_file
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

SHARD_COLUMNS: Final = ("image_id", "sha256", "label", "split")

MIN_NUM_SHARDS: Final = 8
"""Small data are cut into as many shards, so that progress shows and every worker has something to do."""


@dataclass(frozen=True)
class Shard:
    """The work of one task run, small enough to be passed around.

    Attributes:
        name: Place in the plan, such as `3 of 16`.
        digest: SHA-256 of the list of images.
        file: Parquet file with the columns of `SHARD_COLUMNS`.
        num_images: Rows of that file.
    """

    name: str
    digest: str
    file: Path
    num_images: int


def plan_shards(workspace: Workspace, shard_size: int) -> list[Shard]:
    """Cut the ready images of the manifest into shards.

    Args:
        workspace: Its manifest is read and its `shards` folder written.
        shard_size: Most images per shard, on average.

    Returns:
        The shards that hold any image, in a fixed order.
    """
    images = select_ready(read_manifest(workspace.manifest_file))
    num_bits = _count_bits(len(images), shard_size)
    buckets = images["sha256"].str[:8].map(lambda digits: int(digits, 16) >> (32 - num_bits))
    groups = [rows for _, rows in images.loc[:, list(SHARD_COLUMNS)].groupby(buckets)]
    shards = [_write_shard(rows, f"{place} of {len(groups)}", workspace) for place, rows in enumerate(groups, 1)]
    _sweep(workspace.shards_folder, {shard.file for shard in shards})
    logger.info("Cut %d images into %d shards", len(images), len(shards))
    return shards


def read_shard(shard: Shard) -> pd.DataFrame:
    """Read the images of a shard, sorted by image id.

    Raises:
        WorkspaceError: The file is missing or damaged.
    """
    try:
        return pd.read_parquet(shard.file)
    except UNREADABLE as error:
        raise WorkspaceError(f"{shard.file} cannot be read. Start again: shards are planned anew.") from error


def _count_bits(num_images: int, shard_size: int) -> int:
    """Leading bits of the hash that name the shard, so that there are enough shards of `shard_size`."""
    num_shards = max(MIN_NUM_SHARDS, -(-num_images // shard_size))
    return (num_shards - 1).bit_length()


def _write_shard(rows: pd.DataFrame, name: str, workspace: Workspace) -> Shard:
    rows = rows.sort_values("image_id", ignore_index=True)
    content_digest = digest(rows.to_dict("list"))
    file = workspace.shards_folder / f"{content_digest[:32]}.parquet"
    if not _holds(file, rows):
        with replace_file(file) as temporary:
            rows.to_parquet(temporary, index=False)
    return Shard(name=name, digest=content_digest, file=file, num_images=len(rows))


def _holds(file: Path, rows: pd.DataFrame) -> bool:
    try:
        return pd.read_parquet(file).equals(rows)
    except UNREADABLE:
        return False


def _sweep(folder: Path, keep: set[Path]) -> None:
    for file in folder.glob("[!.]*.parquet"):
        if file not in keep:
            file.unlink(missing_ok=True)
