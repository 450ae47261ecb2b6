"""A Prefect server with a database, a profile and a port of its own, and the commands of the README against it."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.processes import PROJECT, find_free_ports, run_program
from tests.sources.remote.web_server import Answer

PREFECT = str(Path(sys.executable).with_name("prefect"))
START_TIMEOUT_SECONDS = 120.0
ANSWER_TIMEOUT_SECONDS = 300.0
"""Far more than the 60 that Prefect's server waits for SQLite before it answers."""


@dataclass(frozen=True)
class Prefect:
    """A separate Prefect, independent of the test harness.

    Attributes:
        folder: Database, profile and logs.
        port: Of the server, on this machine.
    """

    folder: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a user's shell."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        return inherited | {
            "PREFECT_HOME": str(self.folder),
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_API_URL": self._api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }

    @contextmanager
    def serve(self, settings: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen]:
        """Start the server, wait until it answers, and stop it at the end."""
        with self.keep_running([PREFECT, "server", "start"], "server", settings) as server:
            self._wait_until_healthy()
            yield server

    @contextmanager
    def keep_running(
        self, command: list[str], name: str, settings: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen]:
        """Start a program and stop it, with all its children, at the end; its output goes to `NAME.log`."""
        with self.log(name).open("ab") as stream:
            process = subprocess.Popen(
                command,
                env={**self.environment, **(settings or {})},
                cwd=PROJECT,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def log(self, name: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{name}.log"

    def run(self, arguments: list[str], timeout_seconds: int = 120) -> str:
        """A command of `prefect`, to its end; returns its standard output."""
        done = run_program(PREFECT, *arguments, environment=self.environment, timeout_seconds=timeout_seconds)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, path: str, question: dict | None = None) -> Any:
        """Answer of the API; a server whose SQLite is locked for longer than it waits is asked again."""
        for _ in range(9):
            try:
                return self.ask_once(path, question)
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
                time.sleep(1)
        return self.ask_once(path, question)

    def ask_once(self, path: str, question: dict | None = None) -> Any:
        request = urllib.request.Request(
            self._api + path,
            data=None if question is None else json.dumps(question).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_SECONDS) as answer:
            return json.load(answer)

    @property
    def _api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def _wait_until_healthy(self) -> None:
        end = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            try:
                self.ask("/health")
                return
            except OSError:
                assert time.monotonic() < end, "the server does not answer\n" + self.log("server").read_text()
                time.sleep(0.5)


def make_prefect(folder: Path) -> Prefect:
    """On a port that is free now."""
    return Prefect(folder, *find_free_ports(1))


def make_environment(home: Path, **settings: str) -> dict[str, str]:
    """Of a process with a Prefect of its own; `MARK` identifies it and all its children."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return inherited | {"PREFECT_HOME": str(home), "MARK": str(home), "PYTHONPATH": str(PROJECT)} | settings


def find_marked(home: Path) -> dict[int, str]:
    """Ids and command lines of the processes that were started with the mark."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK={home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended, or is another user's
            continue
    return found


def wait_for(holds: Callable[[], object], seconds: float = 300.0, process: subprocess.Popen | None = None) -> None:
    """Wait until a condition holds; fail after the given time, or when the process ends first."""
    end = time.monotonic() + seconds
    while not holds():
        assert process is None or process.poll() is None, "the process has ended"
        assert time.monotonic() < end
        time.sleep(0.05)


def answer_json(content: object, status: int = 200) -> Answer:
    """A stand-in for a server, with one answer to every request."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = json.dumps(content).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer
