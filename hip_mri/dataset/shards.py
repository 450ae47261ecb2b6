"""Divides the ready images into shards, each the work of one task run.

The first bits of an image's hash decide its shard, so a new image changes one shard, and what was cached for the others
stays valid.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.table_files import UNREADABLE, read_table, write_table
from hip_mri.hashes import digest
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

SHARD_COLUMNS: Final = ("image_id", "sha256", "label", "split")

MIN_NUM_SHARDS: Final = 8
"""Shards of a small data set, so that progress shows and all workers are busy."""


@dataclass(frozen=True)
class Shard:
    """The work of one task run.

    Attributes:
        name: Its number, such as `3 of 16`.
        digest: SHA-256 of the list of images.
        file: Parquet file with the columns of `SHARD_COLUMNS`.
        num_images: Rows of that file.
    """

    name: str
    digest: str
    file: Path
    num_images: int


def plan_shards(workspace: Workspace, shard_size: int, split: str | None = None) -> list[Shard]:
    """Divide the ready images of the manifest into shards.

    Args:
        workspace: Its manifest is read and its `shards` folder written.
        shard_size: Upper limit of the mean number of images per shard.
        split: Takes the images of this split only; `None` takes all.

    Returns:
        The shards that hold any image, in a fixed order.
    """
    images = select_ready(read_manifest(workspace.manifest_file))
    if split is not None:
        images = images[images["split"] == split]
    num_bits = _count_bits(len(images), shard_size)
    buckets = images["sha256"].str[:8].map(lambda digits: int(digits, 16) >> (32 - num_bits))
    groups = [rows for _, rows in images.loc[:, list(SHARD_COLUMNS)].groupby(buckets)]
    shards = [_write_shard(rows, f"{place} of {len(groups)}", workspace) for place, rows in enumerate(groups, 1)]
    for file in set(workspace.shards_folder.glob("[!.]*.parquet")) - {shard.file for shard in shards}:
        file.unlink(missing_ok=True)
    logger.info("Divided %d images into %d shards", len(images), len(shards))
    return shards


def read_shard(shard: Shard) -> pd.DataFrame:
    """Read the images of a shard, sorted by image id.

    Raises:
        WorkspaceError: The file is missing or damaged.
    """
    advice = "Start again: shards are planned anew."
    return read_table(shard.file, SHARD_COLUMNS, advice, is_optional=False)


def _count_bits(num_images: int, shard_size: int) -> int:
    """Number of leading bits of the hash that decide the shard."""
    num_shards = max(MIN_NUM_SHARDS, -(-num_images // shard_size))
    return (num_shards - 1).bit_length()


def _write_shard(rows: pd.DataFrame, name: str, workspace: Workspace) -> Shard:
    rows = rows.sort_values("image_id", ignore_index=True)
    content_digest = digest(rows.to_dict("list"))
    file = workspace.shards_folder / f"{content_digest[:32]}.parquet"
    if not _holds(file, rows):
        write_table(file, rows)
    return Shard(name=name, digest=content_digest, file=file, num_images=len(rows))


def _holds(file: Path, rows: pd.DataFrame) -> bool:
    try:
        return pd.read_parquet(file).equals(rows)
    except UNREADABLE:
        return False
