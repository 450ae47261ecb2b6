"""Checks proxies and certificates of the environment before Prefect's client fails on them with a traceback."""

import importlib.util
import os
import ssl
from pathlib import Path
from typing import Final

from hip_mri.errors import SettingsError
from hip_mri.proxies import Proxy, exempt_loopback, list_proxies

CERTIFICATE_FILES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that name a file of trusted certificates; the latter two for Google Drive, and a folder does, too."""

CERTIFICATE_FOLDERS: Final = "SSL_CERT_DIR"
"""Names one folder or several, with colons between."""


def prepare_network() -> None:
    """Let nothing reach this machine through a proxy, and check what the environment says of proxies and certificates.

    Changes `NO_PROXY` and `no_proxy` of this process, which its child processes inherit.

    Raises:
        SettingsError: A variable has a value that cannot be used.
    """
    exempt_loopback(os.environ)
    check_certificates()
    check_proxies()


def check_certificates() -> None:
    """See that the trusted certificates can be loaded.

    Raises:
        SettingsError: They cannot.
    """
    for name in CERTIFICATE_FILES:
        if (value := os.environ.get(name)) and not (name != "SSL_CERT_FILE" and Path(value).is_dir()):
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=value)
            except OSError as error:  # that of SSL is one, too
                reason = error.strerror if not isinstance(error, ssl.SSLError) else "it holds no certificate"
                raise SettingsError(
                    f"{name}: {value} cannot be loaded ({reason}). Set {name} to a file of certificates, or unset it."
                ) from error
    folders = os.environ.get(CERTIFICATE_FOLDERS)
    if folders and not any(Path(folder).is_dir() for folder in folders.split(os.pathsep)):
        raise SettingsError(
            f"{CERTIFICATE_FOLDERS}: there is no folder {folders}. Set it to a folder of certificates, or unset it."
        )


def check_proxies() -> None:
    """See that Prefect's client can use the proxies; it sets up all of them, whatever it is to reach.

    Raises:
        SettingsError: It cannot.
    """
    proxies = list_proxies()
    if not proxies or os.environ.get("NO_PROXY") == "*":
        return
    import httpx  # noqa: PLC0415 - a tenth of a second that most runs need not wait for

    for proxy in proxies:
        _check_proxy(proxy)
    try:
        httpx.Client(verify=False).close()
    except Exception as error:  # httpx has no common base for what it says of addresses
        raise SettingsError(
            f"NO_PROXY: it has an entry that Prefect's client cannot use ({error}). Write names, numbers and domains "
            "with commas between, numbers of IPv6 without brackets."
        ) from error


def _check_proxy(proxy: Proxy) -> None:
    import httpx  # noqa: PLC0415 - see above

    scheme = proxy.address.partition("://")[0].lower()
    if scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise SettingsError(
            f"{proxy.variable}: it names a SOCKS proxy ({scheme}://...), which Prefect's client cannot use. Unset "
            f"{proxy.variable}, or set it to an HTTP proxy (http://HOST:PORT)."
        )
    try:
        if not proxy.place[0]:
            raise ValueError
        httpx.HTTPTransport(proxy=proxy.address, verify=False).close()
    except Exception:  # its text can repeat a password
        raise SettingsError(
            f"{proxy.variable}: it is not the address of a proxy. Set it to http://HOST:PORT, or unset it."
        ) from None
