"""Faults 31 to 34: connections that break, files that change, servers that lead astray and streams that never end."""

import hashlib
import io
import os
import socket
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from hip_mri.addresses import show_place
from hip_mri.config import SourceLimits
from hip_mri.errors import FetchError, HipMriError, LimitError, SourceError
from hip_mri.sources import fetch
from hip_mri.sources.fetch import fetch_source
from hip_mri.sources.remote import downloads
from hip_mri.sources.remote import https as download
from tests.sources.remote.web_server import Answer, serve


def pack(payload: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("normal/a.png", payload)
    return stream.getvalue()


CONTENT = pack(os.urandom(300_000))
OTHER_CONTENT = pack(os.urandom(300_000))


@dataclass
class Server:
    """A server on this machine that knows ranges.

    Attributes:
        content: What it serves.
        tag: Its ETag, empty for none.
        breaks_after: Bytes of a body after which each connection breaks; 0 never.
        ranges: Whether it sends parts.
        answer: Takes the place of all that for GET.
        ranges_asked: The header `Range` of each GET, empty where there is none.
    """

    content: bytes = CONTENT
    tag: str = '"one"'
    breaks_after: int = 0
    ranges: bool = True
    answer: Answer | None = None
    port: int = 0
    ranges_asked: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/hip.zip"

    @property
    def shown(self) -> str:
        """What messages say of the address."""
        return show_place(self.address)

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range", "")
        if handler.command == "GET":
            self.ranges_asked.append(asked)
        if self.answer and handler.command == "GET":
            self.answer(handler)
            return
        is_part = asked and self.ranges and handler.headers.get("If-Range") == self.tag
        start = int(asked.removeprefix("bytes=").rstrip("-")) if is_part else 0
        handler.send_response(206 if is_part else 200)
        if is_part:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        handler.send_header("Content-Length", str(len(self.content) - start))
        if self.tag:
            handler.send_header("ETag", self.tag)
        if self.ranges:
            handler.send_header("Accept-Ranges", "bytes")
        handler.end_headers()
        if handler.command == "GET":
            end = start + self.breaks_after if self.breaks_after else len(self.content)
            handler.wfile.write(self.content[start:end])


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    served = Server()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        served.serve(handler)  # looked up late: tests put other answers in its place

    with serve(answer) as served.port:
        monkeypatch.setattr(fetch, "_REMOTE", ("http://", *fetch._REMOTE))
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sources"


def list_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# 31: a connection that breaks


def test_fault_31_a_broken_connection_goes_on_where_it_broke(server, folder):
    server.breaks_after = 100_000
    for here in (100_000, 200_000, 300_000):
        with pytest.raises(FetchError):
            fetch_source(server.address, None, folder)
        (part,) = list_files(folder)
        assert part.endswith(".part")
        assert (folder / part).read_bytes() == CONTENT[:here]
    steps = []
    file = fetch_source(server.address, None, folder, lambda done, total: steps.append((done, total)))
    assert file.read_bytes() == CONTENT
    assert list_files(folder) == [file.name]
    assert server.ranges_asked == ["", "bytes=100000-", "bytes=200000-", "bytes=300000-"]
    assert steps[0][0] >= 300_000
    assert steps[-1] == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize("cannot", [{"tag": ""}, {"tag": 'W/"weak"'}, {"ranges": False}], ids=str)
def test_fault_31_without_a_tag_or_ranges_it_starts_anew(server, folder, cannot):
    for name, value in cannot.items():
        setattr(server, name, value)
    server.breaks_after = 100_000
    with pytest.raises(FetchError):
        fetch_source(server.address, None, folder)
    assert list_files(folder) == []
    server.breaks_after = 0
    assert fetch_source(server.address, None, folder).read_bytes() == CONTENT
    assert server.ranges_asked == ["", ""]


def test_fault_31_a_server_that_forgets_about_ranges_sends_all(server, folder):
    server.breaks_after = 100_000
    with pytest.raises(FetchError):
        fetch_source(server.address, None, folder)
    server.breaks_after = 0

    def send_all(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("ETag", server.tag)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        handler.wfile.write(CONTENT)

    server.answer = send_all
    assert fetch_source(server.address, None, folder).read_bytes() == CONTENT


def test_fault_31_another_part_than_asked_for_is_not_taken(server, folder):
    server.breaks_after = 100_000
    with pytest.raises(FetchError):
        fetch_source(server.address, None, folder)

    def send_wrong(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}")
        handler.send_header("Content-Length", str(len(CONTENT) - 5))
        handler.end_headers()
        handler.wfile.write(CONTENT[5:])

    server.answer = send_wrong
    with pytest.raises(FetchError):
        fetch_source(server.address, None, folder)
    (part,) = list_files(folder)
    assert (folder / part).read_bytes() == CONTENT[:100_000]


def test_fault_31_a_part_that_is_whole_already_is_not_fetched_again(server, folder):
    server.breaks_after = 100_000
    with pytest.raises(FetchError):
        fetch_source(server.address, None, folder)
    (part,) = list_files(folder)
    (folder / part).write_bytes(CONTENT)
    file = fetch_source(server.address, None, folder)
    assert list_files(folder) == [file.name]
    assert len(server.ranges_asked) == 1


def test_fault_31_a_storage_goes_on_where_it_broke(folder, monkeypatch):
    asked, failing = [], [False, True, False, False, False]

    def cat_file(path: str, start: int, end: int) -> bytes:
        asked.append((start, end))
        if failing.pop(0):
            raise ConnectionResetError
        return CONTENT[start:end]

    storage = SimpleNamespace(info=lambda path: {"size": len(CONTENT), "ETag": "1"}, cat_file=cat_file)
    monkeypatch.setattr(fsspec, "url_to_fs", lambda address: (storage, "bucket/hip.zip"))
    monkeypatch.setattr(downloads, "_RANGE_BYTES", 100_000)
    with pytest.raises(FetchError):
        fetch_source("s3://bucket/hip.zip", None, folder)
    assert fetch_source("s3://bucket/hip.zip", None, folder).read_bytes() == CONTENT
    assert [start for start, _ in asked] == [0, 100_000, 100_000, 200_000, 300_000]
    assert len(list_files(folder)) == 1


def sign(address: str, number: int) -> str:
    return f"{address}?X-Amz-Date=2026112{number}&X-Amz-Signature=secret{number}"


def test_fault_31_a_new_signature_goes_on_where_the_old_one_broke(server, folder):
    server.breaks_after = 100_000
    with pytest.raises(FetchError):
        fetch_source(sign(server.address, 1), None, folder)
    server.breaks_after = 0
    file = fetch_source(sign(server.address, 2), None, folder)
    assert server.ranges_asked == ["", "bytes=100000-"]
    assert fetch_source(sign(server.address, 3), None, folder) == file
    assert list_files(folder) == [file.name]
    assert len(server.ranges_asked) == 2


def test_an_id_in_the_query_is_another_file_of_the_same_tag(server, folder):
    first = fetch_source(server.address + "?id=1", None, folder)
    server.content = OTHER_CONTENT
    assert fetch_source(server.address + "?token=a&id=2", None, folder).read_bytes() == OTHER_CONTENT
    assert first.read_bytes() == CONTENT


# 61: parts that nobody asks for any more


def test_fault_61_old_parts_are_swept_and_nothing_else(server, folder):
    server.breaks_after = 100_000
    with pytest.raises(FetchError):
        fetch_source(server.address, None, folder)
    (fresh,) = list_files(folder)
    old, foreign = f"{'0' * 16}-{'1' * 16}.part", "mine.part"
    for name in (old, foreign):
        (folder / name).write_bytes(b"part")
        os.utime(folder / name, (1, 1))
    with pytest.raises(FetchError):
        fetch_source(server.address, None, folder)
    assert list_files(folder) == [fresh, foreign]


def test_fault_61_parts_are_swept_whatever_the_source(folder, tmp_path):
    folder.mkdir()
    part = folder / f"{'0' * 16}-{'1' * 16}.part"
    part.write_bytes(b"part")
    os.utime(part, (1, 1))
    fetch_source(str(tmp_path), None, folder)
    assert not part.exists()


# 32: another file than meant


def test_fault_32_a_file_that_changed_between_two_tries(server, folder):
    server.breaks_after = 100_000
    with pytest.raises(FetchError):
        fetch_source(server.address, None, folder)
    server.breaks_after, server.content, server.tag = 0, OTHER_CONTENT, '"two"'
    with pytest.raises(SourceError) as caught:
        fetch_source(server.address, None, folder)
    assert not isinstance(caught.value, FetchError)  # trying again unasked would hide it
    assert f"{server.shown} changed" in str(caught.value)
    assert list_files(folder) == []
    assert fetch_source(server.address, None, folder).read_bytes() == OTHER_CONTENT


def test_fault_32_a_file_that_changes_between_question_and_answer(server, folder):
    def send_other(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("ETag", '"two"')
        handler.send_header("Content-Length", str(len(OTHER_CONTENT)))
        handler.end_headers()
        handler.wfile.write(OTHER_CONTENT)

    server.answer = send_other
    with pytest.raises(SourceError, match="changed"):
        fetch_source(server.address, None, folder)
    assert list_files(folder) == []


@pytest.mark.parametrize("change", [{"ETag": "2"}, {"size": 5}])
def test_fault_32_a_storage_whose_file_changes_while_it_comes(folder, monkeypatch, change):
    told = [{"size": len(CONTENT), "ETag": "1"}, {"size": len(CONTENT), "ETag": "1"} | change]
    storage = SimpleNamespace(info=lambda path: told.pop(0), cat_file=lambda path, start, end: CONTENT[start:end])
    monkeypatch.setattr(fsspec, "url_to_fs", lambda address: (storage, "bucket/hip.zip"))
    with pytest.raises(SourceError, match="changed"):
        fetch_source("s3://bucket/hip.zip", None, folder)
    assert list_files(folder) == []


def test_fault_32_a_storage_whose_file_shrinks(folder, monkeypatch):
    storage = SimpleNamespace(info=lambda path: {"size": 10**6}, cat_file=lambda path, start, end: CONTENT[start:end])
    monkeypatch.setattr(fsspec, "url_to_fs", lambda address, **options: (storage, "bucket/hip.zip"))
    with pytest.raises(SourceError, match="changed"):
        fetch_source("gs://bucket/hip.zip", None, folder)
    assert list_files(folder) == []


def test_fault_32_a_resumed_file_with_another_checksum(server, folder):
    server.breaks_after = 100_000
    with pytest.raises(FetchError):
        fetch_source(server.address, "ab" * 32, folder)
    server.breaks_after = 0
    with pytest.raises(SourceError, match=hashlib.sha256(CONTENT).hexdigest()):
        fetch_source(server.address, "ab" * 32, folder)
    assert list_files(folder) == []


# 33: led astray


def redirect(to: str, status: int = 302) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def refuse_redirect(server: Server, folder: Path, to: str) -> str:
    server.serve = redirect(to)  # type: ignore[method-assign]
    with pytest.raises(SourceError) as caught:
        fetch_source(server.address + "?token=secret", None, folder)
    assert not isinstance(caught.value, FetchError)
    assert "secret" not in str(caught.value)
    assert list_files(folder) == []
    return str(caught.value)


@pytest.mark.parametrize(
    "to",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/x",
        "http://192.168.1.1/x",
        "http://172.16.0.1/x",
        "http://100.64.0.1/x",
        "http://0.0.0.0/x",
        "http://[::1]/x",
        "http://[fe80::1]/x",
        "http://[fc00::1]/x",
        "http://[::ffff:127.0.0.1]/x",
        "http://[64:ff9b::7f00:1]/x",
        "http://127.0.0.1:1/x",  # the host that was given, and another port
        "http://127.0.0.2/x",
        "http://0x7f.1/x",
        "http://localhost/x",
        "//localhost/x",
    ],
)
def test_fault_33_redirects_to_internal_addresses(server, folder, to):
    assert "to a private address" in refuse_redirect(server, folder, to)


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://example.org/x", "gopher://example.org/x", "data:,x"])
def test_fault_33_redirects_to_other_schemes(server, folder, to):
    scheme = to.partition(":")[0]
    assert f"like {scheme}://" in refuse_redirect(server, folder, to)


def test_fault_33_from_https_nothing_leads_to_http(server, folder, monkeypatch):
    monkeypatch.setattr(fetch, "_REMOTE", (f"http://127.0.0.1:{server.port}", "https://"))
    assert "like http://" in refuse_redirect(server, folder, "http://example.org/x")


def test_fault_33_a_name_that_stands_for_an_internal_address(server, folder, monkeypatch):
    look_up = socket.getaddrinfo

    def answer(host, *arguments, **options):
        return look_up("10.1.2.3" if host == "evil.example" else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    assert "to a private address" in refuse_redirect(server, folder, "http://evil.example/x")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_fault_33_redirects_at_the_given_place_are_followed(server, folder, status):
    plain, left = server.serve, [redirect("/moved.zip?signed=%2Fa%2Fb", status)] * 2
    paths = []

    def serve(handler: BaseHTTPRequestHandler) -> None:
        paths.append(handler.path)
        left.pop()(handler) if handler.path == "/hip.zip" else plain(handler)

    server.serve = serve  # type: ignore[method-assign]
    assert fetch_source(server.address, None, folder).read_bytes() == CONTENT
    assert paths == ["/hip.zip", "/moved.zip?signed=%2Fa%2Fb"] * 2  # the signature as it came


def test_fault_33_a_circle_of_redirects(server, folder):
    message = refuse_redirect(server, folder, "/hip.zip")
    assert server.shown in message
    assert "too many redirects" in message


@pytest.mark.parametrize(
    ("place", "is_public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("2002:7f00:1::", False),
        ("64:ff9b::a00:1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
    ],
)
def test_fault_33_what_is_public(place, is_public):
    assert download._is_public(ip_address(place)) == is_public


@pytest.mark.parametrize("to", ["http://2130706433/x", "http://127.1/x", "http://[", "http://a:b/"])
def test_fault_33_redirects_to_what_only_looks_like_an_address(server, folder, to):
    message = refuse_redirect(server, folder, to)
    assert f"{server.shown} is or redirects to an invalid address" in message


# 34: streams without end


def endless(pause: float = 0.0, size: int = 2**16) -> Answer:
    stop = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not stop.wait(pause):
            handler.wfile.write(bytes(size))

    return answer


def test_fault_34_a_stream_without_end_ends_at_the_limit(server, folder):
    server.tag, server.answer = "", endless()
    server.ranges = False
    with pytest.raises(SourceError) as caught:
        server_told(server, folder, SourceLimits(max_bytes=2_000_000))
    assert not isinstance(caught.value, FetchError)
    assert f"{server.shown} has more than 2,000,000 bytes" in str(caught.value)
    assert list_files(folder) == []


def server_told(server: Server, folder: Path, limits: SourceLimits) -> Path:
    """Fetch from a server that does not tell the size beforehand."""
    plain = server.serve

    def serve(handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "HEAD":
            handler.send_response(405)
            handler.end_headers()
        else:
            plain(handler)

    server.serve = serve  # type: ignore[method-assign]
    return fetch_source(server.address, None, folder, limits=limits)


def test_fault_34_a_size_above_the_limit_is_not_even_begun(server, folder):
    steps = []
    with pytest.raises(SourceError, match="more than 1,000 bytes"):
        fetch_source(server.address, None, folder, lambda done, total: steps.append(done), SourceLimits(max_bytes=1000))
    assert steps == []
    assert list_files(folder) == []


def test_fault_34_a_slow_stream_ends_in_time(server, folder):
    server.answer = endless(pause=0.02, size=10)
    with pytest.raises(SourceError) as caught:
        server_told(server, folder, SourceLimits(fetch_timeout_seconds=0.3, stall_timeout_seconds=5))
    assert not isinstance(caught.value, FetchError)
    assert f"{server.shown} took more than 0.3 seconds" in str(caught.value)
    assert list_files(folder) == []


def test_fault_34_a_header_without_end_ends_in_time(server, folder):
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Long: ")
        while not stop.wait(0.02):
            handler.wfile.write(b"a")

    server.serve = drip  # type: ignore[method-assign]
    with pytest.raises(SourceError, match=r"0\.3 seconds"):
        fetch_source(
            server.address, None, folder, limits=SourceLimits(fetch_timeout_seconds=0.3, stall_timeout_seconds=5)
        )


def test_fault_34_a_silent_server_is_worth_another_try(server, folder):
    stop = threading.Event()

    def fall_silent(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"PK")
        stop.wait(5)

    server.answer, server.content = fall_silent, bytes(1000)
    server.tag = ""
    with pytest.raises(FetchError):
        fetch_source(server.address, None, folder, limits=SourceLimits(stall_timeout_seconds=0.2))
    stop.set()
    assert list_files(folder) == []


def test_fault_34_a_packed_stream_counts_as_it_comes(server, folder):
    """No decompression on the way: a small body cannot become a large one."""

    def send_packed(handler: BaseHTTPRequestHandler) -> None:
        assert handler.headers["Accept-Encoding"] == "identity"
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", "20")
        handler.end_headers()
        handler.wfile.write(b"\x1f\x8b" + bytes(18))

    server.answer = send_packed
    with pytest.raises(HipMriError, match="is no zip file"):
        server_told(server, folder, SourceLimits())


def test_fault_34_drive_has_limits_too(folder, monkeypatch):
    def give_too_much(*, output, progress, **options) -> None:
        for number in range(100):
            output.write(bytes(100))
            progress(100 * number, None)

    monkeypatch.setitem(__import__("sys").modules, "gdown", SimpleNamespace(download=give_too_much))
    drive_id = "1AbC_dEf-GhIjKlMnOpQrStUvWxYz0123"
    with pytest.raises(SourceError, match="Google Drive file has more than 1,000 bytes"):
        fetch_source(drive_id, None, folder, limits=SourceLimits(max_bytes=1000))
    with pytest.raises(SourceError, match="Google Drive file took more than"):
        fetch_source(drive_id, None, folder, limits=SourceLimits(fetch_timeout_seconds=1e-9))
    assert list_files(folder) == []


def test_fault_34_what_came_in_time_is_kept_for_a_longer_limit(server, folder):
    stop, half = threading.Event(), len(CONTENT) // 2

    def stall(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for name, value in {"Content-Length": len(CONTENT), "ETag": server.tag, "Accept-Ranges": "bytes"}.items():
            handler.send_header(name, str(value))
        handler.end_headers()
        handler.wfile.write(CONTENT[:half])
        stop.wait(20)

    server.answer = stall
    with pytest.raises(LimitError, match="took more than"):
        fetch_source(
            server.address, None, folder, limits=SourceLimits(fetch_timeout_seconds=2, stall_timeout_seconds=20)
        )
    stop.set()
    (part,) = folder.iterdir()
    assert part.read_bytes() == CONTENT[:half]
    server.answer = None
    assert fetch_source(server.address, None, folder).read_bytes() == CONTENT
    assert server.ranges_asked[-1] == f"bytes={half}-"
    assert [file.suffix for file in folder.iterdir()] == [".zip"]


def test_fault_34_a_storage_has_limits_too(folder, monkeypatch):
    storage = SimpleNamespace(
        info=lambda path: {"size": len(CONTENT)}, cat_file=lambda path, start, end: CONTENT[start:end]
    )
    monkeypatch.setattr(fsspec, "url_to_fs", lambda address: (storage, "bucket/hip.zip"))
    with pytest.raises(SourceError, match="more than 1,000 bytes"):
        fetch_source("s3://bucket/hip.zip", None, folder, limits=SourceLimits(max_bytes=1000))
    with pytest.raises(SourceError, match="took more than"):
        fetch_source("s3://bucket/hip.zip", None, folder, limits=SourceLimits(fetch_timeout_seconds=1e-9))
    assert list_files(folder) == []
