"""Errors where Prefect cannot start or be reached: one line with the cause and the setting to change."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from flows.runtime import prefect_faults
from flows.runtime.prefect_faults import check_home, explain_start
from flows.runtime.prefect_settings import check_settings_files, find_home
from hip_mri.errors import DeploymentError
from tests.flows.servers import answer_json, find_marked, make_environment, wait_for
from tests.processes import run_program, run_python
from tests.sources.remote.web_server import serve

UNKNOWN_USER = 54321
NO_EPHEMERAL = 'active = "mine"\n[profiles.mine]\nPREFECT_SERVER_ALLOW_EPHEMERAL_MODE = "false"\n'


def refuse_to_run(
    home: Path, *prefix: str, unset: tuple[str, ...] = (), flow: str = "pipeline", **settings: str
) -> str:
    """Run a flow that Prefect refuses; returns its error message, which is one line after the progress lines."""
    environment = {name: value for name, value in make_environment(home, **settings).items() if name not in unset}
    options = ["--sources", str(home)] if flow == "retrain" else []
    command = [*prefix, sys.executable, f"flows/{flow}.py", "--workspace", home.parent / "workspace", *options]
    done = run_program(*command, environment=environment)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    *progress, message = done.stderr.splitlines()
    assert [line for line in progress if "  " not in line[:12]] == []
    assert message.startswith("error: prefect: ")
    wait_for(lambda: not find_marked(home), seconds=30)
    return message


def answer_page(handler: BaseHTTPRequestHandler) -> None:
    """As the UI of Prefect answers to every address that is not the API's."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    handler.wfile.write(b"<!doctype html><html></html>")


def be_silent(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(60)


# A server that is named


@pytest.mark.system
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (answer_json({"exception_message": "Unauthorized"}, 401), ("status 401", "PREFECT_API_AUTH_STRING")),
        (answer_json({"detail": "Not Found"}, 404), ("status 404", "ends in /api")),
        (answer_json({"detail": "busy"}, 503), ("status 503", "See its log")),
        (answer_json({"hello": "world"}), ("not Prefect's API", "ends in /api")),
        (answer_page, ("not Prefect's API", "ends in /api")),
        (be_silent, ("timed out", "PREFECT_API_URL")),
    ],
    ids=["401", "404", "503", "another program", "a page", "silent"],
)
def test_a_named_server_that_is_none_is_reported(answer, said, home: Path) -> None:
    with serve(answer) as port:
        message = refuse_to_run(home, PREFECT_API_URL=f"http://anna:7f3a9c@127.0.0.1:{port}/api")
    assert all(words in message for words in (*said, f"127.0.0.1:{port}/api", "unset PREFECT_API_URL"))
    assert "7f3a9c" not in message


@pytest.mark.system
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:9/api", "Connection refused"),
        ("http://no-such-host.invalid/api", "http://no-such-host.invalid/api"),
        ("127.0.0.1:4200/api", "begins with http:// or https://"),
        ("http://127.0.0.1:port/api", "PREFECT_API_URL"),
    ],
)
def test_an_address_where_no_server_is_is_reported(address: str, said: str, home: Path) -> None:
    message = refuse_to_run(home, PREFECT_API_URL=address)
    assert said in message
    assert "PREFECT_API_URL" in message


@pytest.mark.system
def test_a_server_that_a_proxy_does_not_reach_is_reported_with_the_proxy(home: Path) -> None:
    proxies = {"HTTPS_PROXY": "http://anna:7f3a9c@127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}
    message = refuse_to_run(
        home, unset=("no_proxy", "https_proxy"), PREFECT_API_URL="https://prefect.hospital.invalid/api", **proxies
    )
    assert "through the proxy that HTTPS_PROXY names" in message
    assert "7f3a9c" not in message


@pytest.mark.system
def test_a_server_that_a_profile_names_is_reported_with_the_profile(home: Path) -> None:
    (home / "profiles.toml").write_text(
        'active = "team"\n[profiles.team]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n'
    )
    message = refuse_to_run(home)
    assert "the Prefect profile" in message
    assert "unset PREFECT_API_URL" not in message


# Settings


@pytest.mark.system
@pytest.mark.parametrize("flow", ["pipeline", "predict", "retrain"])
def test_a_profile_without_ephemeral_mode_is_reported(flow: str, home: Path) -> None:
    (home / "profiles.toml").write_text(NO_EPHEMERAL)
    message = refuse_to_run(home, flow=flow)
    assert str(home / "profiles.toml") in message
    assert "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE" in message
    assert "PREFECT_API_URL" in message


@pytest.mark.system
def test_a_setting_that_prefect_refuses_is_named_without_its_value(home: Path) -> None:
    assert "PREFECT_LOGGING_LEVEL: " in refuse_to_run(home, PREFECT_LOGGING_LEVEL="7f3a9c")
    message = refuse_to_run(home, PREFECT_SERVER_DATABASE_TIMEOUT="7f3a9c")
    assert "PREFECT_SERVER_DATABASE_TIMEOUT: " in message
    assert "7f3a9c" not in message


@pytest.mark.parametrize(
    "content",
    [b'active = "x\n[[[', b"\xff\xfe\0", b"[profiles\n", b"a = 1\na = 2\n"],
    ids=["string", "binary", "table", "twice"],
)
@pytest.mark.parametrize("name", ["profiles.toml", "prefect.toml"])
def test_a_damaged_settings_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DeploymentError) as caught:
        check_settings_files({"PREFECT_HOME": str(tmp_path)}, tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_an_empty_address_of_a_server_counts_as_none(tmp_path: Path) -> None:
    code = (
        "import os; from flows.runtime.prefect_server import open_server\n"
        "with open_server() as server: print(server.is_own, os.environ['PREFECT_API_URL'][:17])"
    )
    for value in ("", " "):
        done = run_python("-c", code, environment=make_environment(tmp_path, PREFECT_API_URL=value), cwd=tmp_path)
        assert (done.stdout, done.stderr) == ("True http://127.0.0.1:\n", "")


# A server of the run's own


def test_a_user_without_a_home_folder_is_reported(monkeypatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    monkeypatch.setattr("os.getuid", lambda: UNKNOWN_USER)
    for environment in ({}, {"PREFECT_HOME": "/tmp"}):
        with pytest.raises(DeploymentError, match=rf"{UNKNOWN_USER}.*Set HOME"):
            find_home(environment)


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_a_container_with_an_unknown_user_is_reported(home: Path) -> None:
    """The user may read everything, such as the interpreter below root's home, and write nothing of root's."""
    read_all = "-all,+dac_read_search"
    user = [f"--reuid={UNKNOWN_USER}", f"--regid={UNKNOWN_USER}", "--clear-groups"]
    become = ["setpriv", *user, f"--inh-caps={read_all}", f"--ambient-caps={read_all}", "--"]
    if subprocess.run([*become, sys.executable, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip("no other user may run the interpreter here")
    message = refuse_to_run(home, *become, unset=("HOME",))
    assert f"id {UNKNOWN_USER}" in message
    assert "Set HOME" in message
    message = refuse_to_run(home, *become, unset=("PREFECT_HOME",), HOME="/")
    assert "its home folder /.prefect cannot be written (Permission denied). Set PREFECT_HOME" in message


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_home_that_cannot_be_written_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DeploymentError, match="PREFECT_HOME") as caught:
        check_home(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_home_that_can_be_used_passes(tmp_path: Path, monkeypatch) -> None:
    check_home(tmp_path / "new" / "folder")
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as database:
        database.execute("CREATE TABLE t (x)")
        check_home(tmp_path)
    (tmp_path / "prefect.db").write_bytes(b"")
    check_home(tmp_path)
    assert (tmp_path / "prefect.db").read_bytes() == b""
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "postgresql+asyncpg://elsewhere/prefect")
    check_home(Path("/proc/no/such"))


def test_a_damaged_database_is_reported(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_text("no database, but as long as the header of one" * 100)
    with pytest.raises(DeploymentError, match="damaged") as caught:
        check_home(tmp_path)
    assert str(tmp_path / "prefect.db") in str(caught.value)


def test_a_locked_database_is_reported(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(prefect_faults, "LOCKED_TIMEOUT_SECONDS", 0.2)
    with closing(sqlite3.connect(tmp_path / "prefect.db", isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DeploymentError, match="database locked"):
            check_home(tmp_path)
        database.execute("ROLLBACK")
    check_home(tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("alembic.util.exc.CommandError: Can't locate revision identified by 'ab12'", "revision ab12"),
        (
            "sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) database or disk is full",
            "disk of its database",
        ),
        ("OSError: [Errno 28] No space left on device", "disk of its database"),
        ("sqlalchemy.exc.OperationalError: attempt to write a readonly database", "cannot be written"),
        ("ValueError: an unknown error", "an unknown error"),
    ],
)
def test_the_log_of_a_server_is_explained(line: str, said: str, tmp_path: Path, monkeypatch) -> None:
    log = f"Traceback (most recent call last):\n  File x\n{line}\nApplication startup failed. Exiting.\n"
    message = explain_start(log, tmp_path)
    assert said in message
    assert "PREFECT_API_URL" in message
    assert len(message.splitlines()) == 1
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "postgresql+asyncpg://anna:7f3a9c@elsewhere/prefect")
    assert "7f3a9c" not in explain_start(log, tmp_path)


@pytest.mark.system
def test_a_database_of_a_newer_prefect_is_reported(home: Path) -> None:
    with closing(sqlite3.connect(home / "prefect.db")) as database, database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")
    message = refuse_to_run(home)
    assert "the server of this run did not start" in message
    assert "newer" in message
    assert "ffffffffffff" in message
    assert "PREFECT_HOME" in message


@pytest.mark.system
@pytest.mark.parametrize(
    ("mount", "said"),
    [("-o size=1m,ro", "Read-only file system"), ("-o size=400k", "the disk of its database is full")],
    ids=["read-only", "full"],
)
def test_a_disk_that_holds_no_database_is_reported(mount: str, said: str, home: Path) -> None:
    inside = ["unshare", "--mount", "bash", "-c", f'mount -t tmpfs {mount} tmpfs "{home}" && exec "$@"', "bash"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*inside, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no disk can be mounted here")
    message = refuse_to_run(home, *inside)
    assert said in message
    assert "PREFECT_HOME" in message


@pytest.mark.system
def test_a_proxy_keeps_no_run_from_its_own_server(home: Path, tmp_path: Path) -> None:
    """The proxy takes connections and never answers, so that a request to it would be noticed."""
    code = (
        "from flows.runtime.network_checks import prepare_network\n"
        "from flows.runtime.prefect_server import open_server\n"
        "prepare_network()\n"
        "with open_server() as server:\n"
        "    server.wait_until_ready()\n"
        "    from prefect import flow, task\n"
        "    @flow\n"
        "    def count(): return task(lambda: 3, name='three').submit().result()\n"
        "    print(count())\n"
    )
    with closing(socket.create_server(("127.0.0.1", 0))) as proxy:
        proxy.setblocking(False)
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
        environment = make_environment(home, **dict.fromkeys(names, address))
        for name in ("NO_PROXY", "no_proxy"):
            environment.pop(name, None)
        done = run_python("-c", code, environment=environment, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
        assert "EventsWorker" not in done.stderr
        with pytest.raises(BlockingIOError):
            proxy.accept()
