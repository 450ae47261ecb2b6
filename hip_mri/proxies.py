"""Reads the proxies of the environment: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, also in lower case."""

import ipaddress
import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
"""Without brackets, which httpx does not accept."""


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
    variables = {name.lower() for name, value in environment.items() if value}
    if not any(name.endswith("_proxy") for name in variables - {"no_proxy"}):
        return
    hosts = _list_exceptions(environment)
    value = "*" if "*" in hosts else ",".join([*hosts, *(host for host in LOOPBACK_HOSTS if host not in hosts)])
    environment["NO_PROXY"] = environment["no_proxy"] = value


def list_proxies() -> list[Proxy]:
    """List the proxies of the environment."""
    proxies = []
    for scheme, value in getproxies_environment().items():
        if scheme in ("http", "https", "all"):
            variable = f"{scheme}_proxy" if f"{scheme}_proxy" in os.environ else f"{scheme}_proxy".upper()
            proxies.append(Proxy(variable, value if "://" in value else f"http://{value}"))
    return proxies


def find_proxy(address: str) -> Proxy | None:
    """Return the proxy for an address; `None` if none is used, as always for this machine itself."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    if _is_loopback(host) or proxy_bypass(host) or _is_in_exempt_network(host):
        return None
    proxies = {proxy.variable.lower(): proxy for proxy in list_proxies()}
    return proxies.get(f"{parts.scheme}_proxy") or proxies.get("all_proxy")


def _is_loopback(host: str) -> bool:
    """Whether a name or IP address is that of this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _list_exceptions(environment: MutableMapping[str, str]) -> list[str]:
    value = environment.get("no_proxy", environment.get("NO_PROXY", ""))
    return [entry for part in value.split(",") if (entry := part.strip().strip("[]"))]


def _is_in_exempt_network(host: str) -> bool:
    """Whether a network in `NO_PROXY`, such as `10.0.0.0/8`, contains a host; the standard library ignores networks."""
    for entry in _list_exceptions(os.environ):
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:  # host or entry is a name
            continue
    return False
