"""What each delivery held when it was read: one row per file, so that nothing is read twice and nothing is lost."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from hip_mri.data.delivery import Delivery
from hip_mri.data.isolation import NUM_ASKING, IsolatedReader
from hip_mri.data.manifest import UNREADABLE
from hip_mri.data.names import hide_names
from hip_mri.data.patients import hash_identities
from hip_mri.data.source import Entry, Labelling, Source, open_source
from hip_mri.errors import ImageError, WorkspaceError, list_offenders
from hip_mri.storage import replace_file, write_small_file
from hip_mri.workspace import Workspace

COLUMNS: Final = (
    "entry",  # pseudonym of the path in the delivery; see `names`
    "version",  # changes when the file changes
    "label",  # class folder
    "sha256",  # of the stored image; of the file where it cannot be used; empty where it could not be read
    "num_bytes",  # size of the file
    "num_stored_bytes",  # size of the stored image, or 0
    "patient",  # keyed hash of the patient that a DICOM file names, or empty
    "reason",  # why the file cannot be used, or empty
)

ENTRIES_PER_BATCH = 2048
"""Entries between two reports of progress; bounds the memory that waiting results take."""

MAX_NUM_BYTES: Final = 256 * 2**20
"""Largest file that is read, in bytes; a slice has a thousandth of it. Bounds the memory that a thread takes."""


@dataclass(frozen=True)
class Reading:
    """What came of reading a delivery.

    Attributes:
        entries: The columns of `COLUMNS`, one row per file.
        names: What the pseudonyms of the files stand for.
        num_ignored: Files that are no part of the data.
        num_taken_over: Entries that an earlier run had read and that have not changed since.
    """

    entries: pd.DataFrame
    names: Mapping[str, str]
    num_ignored: int
    num_taken_over: int


def read_delivery(
    delivery: Delivery,
    workspace: Workspace,
    num_threads: int,
    on_progress: Callable[[int, int], None],
    *,
    keep_earlier: bool,
    labelling: Labelling = Labelling(),
) -> Reading:
    """Read every new file of a delivery once, check it and store its picture.

    Images are stored without a word that their files hold beside the pixels (see `images.Picture`), under the SHA-256
    of what is stored, so names never become paths and copies are found, whatever their files say. An entry that an
    earlier run has read, unchanged since by name, size and checksum, is not read again. Files are decoded in processes
    of their own: one that breaks the decoder is set aside.

    Args:
        delivery: What to read.
        workspace: Where images are stored, and the earlier list is.
        num_threads: Threads that read and decode at the same time, beside as many that wait for their decoders.
        on_progress: Called with the number of entries done and the number of all.
        keep_earlier: Whether files stay listed that the delivery no longer holds. One that was replaced under its
            name, or moved to the other class folder, counts as corrected and is not kept. One class folder is enough.
        labelling: What tells the labels.

    Raises:
        SourceError: The delivery as a whole cannot be used.
    """
    earlier = _read_list(delivery.name, workspace)
    options = {"needs_all_classes": not keep_earlier, "own_folder": workspace.root}
    with open_source(delivery.path, delivery.limits, labelling, **options) as source:
        pseudonyms = hide_names((entry.name for entry in source.entries), workspace)
        named = list(zip(pseudonyms, source.entries, strict=True))
        known = _find_known(named, earlier, workspace)
        unread = [named[place] for place in np.setdiff1d(np.arange(len(source.entries)), known.index)]
        parts, done = [known], len(known)
        on_progress(done, len(source.entries))
        with IsolatedReader() as reader, Parallel(n_jobs=num_threads * NUM_ASKING, backend="threading") as parallel:
            remaining = iter(unread)
            while batch := list(islice(remaining, ENTRIES_PER_BATCH)):
                taken_in = parallel(delayed(_take_in)(source, *pair, workspace, reader) for pair in batch)
                rows = _hide_patients(cast("list[dict[str, Any]]", taken_in), workspace)
                parts.append(_tabulate(rows))  # as a table, a row takes a fifth of the memory
                on_progress(done := done + len(rows), len(source.entries))
        num_ignored = source.num_ignored
    listed = pd.concat(parts, ignore_index=True)
    if keep_earlier:
        is_gone = ~earlier["entry"].isin(listed["entry"]) & ~earlier["sha256"].isin(listed["sha256"])
        listed = pd.concat([listed, earlier[is_gone]])
    names = {pseudonym: entry.storable_name for pseudonym, entry in named}
    return Reading(listed, names, num_ignored, num_taken_over=len(known))


def keep_entries(name: str, entries: pd.DataFrame, workspace: Workspace) -> None:
    """Keep the list of what the delivery of this name holds."""
    with replace_file(workspace.entries_folder / f"{name}.parquet", is_private=True) as temporary:
        entries.sort_values("entry").to_parquet(temporary, index=False)


def list_entries(names: Sequence[str], workspace: Workspace) -> pd.DataFrame:
    """List the entries that are kept of deliveries; the columns of `COLUMNS` and `delivery`, the name.

    Raises:
        WorkspaceError: A list is damaged.
    """
    lists = [_read_list(name, workspace).assign(delivery=name) for name in names]
    return pd.concat(lists, ignore_index=True) if lists else pd.DataFrame(columns=[*COLUMNS, "delivery"])


def _read_list(name: str, workspace: Workspace) -> pd.DataFrame:
    file = workspace.entries_folder / f"{name}.parquet"
    if not file.exists():
        return _tabulate([])
    try:
        return pd.read_parquet(file)[list(COLUMNS)]
    except UNREADABLE as error:
        raise WorkspaceError(f"{file} cannot be read. Remove it and start again: the delivery is read anew.") from error


def check_stored(entries: pd.DataFrame, workspace: Workspace) -> None:
    """See that the images of entries, which no delivery at hand may hold any more, are still stored in full.

    Raises:
        WorkspaceError: Some are not.
    """
    usable = entries[entries["reason"] == ""]
    stored = zip(usable["sha256"], usable["num_stored_bytes"], strict=True)
    lost = [sha256[:16] for sha256, num_bytes in stored if not _is_stored(sha256, num_bytes, workspace)]
    if lost:
        raise WorkspaceError(
            f"{len(lost)} images of earlier deliveries are no longer in {workspace.images_folder}: "
            f"{list_offenders(lost)}. Restore the folder from a backup, or deliver them again; `python -m "
            f"hip_mri.data.names {workspace.root} {lost[0]}` says which file it was."
        )


def _tabulate(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({name: "int64" if name.startswith("num_") else "str" for name in COLUMNS})


def _find_known(named: Iterable[tuple[str, Entry]], earlier: pd.DataFrame, workspace: Workspace) -> pd.DataFrame:
    """Rows of the earlier list whose entries are unchanged and whose bytes are still stored in full.

    Returns:
        The columns of `COLUMNS`; the index is the place among the entries.
    """
    if earlier.empty:
        return earlier
    now = pd.DataFrame([(pseudonym, entry.version, entry.label) for pseudonym, entry in named], dtype="str")
    now.columns = list(COLUMNS[:3])
    # A file that could not be used is looked at again: a later version may read it.
    usable = earlier[earlier["reason"] == ""].drop_duplicates("entry", keep="last")
    unchanged = now.rename_axis("place").reset_index().merge(usable, on=list(now.columns)).set_index("place")
    stored = zip(unchanged["sha256"], unchanged["num_stored_bytes"], strict=True)
    return unchanged.loc[[_is_stored(sha256, size, workspace) for sha256, size in stored], list(COLUMNS)]


def _is_stored(sha256: str, num_bytes: int, workspace: Workspace) -> bool:
    try:
        return workspace.image_file(sha256).stat().st_size == num_bytes
    except OSError:
        return False


def _take_in(
    source: Source, pseudonym: str, entry: Entry, workspace: Workspace, reader: IsolatedReader
) -> dict[str, Any]:
    """The row of one entry, with its patient still as the file names it."""
    row: dict[str, Any] = {"entry": pseudonym, "version": entry.version, "label": entry.label}
    row |= {"sha256": "", "num_bytes": entry.num_bytes, "num_stored_bytes": 0, "patient": "", "reason": ""}
    try:
        content = read_entry(source, entry)
        row |= {"sha256": hashlib.sha256(content).hexdigest(), "num_bytes": len(content)}
        stripped, patient = reader.check(content)
        if stripped is not content:
            row["sha256"] = hashlib.sha256(stripped).hexdigest()
        _store(stripped, workspace.image_file(row["sha256"]))
        row |= {"num_stored_bytes": len(stripped), "patient": patient}
    except ImageError as error:
        row["reason"] = error.reason
    return row


def _store(content: bytes, file: Path) -> None:
    """Store an image, unless its very bytes are there: rewritten without waiting, a power cut could empty them."""
    try:
        if file.stat().st_size == len(content) and file.read_bytes() == content:
            return
    except OSError:
        pass  # missing, or no longer readable
    write_small_file(file, content)


def _hide_patients(rows: list[dict[str, Any]], workspace: Workspace) -> list[dict[str, Any]]:
    named = [row for row in rows if row["patient"]]
    hashes = hash_identities(pd.Series([row["patient"] for row in named], dtype="str"), workspace) if named else ()
    for row, patient in zip(named, hashes, strict=True):
        row["patient"] = patient
    return rows


def read_entry(source: Source, entry: Entry) -> bytes:
    """Read the file of an entry; `ImageError` where it is too large or damaged."""
    if entry.num_bytes > MAX_NUM_BYTES:
        raise ImageError("too_large", f"the file has {entry.num_bytes:,} bytes, above {MAX_NUM_BYTES:,}")
    return source.read(entry)
