"""Downloads a remote source or draws the demo; local sources are used in place."""

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from hip_mri.addresses import WITHHELD, find_scheme, show_place, strip_credentials
from hip_mri.config import SourceLimits
from hip_mri.disk_errors import explain_write_errors, is_unrecoverable
from hip_mri.errors import FetchError, HipMriError, LimitError, SourceError
from hip_mri.hashes import digest, digest_file
from hip_mri.sources.class_folders import NEEDED
from hip_mri.sources.references import SECRET, resolve_reference
from hip_mri.sources.remote.downloads import (
    ProgressReport,
    changed_error,
    continue_part,
    copy_ranges,
    explain_proxy_failure,
    remove_old_parts,
)
from hip_mri.sources.remote.google_drive import download_from_drive, explain_drive_failure, find_drive_id, is_unchanged
from hip_mri.sources.source import SHOWN
from hip_mri.sources.zip_files.archive import open_archive
from hip_mri.sources.zip_files.end_record import explain_unreadable
from hip_mri.storage import replace_file

logger = logging.getLogger(__name__)

DEMO_VERSION: Final = 4
"""Version of the synthetic demo; raised with every change, so that an older file is not used."""

DEMO_SEED: Final = 0
"""Seed of the demo, independent of that of a run, so that runs can be compared."""

_STORAGES: Final = ("s3://", "gs://")
_REMOTE: Final = ("https://", *_STORAGES)
_NAME: Final = re.compile(r"(?P<origin>[0-9a-f]{16})-[0-9a-f]{16}\.zip")
"""Names that `_name_file` returns."""

_VERSION_FIELDS: Final = ("ETag", "etag", "generation", "size", "mtime", "LastModified", "Last-Modified", "md5Hash")


def check_source(source: str | None) -> None:
    """Check a source without network access. No message contains it.

    Raises:
        SourceError: There is no such local file or folder, the kind of address is not supported, or the source is a
            reference that cannot be resolved.
    """
    source = resolve_reference(source)
    if source is None or source.startswith(SECRET) or is_remote(source) or _is_path(source):
        return
    if scheme := find_scheme(source):
        raise SourceError(
            f"source: an address that begins like this one, with {scheme}:, is not supported. "
            f"Give one that starts with {', '.join(_REMOTE)}, a Google Drive share link, a zip file or a folder."
        )
    if source == WITHHELD:
        raise SourceError("source: a config.yaml that a run wrote does not contain it. Give it with --source.")
    raise SourceError(
        "source: there is no such file or folder. Give the path of a zip file or of a folder, an address, or nothing "
        "for the synthetic demo."
    )


def fetch_source(
    source: str | None,
    sha256: str | None,
    sources_folder: Path,
    on_progress: ProgressReport = lambda done, total: None,
    limits: SourceLimits = SourceLimits(),
) -> Path:
    """Provide a source as a local file or folder; a remote file is downloaded once.

    Args:
        source: Path, address, Drive link or id; `None` draws the synthetic demo.
        sha256: Expected SHA-256 of the file, or `None`.
        sources_folder: Where downloaded files are kept. A remote file that has not changed, by its size, time and tag
            (on Google Drive: by its size and first bytes), is not downloaded again. When a later version is complete,
            the earlier ones are removed; so are partial files that were not continued for a week.
        on_progress: Called during the download.
        limits: Maximum number of bytes and seconds.

    Returns:
        A zip file or a folder on this machine.

    Raises:
        SourceError: The source does not exist, cannot be read, has another SHA-256, leads to a private address,
            exceeds a limit, or changed between two attempts.
        ArchiveError: The downloaded file is no zip file, or is rejected; it is deleted.
        FetchError: The network failed; trying again can help.
        DiskError: The disk is full, read-only or broken.
        WorkspaceError: The folder cannot be written.
    """
    check_source(source)
    remove_old_parts(sources_folder)
    if source is None:
        from hip_mri.synthetic.demo import write_demo_zip  # noqa: PLC0415 - loads OpenCV, `check_source` needs none

        file = sources_folder / f"synthetic-demo-{DEMO_VERSION}.zip"
        return file if file.exists() else write_demo_zip(file, seed=DEMO_SEED)
    if drive_id := find_drive_id(source):
        path = _fetch_from_drive(drive_id, sources_folder, on_progress, limits)
    elif source.startswith(_STORAGES):
        path = _fetch_from_storage(source, sources_folder, on_progress, limits)
    elif source.startswith(_REMOTE):
        path = _fetch_from_web(source, sources_folder, on_progress, limits)
    else:
        path = Path(source).expanduser().resolve()
    if sha256:
        _check_sha256(path, sha256.lower(), is_fetched=is_remote(source))
    if is_remote(source):
        _remove_earlier_versions(path)
    return path


def is_remote(source: str) -> bool:
    """Whether a source is downloaded."""
    return find_drive_id(source) is not None or source.startswith(_REMOTE)


def _is_path(source: str) -> bool:
    try:
        return bool(source) and Path(source).expanduser().exists()
    except (OSError, RuntimeError):  # a name that is too long, the home of an unknown user
        return False


def _fetch_from_web(address: str, sources_folder: Path, on_progress: ProgressReport, limits: SourceLimits) -> Path:
    from fsspec.asyn import get_loop, sync  # noqa: PLC0415 - most sources need none

    from hip_mri.sources.remote import https  # noqa: PLC0415 - loads aiohttp, half a second

    place = https.Address(address, tuple(scheme for scheme in _REMOTE if scheme.startswith("http")))
    shown = place.shown
    explain = partial(_explain_failure, shown)
    with explain_write_errors(sources_folder), _explained(explain):
        remote = sync(get_loop(), https.request_properties, place, limits)
    # Each new link to a file has another signature; without a strong tag, another query may mean another file.
    origin = strip_credentials(address) if remote.has_strong_tag else address
    file = _name_file(origin, remote.version, sources_folder)
    if not file.exists():
        logger.info("Fetching %s", shown)
        with (
            _receive(file, explain, limits) as temporary,
            continue_part(origin, shown, remote.version, sources_folder, temporary)
            if remote.can_resume
            else contextlib.nullcontext(temporary) as target,
        ):
            sync(get_loop(), https.download_file, place, remote, target, limits, on_progress)
    return file


def _fetch_from_storage(address: str, sources_folder: Path, on_progress: ProgressReport, limits: SourceLimits) -> Path:
    """Download from `s3://` or `gs://`, range by range."""
    import fsspec  # noqa: PLC0415 - most sources need none

    shown = show_place(address)
    explain = partial(_explain_failure, shown)
    with explain_write_errors(sources_folder), _explained(explain):
        # s3fs uses the proxies of the environment by default, gcsfs with this option.
        options = {"session_kwargs": {"trust_env": True}} if address.startswith("gs://") else {}
        filesystem, path = fsspec.url_to_fs(address, **options)
        version = _select_version(filesystem.info(path))
    file = _name_file(address, version, sources_folder)
    if not file.exists():
        logger.info("Fetching %s", shown)
        with (
            _receive(file, explain, limits) as temporary,
            continue_part(address, shown, version, sources_folder, temporary) as part,
        ):
            read = partial(filesystem.cat_file, path)
            copy_ranges(read, int(version.get("size", 0)), part, shown, on_progress, limits)
            if _select_version(filesystem.info(path)) != version:
                raise changed_error(shown)
    return file


def _name_file(origin: str, version: Mapping[str, str], sources_folder: Path) -> Path:
    """Name a file by hashes of its address, which can contain names of people, and of its version."""
    return sources_folder / f"{digest(origin)[:16]}-{digest(version)[:16]}.zip"


def _remove_earlier_versions(file: Path) -> None:
    """Remove earlier versions of a file: their images are stored, and a source that grows daily would fill the disk."""
    if named := _NAME.fullmatch(file.name):
        for version in set(file.parent.glob(f"{named['origin']}-*.zip")) - {file}:
            version.unlink(missing_ok=True)


def _select_version(info: Mapping[str, Any]) -> dict[str, str]:
    return {field: str(info[field]) for field in _VERSION_FIELDS if info.get(field) is not None}


def _fetch_from_drive(drive_id: str, sources_folder: Path, on_progress: ProgressReport, limits: SourceLimits) -> Path:
    file = sources_folder / f"drive-{digest(drive_id)[:16]}.zip"
    if not file.exists() or not is_unchanged(drive_id, file, limits):
        logger.info("Fetching a file from Google Drive")
        with _receive(file, explain_drive_failure, limits) as temporary, temporary.open("wb") as stream:
            download_from_drive(drive_id, stream, limits, on_progress)
    return file


@contextlib.contextmanager
def _receive(file: Path, explain: Callable[[Exception], SourceError], limits: SourceLimits) -> Iterator[Path]:
    """Write a zip file that appears complete and checked, or not at all.

    Args:
        file: The file to write.
        explain: Converts an error of the block to one with advice.
        limits: Limits of the zip file. A file that exceeds them is kept, because they can be raised.

    Yields:
        The path that the block writes to.
    """
    with replace_file(file) as temporary:
        temporary.touch()  # a folder that is not writable fails here, not as a network error
        with _explained(explain):
            yield temporary
        with contextlib.suppress(LimitError), open_archive(temporary, "the downloaded file", limits, NEEDED):
            pass


@contextlib.contextmanager
def _explained(explain: Callable[[Exception], SourceError]) -> Iterator[None]:
    """Convert errors of the network to errors with advice; those of the disk are left to `explain_write_errors`."""
    try:
        yield
    except HipMriError:
        raise
    except Exception as error:  # network errors of the storages have no common base class
        if is_unrecoverable(error):
            raise
        raise explain(error) from None  # its text can contain the whole address, and tracebacks reach logs


def _explain_failure(shown: str, error: Exception) -> SourceError:
    status = getattr(error, "status", None) or getattr(error, "code", None)  # of aiohttp and gcsfs
    if failure := explain_proxy_failure(error, shown, shown):
        return failure
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return SourceError(f"source: {shown} does not exist. Check the address.")
    if isinstance(error, PermissionError) or status in (401, 403) or str(error).startswith("Forbidden"):
        return SourceError(
            f"source: access to {shown} is denied. Set the credentials of the storage in the environment, as for its "
            "command line tool, or give an address that needs none."
        )
    found = type(error).__name__ + (f", status {status}" if status else "")  # its text can contain the query
    return FetchError(
        f"source: {shown} could not be fetched ({found}). "
        "Check address and network, or download the file manually and give its path."
    )


def _check_sha256(path: Path, expected: str, *, is_fetched: bool) -> None:
    if path.is_dir():
        raise SourceError(
            "source_sha256: the source is a folder, which has no SHA-256. Give a zip file, or omit the setting."
        )
    with explain_unreadable(SHOWN):
        if not path.is_file():
            raise SourceError("source: it is a pipe or a device. Give the path of a zip file.")
        found = digest_file(path)
    if found != expected:
        if is_fetched:
            path.unlink(missing_ok=True)
        raise SourceError(
            f"source_sha256: the file has the SHA-256 {found}, expected is {expected}. "
            "The file is another version or damaged: download it again, or correct the setting."
        )
