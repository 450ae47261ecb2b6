"""Fetching, against a small server on this machine. It speaks http, which the product does not accept, so the tests
add its address to the accepted beginnings; everything behind that check is the product's own way through fsspec."""

import errno
import hashlib
import io
import os
import re
import socket
import struct
import traceback
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from hip_mri.addresses import show_place
from hip_mri.config import SourceLimits
from hip_mri.errors import ArchiveError, DiskError, FetchError, LimitError, SourceError, WorkspaceError
from hip_mri.sources import fetch
from hip_mri.sources.fetch import check_source, fetch_source
from hip_mri.sources.source import open_unlabeled
from hip_mri.synthetic import demo
from tests.sources.remote.web_server import serve


def pack(payload: bytes, num_entries: int = 1) -> bytes:
    """A zip file with entries of this content."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number in range(num_entries):
            archive.writestr(f"entry{number}", payload)
    return stream.getvalue()


CONTENT = pack(bytes(range(256)) * 40)
OTHER_CONTENT = pack(bytes(range(255, -1, -1)) * 40)  # of the same size
LONGER_CONTENT = pack(bytes(range(256)) * 41)
WEB_PAGE = b"<!DOCTYPE html><html>Too many downloads</html>"


@dataclass
class Behavior:
    """What the server does with every request.

    Attributes:
        content: Body of the file.
        headers: Sent along.
        head_status: Answer to HEAD.
        get_status: Answer to GET.
        breaks: `short` closes the connection after half of the body, `reset` resets it there.
        requests: Method of each request that came.
    """

    content: bytes = CONTENT
    headers: dict[str, str] = field(default_factory=dict)
    head_status: int = 200
    get_status: int = 200
    breaks: str = ""
    address: str = ""
    requests: list[str] = field(default_factory=list)

    @property
    def shown(self) -> str:
        """What messages say of the address."""
        return show_place(self.address)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(handler.command)
        status = self.head_status if handler.command == "HEAD" else self.get_status
        handler.send_response(status)
        body = self.content if status == 200 else b"<html>error</html>"
        for name, value in {"Content-Length": str(len(body)), **self.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body[: len(body) // 2] if self.breaks else body)
            handler.wfile.flush()
        if handler.command == "GET" and self.breaks == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()


@pytest.fixture
def server(monkeypatch) -> Iterator[Behavior]:
    behavior = Behavior()
    with serve(behavior.answer) as port:
        behavior.address = f"http://127.0.0.1:{port}/data/Hip%20MRI.zip"
        monkeypatch.setattr(fetch, "_REMOTE", ("http://127.0.0.1:", *fetch._REMOTE))
        yield behavior


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sources"


def list_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


# Addresses


def test_an_address_is_fetched_once(server, folder):
    file = fetch_source(server.address, None, folder)
    assert file.read_bytes() == CONTENT
    assert file.parent == folder
    assert re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]{16}\.zip", file.name)
    assert list_files(folder) == [file]
    assert fetch_source(server.address, None, folder) == file
    assert server.requests.count("GET") == 1


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_another_tag_or_time_is_fetched_again(server, folder, header):
    server.headers = {header: '"one"'}
    first = fetch_source(server.address, None, folder)
    assert fetch_source(server.address, None, folder) == first
    server.headers, server.content = {header: '"two"'}, OTHER_CONTENT
    second = fetch_source(server.address, None, folder)
    assert server.requests.count("GET") == 2
    assert second.read_bytes() == OTHER_CONTENT


def test_another_size_is_fetched_again(server, folder):
    fetch_source(server.address, None, folder)
    server.content = LONGER_CONTENT
    assert fetch_source(server.address, None, folder).read_bytes() == LONGER_CONTENT
    assert server.requests.count("GET") == 2


def test_a_later_version_takes_the_place_of_the_earlier_ones(server, folder):
    server.headers = {"ETag": '"one"'}
    first = fetch_source(server.address, None, folder)
    other = fetch_source(server.address.replace("data", "other"), None, folder)
    mine = folder / f"{first.name[:16]}.zip"
    mine.write_bytes(b"of somebody else")
    server.headers, server.content = {"ETag": '"two"'}, OTHER_CONTENT
    with pytest.raises(SourceError, match="SHA-256"):
        fetch_source(server.address, hashlib.sha256(CONTENT).hexdigest(), folder)
    assert first.exists()  # what was asked for is not given up for what is refused
    second = fetch_source(server.address, None, folder)
    assert sorted(list_files(folder)) == sorted([second, other, mine])


def test_an_earlier_version_that_a_kill_left_goes_with_the_next_run(server, folder):
    server.headers = {"ETag": '"one"'}
    first = fetch_source(server.address, None, folder)
    content = first.read_bytes()
    server.headers = {"ETag": '"two"'}
    second = fetch_source(server.address, None, folder)
    first.write_bytes(content)  # as if the run had ended between the two steps
    assert fetch_source(server.address, None, folder) == second
    assert list_files(folder) == [second]


def test_two_addresses_do_not_share_a_file(server, folder):
    first = fetch_source(server.address + "?version=1", None, folder)
    assert fetch_source(server.address + "?version=2", None, folder) != first
    assert server.requests.count("GET") == 2


def test_progress_grows_to_the_size(server, folder):
    server.content = pack(bytes(10_000_000))
    steps: list[tuple[int, int]] = []
    fetch_source(server.address, None, folder, lambda done, total: steps.append((done, total)))
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1] == (len(server.content), len(server.content))


def test_an_address_with_nothing_there_is_refused(server, folder):
    server.head_status = server.get_status = 404
    with pytest.raises(SourceError) as caught:
        fetch_source(server.address + "?token=secret", None, folder)
    assert not isinstance(caught.value, FetchError)  # trying again cannot help
    assert f"{server.shown} does not exist" in str(caught.value)
    assert list_files(folder) == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_access_is_told_from_a_wrong_address(server, folder, status):
    server.head_status = server.get_status = status
    with pytest.raises(SourceError) as caught:
        fetch_source(server.address, None, folder)
    assert not isinstance(caught.value, FetchError)
    assert f"access to {server.shown}" in str(caught.value)


def test_what_is_gone_for_good_is_not_there(server, folder):
    server.head_status = server.get_status = 410
    with pytest.raises(SourceError, match="does not exist") as caught:
        fetch_source(server.address, None, folder)
    assert not isinstance(caught.value, FetchError)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_worth_another_try(server, folder, status):
    server.head_status = server.get_status = status
    with pytest.raises(FetchError, match=rf"\(ClientResponseError, status {status}\)"):
        fetch_source(server.address, None, folder)


def test_a_server_that_does_not_answer_is_worth_another_try(server, folder):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/hip.zip"
        with pytest.raises(FetchError, match="ClientConnectorError"):
            fetch_source(address, None, folder)


class CloudError(Exception):
    """As Google's storage raises them."""

    def __init__(self, code: int) -> None:
        super().__init__("token=secret")
        self.code = code


def chain(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError("bucket/hip.zip"), "does not exist"),
        (chain(FileNotFoundError("bucket"), CloudError(404)), "does not exist"),  # Amazon's NoSuchBucket
        (CloudError(404), "does not exist"),
        (PermissionError("Access Denied"), "is denied"),
        (CloudError(401), "is denied"),
        (OSError("Forbidden: https://storage.googleapis.com/..."), "is denied"),
        (CloudError(503), r"could not be fetched \(CloudError, status 503\)"),
        (OSError(errno.EBUSY, "Please reduce your request rate"), r"could not be fetched \(OSError\)"),
    ],
)
def test_each_storage_is_understood(error, message, folder, monkeypatch):
    def fail(path: str) -> None:
        raise error

    monkeypatch.setattr(fsspec, "url_to_fs", lambda address: (SimpleNamespace(info=fail), "bucket/hip.zip"))
    with pytest.raises(SourceError, match=message) as caught:
        fetch_source("s3://bucket/hip.zip", None, folder)
    assert isinstance(caught.value, FetchError) == ("could not be fetched" in message)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("breaks", ["short", "reset"])
def test_a_lost_connection_leaves_nothing_behind(server, folder, breaks):
    server.breaks = breaks
    with pytest.raises(FetchError) as caught:
        fetch_source(server.address, None, folder)
    assert str(caught.value).startswith(f"source: {server.shown} could not be fetched (")
    assert list_files(folder) == []
    server.breaks = ""
    assert fetch_source(server.address, None, folder).read_bytes() == CONTENT


def test_a_lost_connection_leaves_the_older_version(server, folder):
    server.headers = {"ETag": '"one"'}
    first = fetch_source(server.address, None, folder)
    server.headers, server.breaks = {"ETag": '"two"'}, "short"
    with pytest.raises(FetchError):
        fetch_source(server.address, None, folder)
    assert list_files(folder) == [first]
    assert first.read_bytes() == CONTENT


def test_a_file_that_goes_away_between_question_and_answer_is_no_full_disk(server, folder):
    server.get_status = 404
    with pytest.raises(SourceError, match="does not exist"):
        fetch_source(server.address, None, folder)
    assert list_files(folder) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_fault_57_a_full_or_broken_disk_is_no_failing_network(server, folder, number):
    def fill_the_disk(done: int, total: int) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(DiskError, match="Make room"):  # which is not tried again
        fetch_source(server.address, None, folder, fill_the_disk)
    assert list_files(folder) == []


def test_fault_57_a_disk_that_fails_before_anything_comes_is_told_too(folder, monkeypatch):
    def fail(address: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fsspec, "url_to_fs", fail)
    with pytest.raises(DiskError, match="Input/output error"):
        fetch_source("s3://bucket/hip.zip", None, folder)


def test_a_folder_that_cannot_be_written_is_no_failing_network(server, tmp_path):
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(WorkspaceError, match="could not be written"):
        fetch_source(server.address, None, tmp_path / "file")


def test_a_web_page_in_the_place_of_the_file_is_not_kept(server, folder):
    server.content = WEB_PAGE
    with pytest.raises(ArchiveError, match="web page"):
        fetch_source(server.address, None, folder)
    assert list_files(folder) == []
    server.content = CONTENT
    assert fetch_source(server.address, None, folder).read_bytes() == CONTENT


def test_messages_do_not_give_tokens_away(server, folder):
    server.get_status = 500
    with pytest.raises(FetchError) as caught:
        fetch_source(server.address + "?token=secret", None, folder)
    told = "".join(traceback.format_exception(caught.value, chain=True))  # what Prefect writes into its log
    lines_of_code = {line.strip() for line in Path(__file__).read_text().splitlines()}
    assert not [line for line in told.splitlines() if "secret" in line and line.strip() not in lines_of_code]


@pytest.mark.parametrize("address", ["{}?token=secret#part", "{}#secret", "user:secret@{}", "secret@{}?for=a@b"])
def test_neither_messages_nor_the_log_give_passwords_away(server, folder, caplog, monkeypatch, address):
    caplog.set_level("INFO")
    monkeypatch.setattr(fetch, "_REMOTE", ("http://",))
    scheme, _, place = server.address.partition("://")
    server.get_status = 500
    with pytest.raises(FetchError) as caught:
        fetch_source(f"{scheme}://{address.format(place)}", None, folder)
    assert server.shown in str(caught.value)
    assert f"Fetching {server.shown}" in caplog.messages
    assert "secret" not in str(caught.value) + caplog.text


def spoil_first_name(content: bytes) -> bytes:
    """A zip file with a sound end, whose directory tells another name than stands where the entry is."""
    return content.replace(b"entry", b"eNtry", 1)


def test_fault_20_a_file_with_a_sound_end_and_a_bad_directory_is_not_kept(server, folder):
    server.content = spoil_first_name(CONTENT)
    with pytest.raises(
        ArchiveError,
        match=r"^source: the downloaded file is rejected\. .*local header",
    ):
        fetch_source(server.address, None, folder)
    assert list_files(folder) == []
    server.content = CONTENT
    assert fetch_source(server.address, None, folder).read_bytes() == CONTENT


def test_a_file_above_a_limit_is_kept_since_the_limit_can_be_raised(server, folder):
    server.content = pack(bytes(range(256)) * 40, num_entries=3)
    few = SourceLimits(max_entries=2)
    file = fetch_source(server.address, None, folder, limits=few)
    with pytest.raises(LimitError, match="3 entries, above 2"), open_unlabeled(file, few):
        pass
    assert fetch_source(server.address, None, folder) == file
    assert server.requests.count("GET") == 1


def test_a_file_packed_too_tightly_is_kept_since_that_limit_can_be_raised_too(server, folder):
    with zipfile.ZipFile(packed := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("normal/a.png", bytes(2**22))
    server.content = packed.getvalue()
    file = fetch_source(server.address, None, folder)
    with (
        pytest.raises(LimitError, match=r"--limits\.max-compression-ratio"),
        open_unlabeled(file, SourceLimits()),
    ):
        pass
    with open_unlabeled(file, SourceLimits(max_compression_ratio=2000)) as source:
        assert len(source.entries) == 1


def test_a_long_address_gives_a_short_name(server, folder):
    address = server.address.rpartition("/")[0] + "/" + "n" * 300 + ".zip"
    assert len(fetch_source(address, None, folder).name) < 50


# The checksum


def test_the_right_checksum_passes(server, folder, tmp_path):
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert fetch_source(server.address, sha256.upper(), folder).read_bytes() == CONTENT
    (tmp_path / "local.zip").write_bytes(CONTENT)
    assert fetch_source(str(tmp_path / "local.zip"), sha256, folder) == tmp_path / "local.zip"


def test_a_fetched_file_with_another_checksum_is_removed(server, folder):
    found, expected = hashlib.sha256(CONTENT).hexdigest(), "ab" * 32
    with pytest.raises(SourceError) as caught:
        fetch_source(server.address, expected.upper(), folder)
    assert f"the file has the SHA-256 {found}, expected is {expected}. " in str(caught.value)
    assert str(caught.value).startswith("source_sha256: ")
    assert list_files(folder) == []
    fetch_source(server.address, found, folder)
    assert server.requests.count("GET") == 2


def test_a_local_file_with_another_checksum_is_refused_and_kept(folder, tmp_path):
    file = tmp_path / "local.zip"
    file.write_bytes(CONTENT)
    with pytest.raises(SourceError, match=r"^source_sha256: "):
        fetch_source(str(file), "ab" * 32, folder)
    assert file.read_bytes() == CONTENT


def test_fault_5_a_pipe_has_no_checksum(folder, tmp_path):
    os.mkfifo(tmp_path / "Smith.zip")
    with pytest.raises(SourceError) as caught:
        fetch_source(str(tmp_path / "Smith.zip"), "ab" * 32, folder)
    assert "a pipe or a device" in str(caught.value)


def test_a_local_file_on_a_broken_disk_is_refused_and_not_named(folder, tmp_path, monkeypatch):
    def fail(file: Path) -> str:
        raise OSError(errno.EIO, "Input/output error", str(file))

    (tmp_path / "Smith.zip").write_bytes(CONTENT)
    monkeypatch.setattr(fetch, "digest_file", fail)
    with pytest.raises(SourceError) as caught:
        fetch_source(str(tmp_path / "Smith.zip"), "ab" * 32, folder)
    assert "(Input/output error)" in str(caught.value)


def test_a_folder_has_no_checksum(folder, tmp_path):
    with pytest.raises(SourceError) as caught:
        fetch_source(str(tmp_path), "ab" * 32, folder)
    assert "source_sha256: the source is a folder" in str(caught.value)


# Local paths


def test_local_files_and_folders_stay_where_they_are(folder, tmp_path, monkeypatch):
    (tmp_path / "local.zip").write_bytes(CONTENT)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for given in (str(tmp_path / "local.zip"), "local.zip", "./local.zip", "~/local.zip"):
        assert fetch_source(given, None, folder) == tmp_path / "local.zip"
    assert fetch_source("~", None, folder) == tmp_path
    assert list_files(folder) == []


@pytest.mark.parametrize("source", ["nothing.zip", "no/such/folder", "/no/such/file.zip"])
def test_a_missing_path_is_refused_and_not_repeated(source, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for refuse in (check_source, lambda source: fetch_source(source, None, folder)):
        with pytest.raises(SourceError) as caught:
            refuse(source)
        assert "no such file or folder" in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "ftp", "file", "sftp"])
def test_other_kinds_of_addresses_are_refused(scheme):
    with pytest.raises(SourceError) as caught:
        check_source(f"{scheme}://example.org/hip.zip")
    assert f"with {scheme}:, is not supported" in str(caught.value)


@pytest.mark.parametrize("source", ["https://example.org/hip.zip", "s3://bucket/hip.zip", "gs://bucket/hip.zip", None])
def test_what_can_be_fetched_passes_without_network(source):
    check_source(source)


@pytest.mark.parametrize("source", ["~no-such-user-here/hip.zip", "long/" * 2000], ids=["unknown user", "too long"])
def test_impossible_paths_are_refused_too(source):
    with pytest.raises(SourceError, match="there is no such file or folder"):
        check_source(source)


@pytest.mark.parametrize(
    "held", ["https:/host/x.zip?token=SECRET", "/data/SECRET.zip", "ftp://SECRET@host", "env:SECRET"]
)
def test_what_a_reference_leads_to_is_not_repeated(held, folder, monkeypatch):
    monkeypatch.setenv("HIP_SOURCE", held)
    with pytest.raises(SourceError) as caught:
        check_source("env:HIP_SOURCE")
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", ["Mueller_Anna_1962-03-04_MRI_hip", "images_of_the_hospital_2026_november"])
def test_the_name_of_a_missing_folder_is_not_sent_to_google(name):
    with pytest.raises(SourceError, match="there is no such file or folder"):
        check_source(name)


def test_an_empty_source_is_not_the_current_folder():
    with pytest.raises(SourceError, match="there is no such file or folder"):
        check_source("")


def test_without_a_source_the_demo_is_drawn_once(folder, monkeypatch):
    drawn = []

    def draw(file: Path, *, seed: int) -> Path:
        drawn.append(seed)
        file.parent.mkdir(parents=True)
        file.write_bytes(b"demo")
        return file

    monkeypatch.setattr(demo, "write_demo_zip", draw)
    assert fetch_source(None, None, folder) == fetch_source(None, None, folder)
    assert len(drawn) == 1
