"""The one file that holds names: what each pseudonym of a workspace stands for.

Names of files, of folders and what users write of their patients can identify people. Everything that the pipeline
writes speaks of pseudonyms instead, keyed hashes of the names; `names.parquet`, readable by its owner alone, says what
they stand for. `python -m hip_mri.dataset.pseudonyms WORKSPACE IMAGE_ID ...` looks images up in it.
"""

import argparse
import hashlib
import hmac
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from hip_mri.dataset.manifest import UNREADABLE, read_manifest
from hip_mri.errors import HipMriError, WorkspaceError, list_offenders
from hip_mri.storage import replace_file, write_bytes
from hip_mri.workspace import Workspace

NAME_COLUMNS: Final = ("pseudonym", "name")
"""What stands for it, 32 hexadecimal digits (of a delivery: its name), and the text as it came."""

_PURPOSE: Final = b"name\0"
"""Stands before each name, so that its pseudonym tells nothing of a patient's, who may be called the same."""


def hide_names(names: Iterable[str], workspace: Workspace) -> list[str]:
    """Replace names by keyed hashes (HMAC-SHA-256, 32 hexadecimal digits); empty ones stay empty.

    What they stand for is forgotten, unless it is handed to `remember_names`.

    Args:
        names: Any text.
        workspace: Its key is used; the same name has another pseudonym elsewhere.
    """
    key = read_key(workspace)
    return [
        hmac.digest(key, _PURPOSE + name.encode("utf-8", "surrogatepass"), "sha256").hex()[:32] if name else ""
        for name in names
    ]


def hash_identities(identities: pd.Series, workspace: Workspace) -> pd.Series:
    """Replace identities by keyed hashes (HMAC-SHA-256, 16 hexadecimal digits); empty ones stay empty.

    The key is drawn once for a workspace and lies there, readable by its owner alone. Without it, hashes of a
    hospital's few million numbers could be reversed by trying all.
    """
    key = read_key(workspace)
    known = {
        identity: hmac.new(key, identity.encode(), hashlib.sha256).hexdigest()[:16] if identity else ""
        for identity in identities.unique()
    }
    return identities.map(known).astype("str")


def remember_names(names: Mapping[str, str], workspace: Workspace) -> None:
    """Add to the file of names.

    Args:
        names: What pseudonyms stand for.
        workspace: Its file of names is written where any of them is new.
    """
    known = _read_names(workspace)
    new = pd.DataFrame({"pseudonym": list(names), "name": list(names.values())}, dtype="str")
    merged = pd.concat([known, new[new["pseudonym"] != ""]]).drop_duplicates("pseudonym", keep="last")
    merged = merged.sort_values("pseudonym", ignore_index=True)
    if merged.equals(known):
        return
    with replace_file(workspace.names_file, is_private=True) as temporary:
        merged.to_parquet(temporary, index=False)


def reveal_names(pseudonyms: pd.Series, workspace: Workspace) -> pd.Series:
    """Say what pseudonyms stand for; empty ones stay empty.

    Raises:
        WorkspaceError: The file of names is missing, damaged or does not know one of them.
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
    """Read the manifest with a column `source_name`, the path inside the delivery; for the owner's eyes alone."""
    manifest = read_manifest(workspace.manifest_file)
    return manifest.assign(source_name=reveal_names(manifest["entry"], workspace))


def read_key(workspace: Workspace) -> bytes:
    """The key of a workspace's pseudonyms, 32 bytes; drawn at its first use, and readable by its owner alone.

    Raises:
        WorkspaceError: It is damaged, or missing where hashes were made with it. Another key is never put in its place:
            new images of a known patient would not be tied to the old ones, and could come into another split.
    """
    file = workspace.pseudonym_key_file
    if not file.exists():
        if made := _find_made_with_key(workspace):
            raise WorkspaceError(
                f"{file} is missing, and {made} was made with it: with a new key, patients would no longer be "
                "recognised. Restore it from a backup, or start in a new workspace."
            )
        write_bytes(file, secrets.token_bytes(hashlib.sha256().digest_size), is_private=True)
    key = file.read_bytes()
    if len(key) != hashlib.sha256().digest_size:
        raise WorkspaceError(
            f"{file} is damaged. Restore it from a backup; with a new key, patients would no longer be recognised."
        )
    return key


def _find_made_with_key(workspace: Workspace) -> Path | None:
    """A file of the workspace that speaks of hashes made with its key, or that was settled by them."""
    files = (workspace.names_file, workspace.splits_file)
    folders = (workspace.entries_folder, workspace.identities_folder)
    found = [*(file for file in files if file.exists()), *(file for it in folders for file in it.glob("*.parquet"))]
    if not found and _names_deliveries(workspace.manifest_file):
        found = [workspace.manifest_file]
    return found[0] if found else None


def _names_deliveries(manifest_file: Path) -> bool:
    """Whether a manifest speaks of deliveries, by their hashes; that of a batch to be scored speaks of none."""
    try:
        return manifest_file.exists() and bool((read_manifest(manifest_file)["delivery"] != "").any())
    except WorkspaceError:
        return False  # it tells nothing, and is written anew


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 told, 2 refused with one message, or not every image is known."""
    parser = argparse.ArgumentParser(
        prog="python -m hip_mri.dataset.pseudonyms", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("workspace", type=Path, help="folder of the pipeline, such as workspace")
    parser.add_argument("image_ids", nargs="*", metavar="IMAGE_ID", help="which images; all without any")
    given = parser.parse_args(arguments)
    try:
        named = read_named_manifest(Workspace(given.workspace.resolve()))
    except HipMriError as error:
        print(error, file=sys.stderr)
        return 2
    asked = named[named["image_id"].isin(given.image_ids)] if given.image_ids else named
    asked.loc[:, ["image_id", "source_name", "state", "reason"]].to_csv(sys.stdout, index=False)
    unknown = sorted(set(given.image_ids) - set(named["image_id"]))
    if unknown:
        print(
            f"The manifest lists no image {list_offenders(unknown)}. Give ids as they stand in quarantine.csv or in "
            "predictions.csv of a run in this workspace.",
            file=sys.stderr,
        )
        return 2
    return 0


def _read_names(workspace: Workspace) -> pd.DataFrame:
    """The columns of `NAME_COLUMNS`, as a table throughout: a million names are too many for Python's dictionaries."""
    file = workspace.names_file
    if not file.exists():
        return pd.DataFrame({column: [] for column in NAME_COLUMNS}, dtype="str")
    try:
        return pd.read_parquet(file)[list(NAME_COLUMNS)].astype("str")
    except UNREADABLE as error:
        raise WorkspaceError(f"{file} cannot be read. Restore it from a backup.") from error


if __name__ == "__main__":
    sys.exit(main())
