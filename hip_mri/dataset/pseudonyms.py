"""Replaces names and patient ids by keyed hashes, and keeps the names in one private file.

Names of files and folders and the values of user tables can identify people. Everything that the pipeline writes holds
pseudonyms instead, keyed hashes of the names; `names.parquet`, readable by its owner alone, maps them back.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from hip_mri.dataset.manifest import read_manifest
from hip_mri.dataset.table_files import read_table, write_table
from hip_mri.errors import WorkspaceError
from hip_mri.storage import write_bytes
from hip_mri.workspace import Workspace

NAME_COLUMNS: Final = ("pseudonym", "name")
"""The pseudonym, 32 hexadecimal digits (16 of a delivery), and the name."""

_PURPOSE: Final = b"name\0"
"""Prefix of each name that is hashed, so that a file and a patient of the same name have different hashes."""


def make_pseudonyms(names: Iterable[str], workspace: Workspace) -> list[str]:
    """Replace names by keyed hashes (HMAC-SHA-256, 32 hexadecimal digits); empty ones stay empty.

    They cannot be looked up later unless they are passed to `store_names`.

    Args:
        names: Any text.
        workspace: Its key is used; another workspace gives the same name another pseudonym.
    """
    key = read_key(workspace)
    return [
        hmac.digest(key, _PURPOSE + name.encode("utf-8", "surrogatepass"), "sha256").hex()[:32] if name else ""
        for name in names
    ]


def hash_identities(identities: pd.Series, workspace: Workspace) -> pd.Series:
    """Replace identities by keyed hashes (HMAC-SHA-256, 16 hexadecimal digits); empty ones stay empty.

    The key is drawn once per workspace. Without a key, hashes of a hospital's few million patient numbers could be
    reversed by trying all.
    """
    key = read_key(workspace)
    known = {
        identity: hmac.new(key, identity.encode(), hashlib.sha256).hexdigest()[:16] if identity else ""
        for identity in identities.unique()
    }
    return identities.map(known).astype("str")


def store_names(names: Mapping[str, str], workspace: Workspace) -> None:
    """Add names to the file of names.

    Args:
        names: Name by pseudonym.
        workspace: Its file of names is written if any of them is new.
    """
    known = _read_names(workspace)
    new = pd.DataFrame({"pseudonym": list(names), "name": list(names.values())}, dtype="str")
    merged = pd.concat([known, new[new["pseudonym"] != ""]]).drop_duplicates("pseudonym", keep="last")
    merged = merged.sort_values("pseudonym", ignore_index=True)
    if merged.equals(known):
        return
    write_table(workspace.names_file, merged)


def resolve_pseudonyms(pseudonyms: pd.Series, workspace: Workspace) -> pd.Series:
    """Look up the names behind pseudonyms; empty ones stay empty.

    Raises:
        WorkspaceError: The file of names is missing, damaged or lacks one of them.
    """
    names = pseudonyms.map(_read_names(workspace).set_index("pseudonym")["name"]).where(pseudonyms != "", "")
    num_unknown = int(names.isna().sum())
    if num_unknown:
        raise WorkspaceError(
            f"{workspace.names_file} does not hold {num_unknown:,} of {len(pseudonyms):,} names. Restore it from a "
            f"backup, or remove {workspace.entries_folder.name} beside it and deliver everything again."
        )
    return names.astype("str")


def read_named_manifest(workspace: Workspace) -> pd.DataFrame:
    """Read the manifest with a column `source_name`, the path inside the delivery, which can identify patients."""
    manifest = read_manifest(workspace.manifest_file)
    return manifest.assign(source_name=resolve_pseudonyms(manifest["entry"], workspace))


def read_key(workspace: Workspace) -> bytes:
    """Read the key of a workspace's pseudonyms, 32 bytes; it is drawn at its first use, readable by its owner alone.

    Raises:
        WorkspaceError: It is damaged, or missing although hashes were made with it. It is never replaced: with another
            key, new images of a known patient would not be related to the old ones and could enter another split.
    """
    file = workspace.pseudonym_key_file
    if not file.exists():
        if made := _find_made_with_key(workspace):
            raise WorkspaceError(
                f"{file} is missing, and {made} was made with it: with a new key, patients would no longer be "
                "recognized. Restore it from a backup, or start in a new workspace."
            )
        write_bytes(file, secrets.token_bytes(hashlib.sha256().digest_size), is_private=True)
    key = file.read_bytes()
    if len(key) != hashlib.sha256().digest_size:
        raise WorkspaceError(
            f"{file} is damaged. Restore it from a backup; with a new key, patients would no longer be recognized."
        )
    return key


def _find_made_with_key(workspace: Workspace) -> Path | None:
    """A file of the workspace that contains hashes made with its key, or that depends on them."""
    files = (workspace.names_file, workspace.splits_file)
    folders = (workspace.entries_folder, workspace.identities_folder)
    found = [*(file for file in files if file.exists()), *(file for it in folders for file in it.glob("*.parquet"))]
    if not found and _lists_deliveries(workspace.manifest_file):
        found = [workspace.manifest_file]
    return found[0] if found else None


def _lists_deliveries(manifest_file: Path) -> bool:
    """Whether a manifest lists deliveries, by their hashes; that of a batch to be scored lists none."""
    try:
        return manifest_file.exists() and bool((read_manifest(manifest_file)["delivery"] != "").any())
    except WorkspaceError:
        return False  # it is written anew


def look_up_names(workspace: Workspace, image_ids: Sequence[str] = ()) -> pd.DataFrame:
    """Look up which source files images came from, which can identify patients.

    Args:
        workspace: Its manifest and file of names are read.
        image_ids: Ids from `quarantine.csv` or `predictions.csv`; all images without any.

    Returns:
        Columns image_id, source_name, state and reason, one row per image in the order of the manifest. An id that the
        manifest does not list has no row.

    Raises:
        WorkspaceError: The manifest or the file of names is missing or damaged.
    """
    named = read_named_manifest(workspace)[["image_id", "source_name", "state", "reason"]]
    return named[named["image_id"].isin(image_ids)] if image_ids else named


def _read_names(workspace: Workspace) -> pd.DataFrame:
    """The columns of `NAME_COLUMNS`; a table, since a million names in Python dictionaries take too much memory."""
    return read_table(workspace.names_file, NAME_COLUMNS, "Restore it from a backup.")[list(NAME_COLUMNS)].astype("str")
