"""Google Drive: a `gdown` that does not leave this machine, and the real one against a server on it."""

import errno
import io
import os
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest
import requests

from hip_mri.config import SourceLimits
from hip_mri.errors import ArchiveError, DiskError, FetchError, LimitError, SourceError
from hip_mri.sources.fetch import check_source, fetch_source
from tests.sources.remote.web_server import serve

DRIVE_ID = "1AbC_dEf-GhIjKlMnOpQrStUvWxYz0123"
WEB_PAGE = b"<!DOCTYPE html><html>Too many downloads</html>"
PIECE_BYTES = 512 * 1024


def pack(payload: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("normal/a.png", payload)
    return stream.getvalue()


PAYLOAD = os.urandom(3 * PIECE_BYTES)
CONTENT = pack(PAYLOAD)
OTHER_CONTENT = pack(PAYLOAD[::-1])  # of the same size, with another checksum at the beginning
LONGER_CONTENT = pack(PAYLOAD + b"more")


@dataclass
class Drive:
    """In the place of `gdown`.

    Attributes:
        content: What it gives, in pieces.
        error: What it raises in the place of that.
        tells_size: Whether it knows how much will come.
        asked: Ids that were asked for.
        num_bytes: How much it has given.
    """

    content: bytes = CONTENT
    error: Exception | None = None
    tells_size: bool = True
    asked: list[str] = field(default_factory=list)
    num_bytes: int = 0

    def download(
        self,
        *,
        output: BinaryIO,
        quiet: bool,
        timeout: float,
        progress: Callable[[int, int | None], None],
        **options: str,
    ) -> None:
        self.asked.append(options.pop("id"))
        assert not options
        if self.error:
            raise self.error
        for start in range(0, len(self.content), PIECE_BYTES):
            output.write(piece := self.content[start : start + PIECE_BYTES])
            self.num_bytes += len(piece)
            progress(start + len(piece), len(self.content) if self.tells_size else None)


@pytest.fixture
def drive(monkeypatch) -> Drive:
    drive = Drive()
    monkeypatch.setitem(sys.modules, "gdown", SimpleNamespace(download=drive.download))
    return drive


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sources"


def list_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


@pytest.mark.parametrize(
    "source",
    [
        DRIVE_ID,
        f"https://drive.google.com/file/d/{DRIVE_ID}/view?usp=sharing",
        f"https://drive.google.com/file/d/{DRIVE_ID}",
        f"https://drive.google.com/open?id={DRIVE_ID}",
        f"https://drive.google.com/uc?export=download&id={DRIVE_ID}",
        f"https://drive.google.com/file/u/0/d/{DRIVE_ID}/edit",
        f"https://docs.google.com/uc?id={DRIVE_ID}&export=download",
    ],
)
def test_links_and_ids_are_recognized(source, drive, folder):
    check_source(source)
    file = fetch_source(source, None, folder)
    assert drive.asked == [DRIVE_ID]
    assert file.read_bytes() == CONTENT
    assert list_files(folder) == [file]
    assert fetch_source(DRIVE_ID, None, folder) == file


def test_a_path_that_looks_like_an_id_is_a_path(drive, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / DRIVE_ID).mkdir()
    assert fetch_source(DRIVE_ID, None, folder) == tmp_path / DRIVE_ID
    assert drive.asked == []


def test_a_failing_drive_leaves_nothing_and_can_be_tried_again(folder, monkeypatch):
    def download(*, output: BinaryIO, **options: object) -> None:
        output.write(CONTENT[:100])
        raise ValueError(f"quota of {options}")

    monkeypatch.setitem(sys.modules, "gdown", SimpleNamespace(download=download))
    with pytest.raises(FetchError) as caught:
        fetch_source(DRIVE_ID, None, folder)
    assert "(ValueError)" in str(caught.value)
    assert list_files(folder) == []


@pytest.mark.parametrize(("content", "found"), [(b"", "no zip file"), (WEB_PAGE, "a web page")])
def test_what_drive_gives_in_the_place_of_the_file_is_not_kept(folder, monkeypatch, content, found):
    download = SimpleNamespace(download=lambda *, output, **options: output.write(content))
    monkeypatch.setitem(sys.modules, "gdown", download)
    with pytest.raises(ArchiveError, match=f"the downloaded file is {found}"):
        fetch_source(DRIVE_ID, None, folder)
    assert list_files(folder) == []


def test_a_disk_that_drive_fills_is_no_failing_network(folder, monkeypatch):
    def download(**options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(sys.modules, "gdown", SimpleNamespace(download=download))
    with pytest.raises(DiskError, match="No space left on device"):
        fetch_source(DRIVE_ID, None, folder)
    assert list_files(folder) == []


def test_a_drive_file_is_checked_too(drive, folder):
    with pytest.raises(SourceError, match="SHA-256"):
        fetch_source(DRIVE_ID, "ab" * 32, folder)
    assert list_files(folder) == []


# A new upload under the same link


@pytest.mark.parametrize("tells_size", [True, False])
def test_a_file_that_stays_the_same_is_looked_at_and_not_fetched_again(drive, folder, tells_size):
    drive.tells_size = tells_size
    file = fetch_source(DRIVE_ID, None, folder)
    before = file.stat().st_mtime_ns
    drive.num_bytes = 0
    assert fetch_source(DRIVE_ID, None, folder) == file
    assert file.stat().st_mtime_ns == before
    assert drive.num_bytes == PIECE_BYTES  # a look, and no more


@pytest.mark.parametrize("content", [OTHER_CONTENT, LONGER_CONTENT], ids=["same size", "longer"])
def test_a_new_upload_is_fetched_in_the_place_of_the_old_one(drive, folder, content):
    file = fetch_source(DRIVE_ID, None, folder)
    drive.content = content
    assert fetch_source(DRIVE_ID, None, folder) == file
    assert file.read_bytes() == content
    assert list_files(folder) == [file]


def test_a_small_file_is_compared_as_a_whole(drive, folder):
    drive.content = pack(b"one")
    file = fetch_source(DRIVE_ID, None, folder)
    assert fetch_source(DRIVE_ID, None, folder) == file
    assert len(drive.asked) == 2
    drive.content = pack(b"one more")
    assert fetch_source(DRIVE_ID, None, folder).read_bytes() == drive.content


def test_a_drive_that_does_not_answer_leaves_what_was_fetched_with_a_warning(drive, folder, caplog):
    file = fetch_source(DRIVE_ID, None, folder)
    drive.error = RuntimeError("quota of secret")
    assert fetch_source(DRIVE_ID, None, folder) == file
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "Google Drive does not report whether the file has changed (RuntimeError); the previous download is used"
    ]


def test_a_new_upload_that_is_no_zip_file_leaves_the_old_one(drive, folder):
    file = fetch_source(DRIVE_ID, None, folder)
    drive.content = WEB_PAGE
    with pytest.raises(ArchiveError, match="web page"):
        fetch_source(DRIVE_ID, None, folder)
    assert file.read_bytes() == CONTENT


def test_fault_34_a_new_upload_above_the_limit_is_not_even_begun(drive, folder):
    file = fetch_source(DRIVE_ID, None, folder)
    drive.content = LONGER_CONTENT
    with pytest.raises(LimitError, match="Google Drive file has more than"):
        fetch_source(DRIVE_ID, None, folder, limits=SourceLimits(max_bytes=len(CONTENT)))
    assert file.read_bytes() == CONTENT


def test_fault_57_a_copy_on_a_broken_disk_is_told(drive, folder, monkeypatch):
    file = fetch_source(DRIVE_ID, None, folder)

    def fail(path: Path, *arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(type(file), "open", fail)
    with pytest.raises(DiskError, match="Input/output error"):
        fetch_source(DRIVE_ID, None, folder)


# The real gdown


def test_gdown_gives_a_look_for_a_piece(folder, tmp_path, monkeypatch):
    """What the look counts on: pieces, the size beside them, and an end when it is asked for."""
    pytest.importorskip("gdown")
    content = [CONTENT]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/zip")
        handler.send_header("Content-Disposition", 'attachment; filename="hip.zip"')
        handler.send_header("Content-Length", str(len(content[0])))
        handler.end_headers()
        for start in range(0, len(content[0]), 2**14):
            handler.wfile.write(content[0][start : start + 2**14])

    with serve(answer) as port:
        ask = requests.Session.get

        def ask_here(session: requests.Session, url: str, **options) -> requests.Response:
            assert url == f"https://drive.google.com/uc?id={DRIVE_ID}"
            return ask(session, f"http://127.0.0.1:{port}/", **options)

        monkeypatch.setattr(requests.Session, "get", ask_here)
        monkeypatch.setattr(sys.modules["gdown.download"], "DEFAULT_COOKIES_FILE", str(tmp_path / "cookies.txt"))
        file = fetch_source(DRIVE_ID, None, folder)
        before = file.stat().st_mtime_ns
        assert fetch_source(DRIVE_ID, None, folder) == file
        assert file.stat().st_mtime_ns == before
        content[0] = OTHER_CONTENT
        assert fetch_source(DRIVE_ID, None, folder).read_bytes() == OTHER_CONTENT
