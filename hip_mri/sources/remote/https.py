"""Downloads files over HTTPS: redirects to private hosts are rejected, and interrupted downloads are resumed.

The address that the user gives may be on a private network. A redirect may lead to other hosts on the internet, but not
to this machine, its network or the metadata services of a cloud. The coroutines are run by `fsspec.asyn.sync`.
"""

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import aiohttp
from yarl import URL

from hip_mri.addresses import show_place
from hip_mri.config import SourceLimits
from hip_mri.errors import SourceError
from hip_mri.proxies import find_proxy, list_proxies
from hip_mri.sources.remote.downloads import ProgressReport, changed_error, limit_progress, too_slow_error

if TYPE_CHECKING:
    from aiohttp.abc import ResolveResult

_REDIRECTS: Final = (301, 302, 303, 307, 308)
_MAX_REDIRECTS: Final = 10
_CHUNK_BYTES: Final = 2**20
_PLAIN: Final = {"Accept-Encoding": "identity"}
"""Disables compression: resuming and the limits count bytes of the file."""

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+)")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Address:
    """Where a file is downloaded from.

    Attributes:
        text: As given by the user.
        schemes: Prefixes of addresses that redirects may lead to, such as `https://`.
    """

    text: str
    schemes: tuple[str, ...]

    @property
    def shown(self) -> str:
        """The part that messages contain."""
        return show_place(self.text)

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


async def request_properties(address: Address, limits: SourceLimits) -> RemoteFile:
    """Request the properties of a file without downloading it.

    Raises:
        SourceError: A redirect leads to a private host.
        aiohttp.ClientError: The server rejects the request, or the network failed.
    """
    async with _open_session(address, limits) as session:
        with contextlib.suppress(aiohttp.ClientResponseError):  # signed addresses often allow nothing but GET
            async with _request(session, "HEAD", address, {}) as response:
                return _read_properties(response)
        async with _request(session, "GET", address, {}) as response:
            return _read_properties(response)


async def download_file(
    address: Address, remote: RemoteFile, file: Path, limits: SourceLimits, on_progress: ProgressReport
) -> None:
    """Download a file, or the missing part of it.

    Args:
        address: Where it is.
        remote: Properties that the server reported.
        file: Where it is written; if `remote` can resume, the bytes it holds are kept and the rest is appended.
        limits: Maximum number of bytes and seconds.
        on_progress: Called with the bytes downloaded and the total, 0 if unknown.

    Raises:
        SourceError: A redirect leads to a private host, the file has changed since `request_properties`, or it exceeds
            a limit; trying again does not help.
        aiohttp.ClientError: The server rejects the request, or the network failed.
        OSError: The network or the disk failed.
    """
    num_present = file.stat().st_size if remote.can_resume and file.exists() else 0
    size = int(remote.version.get("size", 0))
    if num_present and num_present == size:
        return
    can_continue = 0 < num_present < size
    headers = {"Range": f"bytes={num_present}-", "If-Range": remote.version["ETag"]} if can_continue else {}
    async with _open_session(address, limits) as session, _request(session, "GET", address, headers) as response:
        version = _read_properties(response).version
        if any(remote.version[field] != version[field] for field in remote.version.keys() & version.keys()):
            raise changed_error(address.shown)
        start = num_present if _continues_at(response, num_present) else 0
        report = limit_progress(on_progress, address.shown, limits)
        with file.open("r+b" if start else "wb") as stream:
            stream.seek(start)
            await _receive(response, stream, int(version.get("size", 0)), report)


async def _receive(response: aiohttp.ClientResponse, stream: BinaryIO, total: int, report: ProgressReport) -> None:
    """Append the response to a file; if `total` is not 0, the file must have this size in the end."""
    report(stream.tell(), total)
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        stream.write(chunk)
        report(stream.tell(), total)
    if total and stream.tell() != total:
        raise aiohttp.ClientPayloadError(f"received {stream.tell()} of {total} bytes")


def _continues_at(response: aiohttp.ClientResponse, start: int) -> bool:
    """Whether a response is the rest of the file; servers without ranges send the whole file."""
    if response.status != 206:
        return False
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if not found or int(found[1]) != start:
        raise aiohttp.ClientPayloadError("received another range than requested")
    return True


def _read_properties(response: aiohttp.ClientResponse) -> RemoteFile:
    headers = response.headers
    version = {field: headers[field] for field in ("ETag", "Last-Modified") if field in headers}
    part = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    size = part[2] if part else headers.get("Content-Length", "")
    if size.isdecimal() and int(size):
        version["size"] = size
    return RemoteFile(version, headers.get("Accept-Ranges", "").strip().lower() == "bytes")


@contextlib.asynccontextmanager
async def _open_session(address: Address, limits: SourceLimits) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session; at the time limit its block is canceled."""
    connector = aiohttp.TCPConnector(resolver=_CheckedResolver(address))
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
    except ValueError:  # of aiohttp and yarl; their messages contain the address
        raise SourceError(
            f"source: {address.shown} is or redirects to an invalid address. Check the address."
        ) from None


@contextlib.asynccontextmanager
async def _request(
    session: aiohttp.ClientSession, method: str, address: Address, headers: dict[str, str]
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Send a request and follow redirects to public hosts."""
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
        _check_redirect(url, address)
        if find_proxy(str(url)):
            await _check_proxied_name(url, address)
    raise SourceError(f"source: {address.shown} has too many redirects. Check the address.")


def _check_redirect(url: URL, address: Address) -> None:
    """Raise `SourceError` if a redirect leads to another scheme or to a private IP address."""
    if not str(url).startswith(address.schemes):
        raise SourceError(
            f"source: {address.shown} redirects to an address like {url.scheme}://, which is rejected. "
            "Give the address of the file itself."
        )
    with contextlib.suppress(ValueError):  # a name, checked by `_CheckedResolver`
        _check_public(ipaddress.ip_address(url.host or ""), url.host or "", url.port, address)


def _find_usable_proxy(url: URL, address: Address) -> str | None:
    """Find the proxy of the environment for an address; `None` if there is none."""
    proxy = find_proxy(str(url))
    if proxy is None:
        return None
    if not proxy.address.lower().startswith(("http://", "https://")):
        raise SourceError(
            f"source: {address.shown} needs the proxy of {proxy.variable}, which is not an HTTP proxy. "
            f"Set {proxy.variable} to http://HOST:PORT, or download the file manually and give its path."
        )
    return proxy.address


async def _check_proxied_name(url: URL, address: Address) -> None:
    """Raise `SourceError` if a redirect leads through a proxy to a name that this machine resolves to a private host.

    A proxy resolves names itself. Names that this machine cannot resolve, which is usual behind a proxy, are accepted.
    """
    host, port = url.host or "", url.port
    with contextlib.suppress(OSError):
        for result in await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM):
            _check_public(ipaddress.ip_address(result[4][0]), host, port, address)


def _check_public(place: IPAddress, host: str, port: int | None, address: Address) -> None:
    if (host, port) != (address.url.host, address.url.port) and not _is_public(place):
        raise SourceError(
            f"source: {address.shown} redirects to a private address, which is rejected. "
            "If the file is on your own network, give its address."
        )


def _is_public(place: IPAddress) -> bool:
    """Whether an address is public, also if it is an IPv4 address embedded in an IPv6 address."""
    if isinstance(place, ipaddress.IPv6Address):
        wrapped = place.ipv4_mapped or place.sixtofour
        if place in _NAT64:
            wrapped = ipaddress.IPv4Address(int(place) & 0xFFFFFFFF)
        if wrapped is not None:
            place = wrapped
    return place.is_global and not place.is_multicast


class _CheckedResolver(aiohttp.ThreadedResolver):
    """Resolves names and rejects private hosts, except that of the given address and the proxies of the environment.

    The addresses that are checked here are those that are connected to: a second look-up could give others.
    """

    def __init__(self, address: Address) -> None:
        super().__init__()
        self._address = address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> "list[ResolveResult]":
        found = await super().resolve(host, port, family)
        if (host, port) not in [proxy.place for proxy in list_proxies()]:
            for result in found:
                _check_public(ipaddress.ip_address(result["host"]), host, port, self._address)
        return found


def _parse(address: str) -> URL:
    """Parse an address; its escapes are not changed, because signatures include them. Other addresses are escaped."""
    return URL(address, encoded=address.isascii() and " " not in address)
