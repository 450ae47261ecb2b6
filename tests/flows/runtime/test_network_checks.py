"""Proxies and certificates that Prefect's client would fail on are named before it loads."""

import os
import ssl
from pathlib import Path

import certifi
import pytest

from flows.cli.main import run_command
from flows.runtime.network_checks import prepare_network
from hip_mri.errors import SettingsError


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("SSL_CERT", "REQUESTS_CA", "CURL_CA")):
            monkeypatch.delenv(name)
    for name in ("NO_PROXY", "no_proxy"):  # what is set during a test goes with it
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ALL_PROXY", "socks5://anna:7f3a9c@127.0.0.1:9", "SOCKS proxy"),
        ("https_proxy", "socks5h://127.0.0.1:9", "SOCKS proxy"),
        ("HTTP_PROXY", "socks4://127.0.0.1:9", "SOCKS proxy"),
        ("HTTP_PROXY", "http://anna:7f3a9c@127.0.0.1:port", "not the address of a proxy"),
        ("HTTP_PROXY", "ftp://127.0.0.1", "not the address of a proxy"),
        ("HTTPS_PROXY", "http://", "not the address of a proxy"),
        ("SSL_CERT_FILE", "/no/such.pem", "No such file"),
        ("SSL_CERT_FILE", str(Path(__file__)), "holds no certificate"),
        ("SSL_CERT_FILE", "/", "cannot be loaded"),
        ("SSL_CERT_DIR", "/no/such", "no folder"),
        ("REQUESTS_CA_BUNDLE", "/no/such.pem", "No such file"),
        ("CURL_CA_BUNDLE", "/no/such.pem", "No such file"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(name, value, said, monkeypatch, capsys) -> None:
    monkeypatch.setenv(name, value)
    assert run_command(["run", "--seed", "1"]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {name}: ")
    assert said in message
    assert "7f3a9c" not in message
    assert len(message.splitlines()) == 1


def test_an_exception_that_httpx_cannot_read_is_named(monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "near.example:port")
    with pytest.raises(SettingsError, match=r"^NO_PROXY: "):
        prepare_network()


def test_what_can_be_used_passes(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    monkeypatch.setenv("SSL_CERT_DIR", f"/no/such:{tmp_path}")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    monkeypatch.setenv("HTTP_PROXY", "proxy.hospital.example:3128")
    monkeypatch.setenv("https_proxy", "http://anna:secret@proxy.hospital.example")
    prepare_network()
    assert "127.0.0.1" in os.environ["NO_PROXY"]
    assert ssl.create_default_context().verify_mode == ssl.CERT_REQUIRED


def test_proxies_that_are_not_used_are_not_checked(monkeypatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "*")
    prepare_network()
