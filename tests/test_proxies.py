"""The proxy of each address; Prefect's clients reach loopback without one."""

import os
from collections.abc import Mapping

import httpx
import pytest
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from hip_mri.proxies import exempt_loopback, find_proxy, list_proxies

PROXY = "http://proxy.hospital.example:3128"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
LOOPBACK = ("http://127.0.0.1:4200/api", "http://localhost:4200/api", "http://[::1]:4200/api")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def set_all(monkeypatch: pytest.MonkeyPatch, settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


def is_proxied_by_httpx(address: str) -> bool:
    with httpx.Client() as client:
        return client._transport_for_url(httpx.URL(address)) is not client._transport


def is_proxied_by_websockets(address: str) -> bool:
    return get_proxy(parse_uri(address.replace("http", "ws", 1))) is not None


@pytest.mark.parametrize("address", LOOPBACK)
@pytest.mark.parametrize(
    "exceptions", [{}, {"NO_PROXY": ".example"}, {"no_proxy": "a, b"}, {"NO_PROXY": "[::1]"}], ids=str
)
@pytest.mark.parametrize("variable", [*VARIABLES, *map(str.lower, VARIABLES)])
def test_loopback_goes_past_proxies(variable, exceptions, address, monkeypatch) -> None:
    set_all(monkeypatch, {variable: PROXY} | exceptions)
    if variable.lower() == "http_proxy" and "[::1]" not in exceptions.values():
        assert is_proxied_by_httpx(address)
        assert is_proxied_by_websockets(address)
    exempt_loopback(os.environ)
    assert not is_proxied_by_httpx(address)
    assert not is_proxied_by_websockets(address)


def test_other_servers_keep_their_proxy_and_the_users_exceptions_stay(monkeypatch) -> None:
    set_all(monkeypatch, {"HTTP_PROXY": PROXY, "NO_PROXY": "near.example, 10.0.0.1"})
    exempt_loopback(os.environ)
    assert is_proxied_by_httpx("http://prefect.far.example/api")
    assert is_proxied_by_websockets("http://prefect.far.example/api")
    assert not is_proxied_by_httpx("http://near.example/api")
    assert not is_proxied_by_websockets("http://10.0.0.1/api")
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "near.example,10.0.0.1,localhost,127.0.0.1,::1"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({"NO_PROXY": "x"}, {"NO_PROXY": "x"}),
        ({"HTTP_PROXY": ""}, {"HTTP_PROXY": ""}),
        ({"HTTP_PROXY": PROXY, "NO_PROXY": "*"}, {"HTTP_PROXY": PROXY, "NO_PROXY": "*", "no_proxy": "*"}),
    ],
    ids=str,
)
def test_the_environment_changes_no_more_than_it_needs(before, after) -> None:
    exempt_loopback(before)
    assert before == after


@pytest.mark.parametrize(
    ("settings", "address", "found"),
    [
        ({"HTTPS_PROXY": PROXY}, "https://far.example/x.zip", "HTTPS_PROXY"),
        ({"HTTPS_PROXY": "proxy:3128"}, "https://far.example/x.zip", "HTTPS_PROXY"),
        ({"HTTP_PROXY": PROXY}, "https://far.example/x.zip", None),
        ({"all_proxy": PROXY}, "https://far.example/x.zip", "all_proxy"),
        ({"ALL_PROXY": PROXY, "https_proxy": PROXY}, "https://far.example/x.zip", "https_proxy"),
        ({"HTTPS_PROXY": PROXY, "https_proxy": ""}, "https://far.example/x.zip", None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": ".far.example"}, "https://a.far.example/x.zip", None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "far.example"}, "https://notfar.example/x.zip", "HTTPS_PROXY"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "10.0.0.0/8"}, "https://10.1.2.3/x.zip", None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "10.0.0.0/8"}, "https://11.1.2.3/x.zip", "HTTPS_PROXY"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}, "https://far.example/x.zip", None),
        ({"HTTPS_PROXY": PROXY}, "https://127.0.0.1:8443/x.zip", None),
        ({"HTTPS_PROXY": PROXY}, "https://127.8.8.8/x.zip", None),
        ({"HTTPS_PROXY": PROXY}, "https://pacs.localhost/x.zip", None),
    ],
)
def test_the_proxy_of_an_address(settings, address, found, monkeypatch) -> None:
    set_all(monkeypatch, settings)
    proxy = find_proxy(address)
    assert (proxy and proxy.variable) == found
    assert all("://" in proxy.address for proxy in list_proxies())
