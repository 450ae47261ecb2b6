"""Reads the files of a delivery once, stores their images and lists them, one row per picture."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from hip_mri.config import ImageSettings
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.manifest import ADDED_COLUMNS
from hip_mri.dataset.pseudonyms import hash_identities, make_pseudonyms
from hip_mri.dataset.table_files import read_table, write_table
from hip_mri.errors import ImageError, WorkspaceError, list_offenders
from hip_mri.hashes import digest
from hip_mri.images.decoding_results import ReadingOptions
from hip_mri.images.reading import DECODING_RECIPE
from hip_mri.images.sandbox import NUM_THREADS_PER_CORE, Sandbox
from hip_mri.sources.source import Entry, Labeling, Source, open_source
from hip_mri.storage import write_small_file
from hip_mri.workspace import Workspace

ENTRY_COLUMNS: Final = (
    "entry",  # pseudonym of the path in the delivery; see `pseudonyms`
    "version",  # changes when the file changes
    "label",  # class folder
    "decoding",  # digest of the rules by which the file was decoded
    "slice",  # number of the picture in its file, from 0
    "num_slices",  # pictures in the file
    "sha256",  # of the pixels; of the file where it cannot be decoded; empty where it could not be read
    "num_bytes",  # size of the file
    "num_stored_bytes",  # size of the stored image, or 0
    "patient",  # keyed hash of the patient that a DICOM file names, or empty
    "study",  # keyed hash of the study that a DICOM file names, or empty
    "series",  # keyed hash of the series that a DICOM file names, or empty
    "series_number",  # of a DICOM file; not a number where it has none, as the next two
    "instance_number",  # of a DICOM file
    "acquired",  # rank of its time of acquisition among the files of the delivery, from 1; files read later follow
    "position",  # of the slice along the normal of its plane, in mm; not a number where the file does not say
    "reason",  # why the file cannot be used, or empty
)

_NUMBERS: Final = dict.fromkeys(("slice", "num_slices", "num_bytes", "num_stored_bytes"), "int64")
_FRACTIONS: Final = dict.fromkeys(("series_number", "instance_number", "acquired", "position"), "float64")
_TYPES: Final = dict.fromkeys(ENTRY_COLUMNS, "str") | _NUMBERS | _FRACTIONS

ENTRIES_PER_BATCH = 2048
"""Entries between two reports of progress; limits the memory of pending results."""

MAX_NUM_BYTES: Final = 256 * 2**20
"""Largest file that is read, in bytes, a thousand times that of a slice; limits the memory of a thread."""


@dataclass(frozen=True)
class Reading:
    """Result of reading a delivery.

    Attributes:
        entries: The columns of `ENTRY_COLUMNS`, one row per picture, and one per file that holds none.
        names: Names of the files by pseudonym.
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
    settings: ImageSettings,
    *,
    keep_earlier: bool,
    labeling: Labeling = Labeling(),
) -> Reading:
    """Decode every new file of a delivery once and store its pictures.

    Only gray levels are stored, named by the SHA-256 of the pixels: names never become paths, nothing else of a file is
    kept but the hashes and numbers of `ENTRY_COLUMNS`, and files with equal pixels are one image. A file that an
    earlier run read with the same settings is not read again if its name, size and checksum are unchanged. Files are
    decoded in a sandbox: one that crashes the decoder is quarantined.

    Args:
        delivery: What to read.
        workspace: Its images are written, its list of an earlier run is read.
        num_threads: Threads that read and decode at the same time, beside as many that wait for their decoders.
        on_progress: Called with the number of entries done and the number of all.
        settings: How image files are read.
        keep_earlier: Whether files stay listed that the delivery no longer holds. One that was replaced under its
            name, or moved to the other class folder, counts as corrected and is not kept. One class folder suffices.
        labeling: How labels are found.

    Raises:
        SourceError: The delivery as a whole cannot be used.
    """
    earlier = _read_list(delivery.name, workspace)
    options = {"needs_all_classes": not keep_earlier, "own_folder": workspace.root}
    with open_source(delivery.path, delivery.limits, labeling, **options) as source:
        pseudonyms = make_pseudonyms((entry.name for entry in source.entries), workspace)
        named = list(zip(pseudonyms, source.entries, strict=True))
        options = make_reading_options(settings)
        decoding = digest([DECODING_RECIPE, asdict(options)])[:16]
        known = _find_known(named, earlier, decoding, workspace)
        unread = [named[place] for place in np.setdiff1d(np.arange(len(source.entries)), known.index)]
        parts, num_known = [known], known.index.nunique()
        on_progress(done := num_known, len(source.entries))
        with (
            Sandbox(options) as sandbox,
            Parallel(n_jobs=num_threads * NUM_THREADS_PER_CORE, backend="threading") as parallel,
        ):
            remaining = iter(unread)
            while batch := list(islice(remaining, ENTRIES_PER_BATCH)):
                read = parallel(delayed(_read)(source, *pair, workspace, sandbox) for pair in batch)
                rows = [row | {"decoding": decoding} for found in cast("list[list[Row]]", read) for row in found]
                parts.append(_tabulate(_hide_identities(rows, workspace)))  # a table takes a fifth of the memory
                on_progress(done := done + len(batch), len(source.entries))
        num_ignored = source.num_ignored
    listed = pd.concat(parts, ignore_index=True)
    times = listed["acquired"].iloc[len(known) :].dropna()
    listed.loc[times.index, "acquired"] = _rank_times(times, earlier["acquired"])
    if keep_earlier:
        is_gone = ~earlier["entry"].isin(listed["entry"]) & ~earlier["sha256"].isin(listed["sha256"])
        listed = pd.concat([listed, earlier[is_gone]])
    names = {pseudonym: entry.storable_name for pseudonym, entry in named}
    return Reading(listed, names, num_ignored, num_taken_over=num_known)


def make_reading_options(settings: ImageSettings) -> ReadingOptions:
    """Options of the decoders for these settings."""
    return ReadingOptions(**settings.model_dump(include=set(ImageSettings.model_fields)))


def keep_entries(name: str, entries: pd.DataFrame, workspace: Workspace) -> None:
    """Write the list of the delivery of this name, for later runs."""
    write_table(_locate_list(name, workspace), entries.sort_values(["entry", "slice"]))


def list_entries(names: Sequence[str], workspace: Workspace) -> pd.DataFrame:
    """List the entries of deliveries that were read; the columns of `ENTRY_COLUMNS` and `delivery`, the name.

    Raises:
        WorkspaceError: A list is damaged.
    """
    lists = [_read_list(name, workspace).assign(delivery=name) for name in names]
    return pd.concat(lists, ignore_index=True) if lists else _tabulate([]).assign(delivery="")


def _read_list(name: str, workspace: Workspace) -> pd.DataFrame:
    advice = "Remove it and start again: the delivery is read anew."
    table = read_table(_locate_list(name, workspace), ENTRY_COLUMNS, advice, added=ADDED_COLUMNS | {"study": None})
    has_facts = (table[["patient", "series"]] != "").any(axis="columns") | table["position"].notna()
    has_facts = has_facts.groupby(table["entry"]).transform("any")
    # Files with such facts that an earlier version read are read again, for the study and order of DICOM files.
    table["decoding"] = table["decoding"].mask(table["study"].isna() & has_facts, "")
    return table[list(ENTRY_COLUMNS)].fillna({"study": ""}).astype(_TYPES)


def _locate_list(name: str, workspace: Workspace) -> Path:
    return workspace.entries_folder / f"{name}.parquet"


def check_stored(entries: pd.DataFrame, workspace: Workspace) -> None:
    """Check that the images of entries are still stored in full.

    Raises:
        WorkspaceError: Some are not.
    """
    usable = entries[entries["reason"] == ""]
    stored = zip(usable["sha256"], usable["num_stored_bytes"], strict=True)
    lost = [sha256[:16] for sha256, num_bytes in stored if not _is_stored(sha256, num_bytes, workspace)]
    if lost:
        raise WorkspaceError(
            f"{len(lost)} images of earlier deliveries are no longer in {workspace.images_folder}: "
            f"{list_offenders(lost)}. Restore the folder from a backup, or deliver them again; `hip-mri names "
            f"{workspace.root} {lost[0]}` shows the name of the file."
        )


def _tabulate(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(ENTRY_COLUMNS))
    return table.astype(_TYPES)


def _rank_times(times: pd.Series, earlier_ranks: pd.Series) -> pd.Series:
    """Replace times of acquisition by ranks, above those of files that were read earlier: dates identify patients."""
    return times.rank(method="dense") + np.nan_to_num(earlier_ranks.max())


def _find_known(
    named: Iterable[tuple[str, Entry]], earlier: pd.DataFrame, decoding: str, workspace: Workspace
) -> pd.DataFrame:
    """Rows of the earlier list whose entries are unchanged and whose pictures are still stored in full.

    Returns:
        The columns of `ENTRY_COLUMNS`; the index is the place among the entries.
    """
    if earlier.empty:
        return earlier
    now = pd.DataFrame([(pseudonym, entry.version, entry.label) for pseudonym, entry in named], dtype="str")
    now.columns = list(ENTRY_COLUMNS[:3])
    # A file of which nothing could be used is read again: a later version may decode it.
    is_usable = earlier["entry"].isin(earlier.loc[earlier["reason"] == "", "entry"])
    usable = earlier[is_usable & (earlier["decoding"] == decoding)].drop_duplicates(["entry", "slice"], keep="last")
    unchanged = now.rename_axis("place").reset_index().merge(usable, on=list(now.columns)).set_index("place")
    stored = zip(unchanged["sha256"], unchanged["num_stored_bytes"], unchanged["reason"] != "", strict=True)
    is_there = pd.Series(
        [is_set_aside or _is_stored(sha256, size, workspace) for sha256, size, is_set_aside in stored],
        index=unchanged.index,
        dtype=bool,
    )
    return unchanged.loc[is_there.groupby(level=0).transform("all"), list(ENTRY_COLUMNS)]


def _is_stored(sha256: str, num_bytes: int, workspace: Workspace) -> bool:
    try:
        return workspace.image_file(sha256).stat().st_size == num_bytes
    except OSError:
        return False


Row = dict[str, Any]
"""A row of `ENTRY_COLUMNS`, with patient, study, series and time of acquisition still as the file names them."""


def _read(source: Source, pseudonym: str, entry: Entry, workspace: Workspace, sandbox: Sandbox) -> list[Row]:
    """Decode a file and store its pictures; the rows of one entry."""
    row: Row = {"entry": pseudonym, "version": entry.version, "label": entry.label, "num_bytes": entry.num_bytes}
    row |= {"slice": 0, "num_slices": 1, "sha256": "", "num_stored_bytes": 0, "reason": ""}
    row |= {"patient": "", "study": "", "series": ""}
    content = None
    try:
        content = read_entry(source, entry)
        row["num_bytes"] = len(content)
        pictures = sandbox.encode(content)
    except ImageError as error:
        sha256 = "" if content is None else hashlib.sha256(content).hexdigest()
        return [row | {"reason": error.reason, "sha256": sha256}]
    rows = []
    for picture in pictures:
        facts = {name: value for name, value in vars(picture).items() if name != "content"}
        rows.append(row | facts)
        if not picture.reason:
            _store(picture.content, workspace.image_file(picture.sha256))
            rows[-1]["num_stored_bytes"] = len(picture.content)
    return rows


def _store(content: bytes, file: Path) -> None:
    """Store an image unless the same bytes are stored: a power cut could empty a file that is rewritten unflushed."""
    try:
        if file.stat().st_size == len(content) and file.read_bytes() == content:
            return
    except OSError:
        pass  # missing, or no longer readable
    write_small_file(file, content)


def _hide_identities(rows: list[Row], workspace: Workspace) -> list[Row]:
    """Replace patients, studies and series by keyed hashes."""
    for name in ("patient", "study", "series"):
        named = [row for row in rows if row[name]]
        hashes = hash_identities(pd.Series([row[name] for row in named], dtype="str"), workspace) if named else ()
        for row, hashed in zip(named, hashes, strict=True):
            row[name] = hashed
    return rows


def read_entry(source: Source, entry: Entry) -> bytes:
    """Read the file of an entry; `ImageError` where it is too large or damaged."""
    if entry.num_bytes > MAX_NUM_BYTES:
        raise ImageError("too_large", f"the file has {entry.num_bytes:,} bytes, above {MAX_NUM_BYTES:,}")
    return source.read(entry)


def identify_content(rows: pd.DataFrame) -> pd.Series:
    """Identify the content of rows: `sha256`, or where a file could not be read a digest of its `version`."""
    content = [sha256 or digest(version) for sha256, version in zip(rows["sha256"], rows["version"], strict=True)]
    return pd.Series(content, rows.index, dtype="str")


def number_copies(rows: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """Sort rows by content and number those of equal content.

    Args:
        rows: Columns sha256 (empty where a file could not be read), version and those of `order`.
        order: Columns by which rows of equal content are sorted.

    Returns:
        The rows with the columns content, whose first 16 digits identify an image, and copy_number, from 0. The content
        of a file that could not be read is a digest of its version, never of its name.
    """
    rows = rows.assign(content=identify_content(rows)).sort_values(["content", *order], ignore_index=True)
    return rows.assign(copy_number=rows.groupby("content").cumcount())
