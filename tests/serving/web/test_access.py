"""Who may use the service, and what its pages may load."""

import re
import socket

import pytest
from pydantic import ValidationError

from flows.cli.arguments import read_command
from flows.cli.commands import HipMri, Serve
from hip_mri.config import ServeConfig
from hip_mri.errors import DeploymentError, ReleaseError, SettingsError
from hip_mri.serving.scorer import CLINICAL_NOTICE
from hip_mri.serving.web.access import read_token
from hip_mri.serving.web.app import REFUSALS, make_app
from hip_mri.serving.web.server import open_socket
from hip_mri.serving.web.start import start_service

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def guarded(service):
    return make_app(service, TOKEN, only_loopback=False)


@pytest.mark.parametrize(
    "given", [None, "Bearer wrong", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ümlaut"]
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/model"), ("POST", "/predict")])
def test_without_the_token_nothing_is_scored(call, guarded, given, method, path):
    headers = {"Authorization": given.encode()} if given else {}
    response = call(guarded, method, path, headers=headers)
    assert (response.status_code, response.json()["error"]["reason"]) == (401, "unauthorized")
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert TOKEN not in response.text


def test_with_the_token_images_are_scored(call, guarded, draw, encode):
    headers, base_url = {"Authorization": f"Bearer {TOKEN}"}, "http://scanner.example:8300"
    assert call(guarded, "GET", "/model", base_url, headers=headers).status_code == 200
    files = [("images", ("x", encode(draw(1, 40, 40))))]
    assert call(guarded, "POST", "/predict", base_url, headers=headers, files=files).status_code == 200


@pytest.mark.parametrize("path", ["/", "/health", "/docs", "/openapi.json", "/assets/page.js", "/assets/page.css"])
def test_pages_need_no_token_and_say_nothing_of_the_model(call, guarded, path, scorer):
    response = call(guarded, "GET", path)
    assert response.status_code == 200
    assert scorer.model.network.sha256 not in response.text
    assert scorer.model.name not in response.text


@pytest.mark.parametrize("host", ["127.0.0.1:8300", "localhost", "[::1]:8300", "LOCALHOST:1"])
def test_this_machine_is_answered(call, app, host):
    assert call(app, "GET", "/health", headers={"Host": host}).status_code == 200
    assert call(app, "GET", "/health", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8300", "127.0.0.1.evil.example", "localhost.evil.example:80", ""]
)
def test_a_name_that_was_bound_anew_is_refused(call, app, host):
    assert call(app, "GET", "/model", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8300"])
def test_pages_of_other_sites_are_refused(call, app, origin):
    response = call(app, "POST", "/predict", headers={"Origin": origin})
    assert (response.status_code, response.json()["error"]["reason"]) == (403, "foreign_origin")
    assert not any(name.lower().startswith("access-control") for name in response.headers)


@pytest.mark.parametrize("path", ["/", "/docs", "/assets/page.js", "/health", "/nothing", "/predict"])
def test_every_response_restricts_what_is_loaded(call, app, path):
    policy = call(app, "GET", path).headers["Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == "'self'"
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_only_files_of_the_service_and_have_no_inline_code(call, app, path):
    page = call(app, "GET", path).text
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert loaded
    for address in loaded:
        assert address.startswith("/")
        assert call(app, "GET", address).status_code == 200
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", page)
    assert CLINICAL_NOTICE.partition(":")[0] in page


@pytest.mark.parametrize("file", ["page.js", "page.css"])
def test_assets_name_no_other_address(call, app, file):
    assert not re.search(r"https?:|//[a-z]|@import|url\(", call(app, "GET", f"/assets/{file}").text)


def test_the_interface_is_described_for_people_and_programs(call, app):
    description = call(app, "GET", "/openapi.json").json()
    assert set(description["paths"]) == {"/predict", "/model", "/health"}
    page = call(app, "GET", "/docs").text
    for path, methods in description["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in page
    predict = description["paths"]["/predict"]["post"]
    assert "multipart/form-data" in predict["requestBody"]["content"]
    assert set(predict["responses"]) == {"200", *map(str, REFUSALS)}
    for name in description["components"]["schemas"]["ImageResult"]["properties"]:
        assert f"<dt>{name}</dt>" in page


def test_the_model_is_described(call, app, scorer):
    described = call(app, "GET", "/model").json()
    assert described["sha256"] == scorer.model.network.sha256
    assert described["novelty_limit"] == scorer.novelty.limit
    assert described["notices"] == scorer.notices
    assert described["error_rate"] == scorer.model.conformal.error_rate
    assert described["has_heat_maps"] is True


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_other_machines_need_a_token(host):
    with pytest.raises(ValidationError, match="token"):
        ServeConfig(host=host)
    assert not ServeConfig(host=host, token="env:HIP_TOKEN").is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_this_machine_needs_none(host):
    assert ServeConfig(host=host).is_loopback


def test_a_token_is_not_a_setting():
    with pytest.raises(ValidationError) as caught:
        ServeConfig(token=TOKEN)
    assert TOKEN not in str(caught.value)


def test_a_token_is_read_from_the_environment_or_a_file(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token("env:HIP_TOKEN", {"HIP_TOKEN": TOKEN}) == read_token(f"file:{file}") == TOKEN
    assert read_token(None) is None
    for reference, environment in (
        ("env:HIP_TOKEN", {}),
        ("env:HIP_TOKEN", {"HIP_TOKEN": "short"}),
        ("env:HIP_TOKEN", {"HIP_TOKEN": "ümlaut" * 5}),
        (f"file:{tmp_path}", {}),
        (f"file:{tmp_path / 'missing'}", {}),
    ):
        with pytest.raises(SettingsError, match="token"):
            read_token(reference, environment)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({}, ReleaseError, "champion"),
        ({"model": "nowhere"}, ReleaseError, "nowhere"),
        ({"token": "env:HIP_MRI_NO_SUCH_TOKEN"}, SettingsError, "HIP_MRI_NO_SUCH_TOKEN"),
    ],
)
def test_nothing_is_served_without_a_model_and_its_token(tmp_path, settings, kind, message):
    config = ServeConfig.model_validate({"workspace": tmp_path, "port": 0} | settings)
    with pytest.raises(kind, match=message):
        start_service(config, lambda address: pytest.fail("it is ready"))
    assert list(tmp_path.iterdir()) == []


def test_options_that_let_other_machines_in_without_a_token_are_refused():
    with pytest.raises(SettingsError, match="token"):
        read_command(["serve", "--host", "0.0.0.0"], HipMri)
    with pytest.raises(SettingsError, match="token") as caught:
        read_command(["serve", "--token", TOKEN], HipMri)
    assert TOKEN not in str(caught.value)
    command = read_command(["serve", "--host", "::", "--token", "env:HIP_TOKEN", "--service.max-requests", "2"], HipMri)
    assert isinstance(command, Serve)
    settings = command.read_settings()
    assert (settings.is_loopback, settings.service.max_requests) == (False, 2)


def test_a_port_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(DeploymentError, match="port"):
        open_socket("127.0.0.1", other.getsockname()[1])
    with pytest.raises(DeploymentError, match="host"):
        open_socket("host.invalid", 0)
