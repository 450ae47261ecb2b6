"""The manifest: one row per image of the workspace, with its label, patient, group, split and state.

File names can identify patients. They are in `names.parquet` alone (see `pseudonyms`); the manifest has pseudonyms in
their place. It is readable by its owner alone all the same, since it says which images are of one patient.
"""

import hashlib
import json
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from hip_mri.dataset.table_files import read_table, write_table
from hip_mri.storage import replace_file

MANIFEST_COLUMNS: Final = (
    "image_id",  # pseudonym: first 16 digits of `sha256` (unread: of a digest of the version), a number for copies
    "delivery",  # name of the delivery that it came with
    "entry",  # pseudonym of the path inside the delivery; empty in a batch that is scored
    "slice",  # number of the picture in its file, from 0
    "num_slices",  # pictures in the file
    "study",  # keyed hash of the DICOM study, or empty
    "series",  # keyed hash of the DICOM series, or empty
    "series_number",  # of a DICOM file; not a number where it has none, as the next two
    "instance_number",  # of a DICOM file
    "acquired",  # rank of its time of acquisition in the delivery
    "position",  # of the slice along the normal of its plane, in mm; not a number where the file does not say
    "sha256",  # of the pixels (quarantined: of the source file); empty where it could not be read
    "label",  # `normal` or `osseous_lesion`
    "patient",  # keyed hash of the patient's identity, or empty
    "group",  # images of one group share a split; named by its smallest image id
    "evidence",  # what relates the image to others of its group: kinds of `evidence.EVIDENCE` joined by +, or empty
    "split",  # `train`, `val`, `test`, or empty
    "state",  # `ready`, `duplicate` (same pixels and label as another image), `quarantined` or `held_out` of all splits
    "reason",  # why it is quarantined, or empty
    "num_bytes",  # size of the source file
    "version",  # changes when the entry in the source changes
)

ADDED_COLUMNS: Final = {"study": "", "series_number": np.nan, "instance_number": np.nan, "acquired": np.nan}
"""Columns that earlier versions did not write, with the value that they get."""

ROWS_AT_ONCE: Final = 2**16
"""Rows that are held as text at a time, about 10 MB."""


def read_manifest(file: Path) -> pd.DataFrame:
    """Read a manifest.

    Args:
        file: A Parquet file written by `write_manifest`.

    Returns:
        The columns of `MANIFEST_COLUMNS`, one row per image, sorted by image id.

    Raises:
        WorkspaceError: The file is missing, damaged or not a manifest.
    """
    advice = "Remove it and start again: it is rebuilt. Or give an empty workspace."
    return read_table(file, MANIFEST_COLUMNS, advice, is_optional=False, added=ADDED_COLUMNS)


def write_manifest(file: Path, manifest: pd.DataFrame) -> None:
    """Write a manifest atomically, sorted by image id and readable by its owner alone."""
    write_table(file, manifest.loc[:, list(MANIFEST_COLUMNS)].sort_values("image_id", kind="stable"))


def select_ready(manifest: pd.DataFrame) -> pd.DataFrame:
    """Rows of the images that are in use, sorted by image id."""
    return manifest.loc[manifest["state"] == "ready"].sort_values("image_id", ignore_index=True)


def sample_groups(images: pd.DataFrame, max_images: int) -> pd.DataFrame:
    """Sample whole groups with at most `max_images` images in all, the same ones every time.

    Groups are taken in the order of a hash of their names, which does not depend on their size.
    """
    if len(images) <= max_images:
        return images
    sizes = images["group"].value_counts()
    order = sorted(sizes.index, key=lambda group: hashlib.sha256(group.encode()).hexdigest())
    return images[images["group"].isin(sizes[order][sizes[order].cumsum() <= max_images].index)]


def digest_table(table: pd.DataFrame) -> str:
    """SHA-256 of a table, the same as `digest(table.to_dict("list"))`, without its text in memory as a whole."""
    content = hashlib.sha256(b"{")
    for number, name in enumerate(sorted(table.columns)):
        content.update(f"{',' if number else ''}{json.dumps(name)}:[".encode())
        for start in range(0, len(table), ROWS_AT_ONCE):
            values = table[name].iloc[start : start + ROWS_AT_ONCE].tolist()
            text = json.dumps(values, separators=(",", ":"))[1:-1]
            content.update(f"{',' if start else ''}{text}".encode())
        content.update(b"]")
    content.update(b"}")
    return content.hexdigest()


def write_quarantine(file: Path, manifest: pd.DataFrame) -> None:
    """Write `quarantine.csv`: the images that cannot be used, and why, without file names."""
    quarantined = manifest.loc[manifest["state"] == "quarantined", ["image_id", "reason", "sha256"]]
    with replace_file(file) as temporary:
        quarantined.to_csv(temporary, index=False)
