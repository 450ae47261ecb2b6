"""Writing so that nothing is lost: readers see the old content or the new one, whatever ends the process.

A single file is written beside its place, brought to the disk and renamed; a folder is filled beside its place and
renamed as a whole. What a killed process leaves half-written has a name that begins with a dot.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from hip_mri.errors import WorkspaceError

_NUMBERED_FOLDER: Final = re.compile(r"(\d+)|\.(\d+)-.+")
"""A finished run or its like, or one that `publish_folder` is filling."""


@contextlib.contextmanager
def replace_file(file: Path, *, is_private: bool = False) -> Iterator[Path]:
    """Write a file so that readers see the old content or the new one, never a part, even after a power cut.

    Args:
        file: The file to write; its folder is created.
        is_private: Whether only the owner may read it.

    Yields:
        A temporary path in the same folder with the same ending. When the block ends well, it takes the place of
        `file`; when the block raises, it is removed and `file` stays as it was.

    Raises:
        WorkspaceError: The disk is full or not writable.
    """
    with explain_refusal(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{os.getpid()}-{os.urandom(4).hex()}{''.join(file.suffixes[-2:])}")
        try:
            if is_private:
                temporary.touch(mode=0o600)
            yield temporary
            _flush_to_disk(temporary)
            os.replace(temporary, file)
            _flush_to_disk(file.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(file: Path, content: bytes, *, is_private: bool = False) -> None:
    """Write a whole file atomically; see `replace_file`."""
    with replace_file(file, is_private=is_private) as temporary:
        temporary.write_bytes(content)


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file atomically, indented and with a final line break; NaN and infinity are refused."""
    write_bytes(file, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(file: Path) -> Any:
    """Read a JSON file that `write_json` wrote.

    Raises:
        WorkspaceError: The file is missing or damaged.
    """
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise WorkspaceError(
            f"{file} cannot be read. Restore it from a backup, or start in an empty workspace."
        ) from error


@contextlib.contextmanager
def publish_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder so that it appears whole or not at all.

    Args:
        folder: The folder to publish. What stands there already is replaced.

    Yields:
        An empty folder beside it, which is renamed when the block ends well and removed when it raises.

    Raises:
        WorkspaceError: The disk is full or not writable; what stood there already stays.
    """
    with explain_refusal(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            for file in temporary.rglob("*"):
                _flush_to_disk(file)
            _exchange(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_small_file(file: Path, content: bytes) -> None:
    """Write one of very many small files: whole or not at all, but without waiting for the disk.

    After a power cut such a file can be empty; whoever reads it checks its content. The temporary name is random:
    process and thread ids repeat between machines and containers, where two attempts at one file could meet.

    Raises:
        WorkspaceError: The disk is full or not writable.
    """
    temporary = file.with_name(f".{os.urandom(8).hex()}-{file.name}")
    with explain_refusal(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, file)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def link_or_copy(original: Path, place: Path) -> None:
    """Let a file, which is never changed afterwards, stand in a second place; copied where the disk knows no links."""
    try:
        os.link(original, place)
    except OSError:
        shutil.copyfile(original, place)


def digest(content: Any) -> str:
    """SHA-256 of a JSON-like value, independent of the order of keys; 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_file(file: Path) -> str:
    """SHA-256 of a file's content; 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Remove what killed processes left half-written: temporary files and folders begin with a dot."""
    hidden = (path for folder in folders for path in folder.glob(".*"))
    for leftover in [path for path in hidden if path.name not in (".lock", ".gitignore")]:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def explain_refusal(path: Path) -> Iterator[None]:
    """Tell the user what to do where the disk refuses to hold a path."""
    try:
        yield
    except OSError as error:
        raise WorkspaceError(
            f"{path} could not be written ({error.strerror or error}). Make room on the disk or free the folder, "
            "then start again: finished work is kept."
        ) from error


def find_next_number(parent: Path) -> int:
    """One more than the highest numbered folder, finished or not."""
    folders = [folder for folder in parent.glob("*") if folder.is_dir()]
    matches = [match for folder in folders if (match := _NUMBERED_FOLDER.fullmatch(folder.name))]
    return max((int(match[1] or match[2]) for match in matches), default=0) + 1


def _exchange(fresh: Path, folder: Path) -> None:
    """Put a folder in the place of another, which is then removed, or put back where the exchange fails."""
    former = fresh.with_name(fresh.name + ".old")
    if folder.exists():
        os.replace(folder, former)
    try:
        os.replace(fresh, folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.replace(former, folder)
        raise
    _flush_to_disk(folder.parent)
    shutil.rmtree(former, ignore_errors=True)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
