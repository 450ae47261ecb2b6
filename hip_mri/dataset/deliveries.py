"""Deliveries: the zip files and folders with the images of a run, each under a stable name."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hip_mri.addresses import strip_credentials
from hip_mri.config import SourceLimits
from hip_mri.dataset.pseudonyms import make_pseudonyms
from hip_mri.errors import ArchiveError, HipMriError, SourceError
from hip_mri.sources.class_names import ClassNames
from hip_mri.sources.fetch import fetch_source, is_remote
from hip_mri.sources.folder_listing import holds_files
from hip_mri.sources.ignored_files import is_ignored_file, is_ignored_folder
from hip_mri.sources.references import resolve_reference
from hip_mri.sources.remote.downloads import ProgressReport
from hip_mri.sources.source import is_marked_synthetic
from hip_mri.sources.split_folders import find_split_name
from hip_mri.sources.tables.delivered_table import has_label_table
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

SYNTHETIC: Final = "synthetic-"
"""Prefix of the name of a delivery that is marked as holding no patients."""

_UNFINISHED: Final = (".part", ".tmp", ".crdownload", ".filepart")
"""Endings of files that other programs are still writing."""


@dataclass(frozen=True)
class Delivery:
    """A zip file or a folder with class folders, on this machine.

    Attributes:
        name: Pseudonym of its origin, 16 hexadecimal digits, the same for a later version; with the prefix
            `synthetic-` if a file `SYNTHETIC.txt` in it says that it holds no patients.
        path: The file or folder.
        limits: Limits on what is read.
        is_fetched: Whether it was downloaded or drawn, so that it can be replaced.
    """

    name: str
    path: Path
    limits: SourceLimits = field(default_factory=SourceLimits)
    is_fetched: bool = False

    @property
    def is_synthetic(self) -> bool:
        """Whether it is marked as holding no patients."""
        return self.name.startswith(SYNTHETIC)


@contextlib.contextmanager
def name_delivery_in_errors(delivery: Delivery, deliveries: Sequence[Delivery]) -> Iterator[None]:
    """Add to errors of a block which of several deliveries they are about, by number: names can identify patients."""
    try:
        yield
    except HipMriError as error:
        if len(deliveries) > 1:
            place = f"{deliveries.index(delivery) + 1} of {len(deliveries)}"
            error.args = (
                f"{error} This is delivery {place}, in the order of the sources and, within a folder, of the names.",
            )
        raise


@contextlib.contextmanager
def delete_damaged(delivery: Delivery) -> Iterator[None]:
    """Delete a fetched file that a block finds damaged, so that the next run fetches it again.

    Files of the user are kept.
    """
    try:
        yield
    except ArchiveError as error:
        if delivery.is_fetched:
            with contextlib.suppress(OSError):
                delivery.path.unlink(missing_ok=True)
                error.args = (f"{error} The fetched file is deleted. Start again to fetch it anew.",)
        raise


def fetch_delivery(
    source: str | None,
    sha256: str | None,
    workspace: Workspace,
    on_progress: ProgressReport = lambda done, total: None,
    limits: SourceLimits = SourceLimits(),
) -> Delivery:
    """Fetch one source, or a reference to one, to the `sources` folder; see `hip_mri.sources.fetch.fetch_source`."""
    source = resolve_reference(source)
    path = fetch_source(source, sha256, workspace.sources_folder, on_progress, limits)
    is_fetched = source is None or is_remote(source)
    origin = strip_credentials(source or "demo") if is_fetched else str(path)
    return _describe(path, origin, workspace, limits, is_fetched=is_fetched)


def fetch_deliveries(
    sources: Sequence[str],
    workspace: Workspace,
    on_progress: ProgressReport = lambda done, total: None,
    limits: SourceLimits = SourceLimits(),
    class_names: Mapping[str, str] | None = None,
) -> tuple[Delivery, ...]:
    """Fetch several sources, and list the deliveries in drop folders.

    A local folder is a drop folder, with each zip file and each folder in it a delivery, unless it directly holds class
    folders, folders of at least two splits, or a table with labels. Hidden files and those that are still being
    written, by their ending, are left for the next run.

    Args:
        sources: Paths, addresses, Drive links or ids.
        workspace: Its `sources` folder keeps fetched files.
        on_progress: Called with the bytes received.
        limits: How much each may hold, and how long fetching it may take.
        class_names: Other names of the classes, for class folders.

    Returns:
        The deliveries, in the order of the sources and then by name; none where drop folders are empty.
    """
    fetched = [fetch_delivery(source, None, workspace, on_progress, limits) for source in sources]
    opened = [part for delivery in fetched for part in _open_drop_folder(delivery, workspace, ClassNames(class_names))]
    by_name = {delivery.name: delivery for delivery in opened}
    for place, delivery in enumerate(opened, 1):
        if delivery.path != by_name[delivery.name].path:
            raise SourceError(
                f"sources: delivery {place} of {len(opened)} differs from another one by a token or a signature alone. "
                "Give each address once."
            )
    return tuple(by_name.values())


def _open_drop_folder(delivery: Delivery, workspace: Workspace, class_names: ClassNames) -> Iterator[Delivery]:
    if delivery.path.is_file() or _is_one_delivery(delivery, class_names):
        yield delivery
        return
    waiting = ignored = 0
    for path in sorted(delivery.path.iterdir()):
        if path.resolve() == workspace.root or (is_ignored_folder(path.name) and not path.name.startswith(".")):
            continue
        if path.name.startswith(".") or path.suffix.lower() in _UNFINISHED:
            waiting += 1
        elif path.suffix.lower() == ".zip" or holds_files(path):
            yield _describe(path, str(path), workspace, delivery.limits)
        else:
            ignored += 1
    if ignored:
        logger.warning("%d in a drop folder are neither zip files nor folders with images, and are ignored", ignored)
    if waiting:
        logger.info("%d files or folders in a drop folder are hidden or unfinished and wait", waiting)


def _is_one_delivery(delivery: Delivery, class_names: ClassNames) -> bool:
    """Whether a folder is a delivery itself and not a drop folder."""
    with os.scandir(delivery.path) as found:
        names = [entry.name for entry in found if not is_ignored_folder(entry.name) and not is_ignored_file(entry.name)]
    if any(class_names.find_label(name) and holds_files(delivery.path / name) for name in names):
        return True
    splits = {split for name in names if (split := find_split_name(name)) and holds_files(delivery.path / name)}
    return len(splits) > 1 or has_label_table(delivery.path, delivery.limits)


def _describe(
    path: Path, origin: str, workspace: Workspace, limits: SourceLimits, *, is_fetched: bool = False
) -> Delivery:
    (pseudonym,) = make_pseudonyms([origin], workspace)
    mark = SYNTHETIC if is_marked_synthetic(path, limits) else ""
    return Delivery(mark + pseudonym[:16], path, limits, is_fetched)
