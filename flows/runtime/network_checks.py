"""Checks proxies and certificates in the environment, on which Prefect's client would fail with a traceback."""

import importlib.util
import os
import ssl
from pathlib import Path
from typing import Final

from hip_mri.errors import SettingsError
from hip_mri.proxies import Proxy, exempt_loopback, list_proxies

CERTIFICATE_FILES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that name a file of trusted certificates; the last two, which Google Drive downloads use, or a folder."""


def prepare_network() -> None:
    """Exempt this machine from proxies, and check the variables that name proxies and certificates.

    Changes `NO_PROXY` and `no_proxy` of this process, which its child processes inherit.

    Raises:
        SettingsError: A variable has a value that cannot be used.
    """
    exempt_loopback(os.environ)
    _check_certificates()
    proxies = list_proxies()
    if proxies and os.environ.get("NO_PROXY") != "*":  # the client sets up all of them, whatever it is to reach
        _check_proxies(proxies)


def _check_certificates() -> None:
    for name in CERTIFICATE_FILES:
        if (value := os.environ.get(name)) and not (name != "SSL_CERT_FILE" and Path(value).is_dir()):
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=value)
            except OSError as error:
                reason = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
                raise SettingsError(
                    f"{name}: {value} cannot be loaded ({reason}). Set {name} to a file of certificates, or unset it."
                ) from error
    folders = os.environ.get("SSL_CERT_DIR")
    if folders and not any(Path(folder).is_dir() for folder in folders.split(os.pathsep)):
        raise SettingsError(
            f"SSL_CERT_DIR: there is no folder {folders}. Set it to a folder of certificates, or unset it."
        )


def _check_proxies(proxies: list[Proxy]) -> None:
    import httpx  # noqa: PLC0415 - a tenth of a second, needed with proxies only

    for variable, address in ((proxy.variable, proxy.address) for proxy in proxies):
        scheme = address.partition("://")[0].lower()
        if scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
            raise SettingsError(
                f"{variable}: it names a SOCKS proxy ({scheme}://...), which Prefect's client cannot use. Unset "
                f"{variable}, or set it to an HTTP proxy (http://HOST:PORT)."
            )
        try:
            httpx.HTTPTransport(proxy=address, verify=False).close()
            is_valid = bool(Proxy(variable, address).place[0])
        except Exception:  # httpx has no common base class for invalid addresses
            is_valid = False
        if not is_valid:  # the address is not repeated: it can hold a password
            raise SettingsError(
                f"{variable}: it is not the address of a proxy. Set it to http://HOST:PORT, or unset it."
            )
    try:
        httpx.Client(verify=False).close()
    except Exception as error:  # see above
        raise SettingsError(
            f"NO_PROXY: it has an entry that Prefect's client cannot use ({error}). Write names, numbers and domains "
            "with commas between, numbers of IPv6 without brackets."
        ) from error
