"""Downloads files over HTTPS: redirects to private hosts are rejected, and interrupted downloads are resumed.

The address that the user gives may be on a private network. A redirect of a server may not: it may lead to other hosts
on the internet, but not to this machine, its network or the metadata services of a cloud.
"""

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import aiohttp
import aiohttp.abc
from fsspec.asyn import get_loop, sync
from yarl import URL

from hip_mri.config import SourceLimits
from hip_mri.errors import SourceError
from hip_mri.proxies import find_proxy, list_proxies
from hip_mri.sources.remote.fetch_limits import changed_error, limit_progress, too_slow_error

_REDIRECTS: Final = (301, 302, 303, 307, 308)
_MAX_REDIRECTS: Final = 10
_CHUNK_BYTES: Final = 2**20
_PLAIN: Final = {"Accept-Encoding": "identity"}
"""Asks for the file's own bytes, which resuming and the budget count."""

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+)")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Address:
    """Where a file is fetched from.

    Attributes:
        text: As the user gave it.
        shown: As much of it as messages say.
        schemes: Beginnings of addresses that redirects may lead to, such as `https://`.
    """

    text: str
    shown: str
    schemes: tuple[str, ...]

    @property
    def url(self) -> URL:
        return _parse(self.text)


@dataclass(frozen=True)
class RemoteFile:
    """Properties of a file as reported by its server.

    Attributes:
        version: Header fields that change when the file changes, and `size`, if reported.
        takes_ranges: Whether the server sends a part of the file on request.
    """

    version: dict[str, str]
    takes_ranges: bool

    @property
    def has_strong_tag(self) -> bool:
        """Whether the server reports an ETag that changes with every byte of the file."""
        return not self.version.get("ETag", "W/").startswith("W/")

    @property
    def can_resume(self) -> bool:
        """Whether a part and the rest, downloaded later, are known to be of one version."""
        return self.takes_ranges and self.has_strong_tag


def ask_for_file(address: Address, limits: SourceLimits) -> RemoteFile:
    """Request the properties of a file without downloading it.

    Raises:
        SourceError: A redirect leads to a private host.
        aiohttp.ClientError: The server refuses, or the network failed.
    """
    return sync(get_loop(), _ask, address, limits)


def download_file(
    address: Address, remote: RemoteFile, file: Path, limits: SourceLimits, on_progress: Callable[[int, int], None]
) -> None:
    """Download a file, or the missing part of it.

    Args:
        address: Where it is.
        remote: Properties that the server reported.
        file: Where it is written; if `remote` can resume, the bytes it holds are kept and the rest is appended.
        limits: Bytes and seconds that it may take.
        on_progress: Called with the bytes that have come and the bytes of all, 0 where that is unknown.

    Raises:
        SourceError: A redirect leads to a private host, the file has changed since the server was asked, or it is
            over a limit; trying again does not help.
        aiohttp.ClientError: The server refuses, or the network failed.
        OSError: The network failed, or the disk.
    """
    sync(get_loop(), _download, address, remote, file, limits, on_progress)


async def _ask(address: Address, limits: SourceLimits) -> RemoteFile:
    async with _open_session(address, limits) as session:
        with contextlib.suppress(aiohttp.ClientResponseError):  # signed addresses often allow nothing but GET
            async with _request(session, "HEAD", address, {}) as response:
                return _describe(response)
        async with _request(session, "GET", address, {}) as response:
            return _describe(response)


async def _download(
    address: Address, remote: RemoteFile, file: Path, limits: SourceLimits, on_progress: Callable[[int, int], None]
) -> None:
    here = file.stat().st_size if remote.can_resume and file.exists() else 0
    size = int(remote.version.get("size", 0))
    if here and here == size:
        return
    asked = {"Range": f"bytes={here}-", "If-Range": remote.version["ETag"]} if 0 < here < size else {}
    async with _open_session(address, limits) as session, _request(session, "GET", address, asked) as response:
        _refuse_change(address, remote, _describe(response))
        start = here if _continues_at(response, here) else 0
        with file.open("r+b" if start else "wb") as stream:
            stream.seek(start)
            await _receive(response, stream, address, limits, on_progress)


async def _receive(
    response: aiohttp.ClientResponse,
    stream: BinaryIO,
    address: Address,
    limits: SourceLimits,
    on_progress: Callable[[int, int], None],
) -> None:
    """Append the response to a file: at most the allowed and exactly the announced number of bytes."""
    total = int(_describe(response).version.get("size", 0))
    report = limit_progress(on_progress, address.shown, limits)
    report(stream.tell(), total)
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        stream.write(chunk)
        report(stream.tell(), total)
    if total and stream.tell() != total:
        raise aiohttp.ClientPayloadError(f"{stream.tell()} of {total} bytes came")


def _refuse_change(address: Address, remote: RemoteFile, found: RemoteFile) -> None:
    shared = remote.version.keys() & found.version.keys()
    if any(remote.version[field] != found.version[field] for field in shared):
        raise changed_error(address.shown)


def _continues_at(response: aiohttp.ClientResponse, here: int) -> bool:
    """Whether an answer is the rest of the file; a whole file is sent where the server knows no ranges after all."""
    if response.status != 206:
        return False
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if not found or int(found[1]) != here:
        raise aiohttp.ClientPayloadError("another part came than was asked for")
    return True


def _describe(response: aiohttp.ClientResponse) -> RemoteFile:
    headers = response.headers
    version = {field: headers[field] for field in ("ETag", "Last-Modified") if field in headers}
    part = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    size = part[2] if part else headers.get("Content-Length", "")
    if size.isdecimal() and int(size):
        version["size"] = size
    return RemoteFile(version, headers.get("Accept-Ranges", "").strip().lower() == "bytes")


@contextlib.asynccontextmanager
async def _open_session(address: Address, limits: SourceLimits) -> AsyncIterator[aiohttp.ClientSession]:
    """A session whose block ends in time, whatever the server does."""
    connector = aiohttp.TCPConnector(resolver=_Resolver(address))
    stall = limits.stall_timeout_seconds
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=stall, sock_read=stall)
    session = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=_PLAIN, auto_decompress=False)
    clock = asyncio.timeout(limits.fetch_timeout_seconds)
    try:
        async with clock, session:
            yield session
    except TimeoutError:
        if clock.expired():
            raise too_slow_error(address.shown, limits) from None
        raise
    except ValueError:  # what aiohttp and yarl say of addresses, which they repeat
        raise SourceError(
            f"source: {address.shown} is or leads to an address that is none. Check the address."
        ) from None


@contextlib.asynccontextmanager
async def _request(
    session: aiohttp.ClientSession, method: str, address: Address, headers: dict[str, str]
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer to a request, behind redirects that lead to other places on the internet."""
    url = address.url
    for _ in range(_MAX_REDIRECTS):
        proxy = _find_usable_proxy(url, address)
        sending = session.request(method, url, headers=headers, allow_redirects=False, proxy=proxy)
        async with sending as response:
            if response.status not in _REDIRECTS or "Location" not in response.headers:
                response.raise_for_status()
                yield response
                return
            url = url.join(_parse(response.headers["Location"]))
        _refuse_place(url, address)
        if find_proxy(str(url)):
            await _refuse_internal_name(url, address)
    raise SourceError(f"source: {address.shown} has too many redirects. Check the address.")


def _refuse_place(url: URL, address: Address) -> None:
    """Raise `SourceError` where a redirect leads to another kind of address, or to an internal one by its number."""
    if not str(url).startswith(address.schemes):
        raise SourceError(
            f"source: {address.shown} leads to an address like {url.scheme}://, which is not followed. "
            "Give the address of the file itself."
        )
    with contextlib.suppress(ValueError):  # a name; `_Resolver` looks at what stands behind it
        _refuse_internal(ipaddress.ip_address(url.host or ""), url.host or "", url.port, address)


def _find_usable_proxy(url: URL, address: Address) -> str | None:
    """The proxy of the environment that leads to an address, where one does."""
    proxy = find_proxy(str(url))
    if proxy is None:
        return None
    if not proxy.address.lower().startswith(("http://", "https://")):
        raise SourceError(
            f"source: {address.shown} is reached through the proxy that {proxy.variable} names, which is not an HTTP "
            f"proxy. Set {proxy.variable} to http://HOST:PORT, or fetch the file by hand and give it."
        )
    return proxy.address


async def _refuse_internal_name(url: URL, address: Address) -> None:
    """Raise `SourceError` where a redirect leads through a proxy to a name that this machine knows as internal.

    A proxy looks names up itself. Names that this machine does not know, as is usual behind one, are left to it.
    """
    host, port = url.host or "", url.port
    with contextlib.suppress(OSError):
        for result in await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM):
            _refuse_internal(ipaddress.ip_address(result[4][0]), host, port, address)


def _refuse_internal(place: IPAddress, host: str, port: int | None, address: Address) -> None:
    if (host, port) != (address.url.host, address.url.port) and not _is_public(place):
        raise SourceError(
            f"source: {address.shown} leads to a private address, which is not followed. "
            "Give the address of the file itself, if it is one of your own network."
        )


def _is_public(place: IPAddress) -> bool:
    """Whether an address is one of the internet at large, also where it is wrapped in one of IPv6."""
    if isinstance(place, ipaddress.IPv6Address):
        wrapped = place.ipv4_mapped or place.sixtofour
        if place in _NAT64:
            wrapped = ipaddress.IPv4Address(int(place) & 0xFFFFFFFF)
        if wrapped is not None:
            place = wrapped
    return place.is_global and not place.is_multicast


class _Resolver(aiohttp.abc.AbstractResolver):
    """Looks names up, and refuses those that stand for internal addresses, but for those that the user gave.

    These are the address of the file and the proxies of the environment.

    What is checked here is what is connected to: a second look-up could give another answer.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if (host, port) not in [proxy.place for proxy in list_proxies()]:
            for result in found:
                _refuse_internal(ipaddress.ip_address(result["host"]), host, port, self._address)
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _parse(address: str) -> URL:
    """An address as it is, so that the signature in it holds; with escapes where it has none."""
    return URL(address, encoded=address.isascii() and " " not in address)
