"""Fetching through a proxy: a small one on this machine stands for a hospital's.

The names that are fetched from do not exist, so that nothing but the proxy can lead there. Sources on this machine are
reached directly, in these tests and elsewhere.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from hip_mri.errors import FetchError, SourceError
from hip_mri.sources import fetch
from hip_mri.sources.fetch import fetch_source
from tests.sources.remote.web_server import serve
from tests.sources.test_fetch import CONTENT

ADDRESS = "http://images.hospital.invalid/hip.zip"
DRIVE_ID = "1" + "A" * 32


class ForwardProxy:
    """What the proxy does.

    Attributes:
        requests: Method and target of each request.
        location: Where it sends those that ask for `ADDRESS`; empty gives the file.
        refuses: Status of its own; 0 lets everything pass.
        port: Where it listens.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.location = ""
        self.refuses = 0
        self.port = 0

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append((handler.command, handler.path))
        if self.refuses or handler.command == "CONNECT":
            handler.send_response(self.refuses or 403)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        is_moved = self.location and handler.path == ADDRESS
        handler.send_response(302 if is_moved else 200)
        if is_moved:
            handler.send_header("Location", self.location)
        handler.send_header("Content-Length", "0" if is_moved else str(len(CONTENT)))
        handler.end_headers()
        if handler.command == "GET" and not is_moved:
            handler.wfile.write(CONTENT)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ForwardProxy]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(fetch, "_REMOTE", ("http://", *fetch._REMOTE))
    behavior = ForwardProxy()
    with serve(behavior.answer) as behavior.port:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{behavior.port}")
        yield behavior


def test_a_source_is_fetched_through_the_proxy(proxy, tmp_path) -> None:
    assert fetch_source(ADDRESS, None, tmp_path).read_bytes() == CONTENT
    assert proxy.requests == [("HEAD", ADDRESS), ("GET", ADDRESS)]


def test_a_user_and_a_password_reach_the_proxy(proxy, tmp_path, monkeypatch) -> None:
    seen = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["Proxy-Authorization"])
        proxy.answer(handler)

    with serve(answer) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://anna:7f3a9c@127.0.0.1:{port}")
        fetch_source(ADDRESS, None, tmp_path)
    assert set(seen) == {"Basic YW5uYTo3ZjNhOWM="}


def test_a_source_on_this_machine_is_reached_directly(proxy, tmp_path) -> None:
    with serve(ForwardProxy().answer) as port:
        address = f"http://127.0.0.1:{port}/hip.zip"
        assert fetch_source(address, None, tmp_path).read_bytes() == CONTENT
    assert proxy.requests == []


def test_an_exception_of_the_user_is_reached_directly(proxy, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("NO_PROXY", ".hospital.invalid")
    with pytest.raises(FetchError, match="could not be fetched"):
        fetch_source(ADDRESS, None, tmp_path)
    assert proxy.requests == []


def test_a_redirect_goes_through_the_proxy(proxy, tmp_path) -> None:
    proxy.location = "http://store.hospital.invalid/1.zip"
    assert fetch_source(ADDRESS, None, tmp_path).read_bytes() == CONTENT
    assert ("GET", proxy.location) in proxy.requests


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "169.254.169.254", "127.0.0.1:1", "localhost:1", "[::1]:1", "pacs.invalid"]
)
def test_fault_33_a_redirect_to_a_private_address_is_refused_behind_a_proxy_too(
    host, proxy, tmp_path, monkeypatch
) -> None:
    look_up = socket.getaddrinfo

    def know_one_name(name, *arguments, **keywords):
        return look_up("10.0.0.7" if name == "pacs.invalid" else name, *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", know_one_name)
    proxy.location = f"http://{host}/secret.zip"
    with pytest.raises(SourceError, match="private address"):
        fetch_source(ADDRESS, None, tmp_path)
    assert {target for _, target in proxy.requests} == {ADDRESS}


@pytest.mark.parametrize("status", [403, 407, 502])
@pytest.mark.parametrize("address", ["https://images.hospital.invalid/hip.zip", DRIVE_ID], ids=["https", "drive"])
def test_a_proxy_that_refuses_is_named(address, status, proxy, tmp_path) -> None:
    proxy.refuses = status
    with pytest.raises(FetchError, match="HTTPS_PROXY"):
        fetch_source(address, None, tmp_path)
    host = "drive.google.com" if address == DRIVE_ID else "images.hospital.invalid"
    assert ("CONNECT", f"{host}:443") in proxy.requests


def test_a_proxy_that_is_not_there_is_named_without_its_password(proxy, tmp_path, monkeypatch) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("HTTP_PROXY", f"http://anna:7f3a9c@127.0.0.1:{port}")
    with pytest.raises(FetchError, match="HTTP_PROXY") as told:
        fetch_source(ADDRESS, None, tmp_path)
    assert "7f3a9c" not in str(told.value)


def test_a_socks_proxy_is_named(proxy, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(SourceError, match="HTTP_PROXY, which is not an HTTP proxy"):
        fetch_source(ADDRESS, None, tmp_path)


@pytest.mark.parametrize(("address", "is_told"), [("gs://bucket/hip.zip", True), ("s3://bucket/hip.zip", False)])
def test_googles_storage_is_told_to_read_the_environment(address, is_told, tmp_path, monkeypatch) -> None:
    """S3's client reads it by itself."""
    given = {}

    def open_storage(address: str, **options: object) -> None:
        given.update(options)
        raise FileNotFoundError

    monkeypatch.setattr("fsspec.url_to_fs", open_storage)
    with pytest.raises(SourceError, match="does not exist"):
        fetch_source(address, None, tmp_path)
    assert given == ({"session_kwargs": {"trust_env": True}} if is_told else {})
