"""Opens the Prefect server of a run: the one that the environment or a profile names, or one of the run's own.

Prefect itself would start a server when a flow is called, and wait for it. Here it starts while modules are imported,
with the same settings and the same database, and it is stopped when all events of the run are stored.
"""

import http.client
import io
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from flows.runtime.prefect_faults import check_home, check_named_server, explain_start
from flows.runtime.prefect_settings import (
    API_URL,
    check_settings_files,
    find_home,
    find_named_server,
    may_name_a_server,
)
from hip_mri.errors import DeploymentError

PREFECT_DEFAULTS: Final = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # never pickle, which runs what it loads
    "PREFECT_LOGGING_EXTRA_LOGGERS": "hip_mri",  # the library's lines appear in the run's log in the UI
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # Prefect's own lines appear there only, not on the terminal
}
"""Prefect's settings for a run from the command line, unless the environment sets them."""

OWN_SERVER_DEFAULTS: Final = {
    # Saves half a second at each start, two with an empty database. A block registers its type when it is saved.
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
}
"""Settings of a server of the run's own, unless the environment sets them."""

TEAM_SETTINGS_FILE: Final = Path(__file__).parents[2] / "deployments" / "settings.env"
"""Its batch sizes, `PREFECT_SERVER_SERVICES_…`, apply to a server of the run's own, too."""

HOST: Final = "127.0.0.1"

START_TIMEOUT_SECONDS: Final = 90.0
"""How long a server of the run's own may take until it answers; an empty database on a busy machine takes 30."""

SEND_TIMEOUT_SECONDS: Final = 3.0
"""How long the end of a run waits for its last events and log lines to be sent."""

STOP_TIMEOUT_SECONDS: Final = 10.0
"""How long the server may take to store them and to end; more than `flows.runtime.server_process` takes."""

HOW_TO_KEEP_A_SERVER: Final = (
    "This run has a Prefect server of its own. To keep one running, with a UI: `prefect server start` in another "
    "terminal, then here `export PREFECT_API_URL=http://127.0.0.1:4200/api`"
)

logger = logging.getLogger("hip_mri.prefect_server")


class PrefectServer:
    """The server of a run; made by `open_server`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] = io.BytesIO()
        self._port = 0
        self._has_answered = False

    @property
    def is_own(self) -> bool:
        """Whether it was started for this run alone."""
        return self._process is not None

    def start(self) -> None:
        """Start a server on a free port of this machine, and name it in PREFECT_API_URL; does not wait for it.

        Raises:
            DeploymentError: Prefect's home cannot be used.
        """
        check_home(find_home(os.environ))
        script = Path(__file__).with_name("server_process.py")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`
        with socket.create_server((HOST, 0)) as listener:
            self._port = listener.getsockname()[1]
            self._process = subprocess.Popen(
                # -P: Prefect's modules are not looked for beside the script
                [sys.executable, "-P", str(script), str(listener.fileno()), str(os.getpid())],
                env={**OWN_SERVER_DEFAULTS, **_read_batch_sizes(), **os.environ},
                stdin=subprocess.PIPE,  # closed when this process ends, which the server notices
                stdout=self._log,
                stderr=self._log,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C in a terminal is for the run alone
            )
        os.environ[API_URL] = f"http://{HOST}:{self._port}/api"
        _refresh_settings()

    def wait_until_ready(self) -> None:
        """Wait until a server of the run's own answers, or check that the named one does. Loads Prefect.

        Raises:
            DeploymentError: The server does not start or answer, or none is named and the settings allow no other.
        """
        if not self.is_own:
            if named := find_named_server():
                check_named_server(named)
                return
            self.start()
        logger.info(HOW_TO_KEEP_A_SERVER, extra={"send_to_api": False})  # there is no flow run yet
        connection = http.client.HTTPConnection(HOST, self._port, timeout=START_TIMEOUT_SECONDS)  # uses no proxy
        try:
            connection.request("GET", "/api/health")  # the socket accepts it from the beginning
            connection.getresponse().read()
        except (OSError, http.client.HTTPException) as error:
            raise DeploymentError(explain_start(self._read_log() or str(error), find_home(os.environ))) from error
        finally:
            connection.close()
        self._has_answered = True

    def stop(self) -> None:
        """Stop a server of the run's own: when it has stored all events, or at once where no flow has used it."""
        if self._process is None:
            return
        os.environ.pop(API_URL, None)
        if self._has_answered:
            _send_the_rest()
        else:
            self._process.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning(
                "Prefect's server took too long to store the last events of this run; they are not shown",
                extra={"send_to_api": False},
            )
        finally:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._log.close()
        _refresh_settings()

    def _read_log(self) -> str:
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._log.seek(0)
        return self._log.read().decode(errors="replace")


@contextmanager
def open_server() -> Iterator[PrefectServer]:
    """Apply `PREFECT_DEFAULTS`, and start a server if it is certain that the run needs one of its own.

    It changes the environment, so it comes before Prefect is imported. Where a file or a variable may name a server,
    `PrefectServer.wait_until_ready` asks Prefect, once that is loaded.

    Yields:
        The server; call `wait_until_ready` before the flow.

    Raises:
        DeploymentError: Prefect's settings files or its home cannot be used.
    """
    if not os.environ.get(API_URL, "-").strip():
        del os.environ[API_URL]  # Prefect would take an empty value for an address
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    check_settings_files(os.environ, Path.cwd())
    server = PrefectServer()
    try:
        if not may_name_a_server(os.environ, Path.cwd()):
            server.start()
        yield server
    finally:
        server.stop()


def _read_batch_sizes() -> dict[str, str]:
    lines = TEAM_SETTINGS_FILE.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line.startswith("PREFECT_SERVER_SERVICES_"))


def _refresh_settings() -> None:
    """Let Prefect, where it is loaded, read the environment again."""
    if "prefect.context" in sys.modules:  # not so where Prefect refuses its settings
        from prefect.context import refresh_global_settings_context  # noqa: PLC0415 - loaded already

        refresh_global_settings_context()


def _send_the_rest() -> None:
    """Send the events and log lines that this process still holds, as Prefect's own test harness does."""
    from prefect.events.worker import EventsWorker  # noqa: PLC0415 - loaded already
    from prefect.logging.handlers import APILogWorker  # noqa: PLC0415 - loaded already

    def drain() -> None:
        for worker in (APILogWorker, EventsWorker):
            logging.getLogger(worker.__name__).setLevel(logging.ERROR)  # warns of items that remain, as is normal here
            worker.drain_all(timeout=SEND_TIMEOUT_SECONDS)

    sender = threading.Thread(target=drain, daemon=True)  # waits only where there is no event loop
    sender.start()
    sender.join(SEND_TIMEOUT_SECONDS)
