"""Proxies that the environment names: which one leads to an address, and that none leads to this machine itself.

The variables are those that every program reads: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`. Each may be
written in lower case, too, which wins.
"""

import ipaddress
import os
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
"""Without brackets, which httpx does not accept."""

_SCHEMES: Final = ("http", "https", "all")


@dataclass(frozen=True)
class Proxy:
    """A proxy of the environment.

    Attributes:
        variable: Name of the environment variable, such as `HTTPS_PROXY`.
        address: Address with a scheme. Messages omit it, because it can contain a password.
    """

    variable: str
    address: str

    @property
    def place(self) -> tuple[str | None, int | None]:
        """Host and port.

        Raises:
            ValueError: The port is no number.
        """
        parts = urlsplit(self.address)
        return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def exempt_loopback(environment: MutableMapping[str, str]) -> None:
    """Exclude this machine from proxies; other exceptions are kept. Without a proxy, nothing is changed.

    Args:
        environment: Modified: `NO_PROXY` and `no_proxy` have the same value afterwards.
    """
    if not any(value and name.lower().endswith("_proxy") for name, value in environment.items() if not _is_no(name)):
        return
    hosts = list(_read_exceptions(environment))
    value = ",".join([*hosts, *(host for host in LOOPBACK_HOSTS if host not in hosts)])
    for name in ("NO_PROXY", "no_proxy"):
        environment[name] = "*" if "*" in hosts else value


def list_proxies() -> list[Proxy]:
    """List the proxies of the environment."""
    return [proxy for scheme in _SCHEMES if (proxy := _read_proxy(scheme))]


def find_proxy(address: str) -> Proxy | None:
    """Return the proxy for an address; `None` if none is used, as always for this machine itself."""
    parts = urlsplit(address)
    host = (parts.hostname or "").lower()
    if is_loopback(host) or any(_matches(host, entry) for entry in _read_exceptions(os.environ)):
        return None
    return _read_proxy(parts.scheme) or _read_proxy("all")


def is_loopback(host: str) -> bool:
    """Whether a name or IP address is that of this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _read_proxy(scheme: str) -> Proxy | None:
    for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
        if name in os.environ:  # an empty variable in lower case overrides that in upper case
            value = os.environ[name].strip()
            return Proxy(name, value if "://" in value else f"http://{value}") if value else None
    return None


def _read_exceptions(environment: MutableMapping[str, str]) -> Iterator[str]:
    value = environment.get("no_proxy", environment.get("NO_PROXY", ""))
    return (entry for part in value.split(",") if (entry := part.strip().strip("[]")))


def _is_no(name: str) -> bool:
    return name.lower() == "no_proxy"


def _matches(host: str, entry: str) -> bool:
    """Whether an entry of `NO_PROXY` covers a host: `*`, a domain, a number, or a network such as `10.0.0.0/8`."""
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except (ValueError, TypeError):  # host or entry is a name
        domain = entry.lower().lstrip("*").lstrip(".").partition(":")[0]
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))
