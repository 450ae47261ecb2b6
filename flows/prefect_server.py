"""Which Prefect server a run uses: the one that the environment or a profile names, or one of its own.

Prefect would start a server of its own when a flow is called, and wait for it. Here it starts beside the imports, with
the same settings and the same database; and it is stopped when all events of the run are stored.
"""

import http.client
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from flows.prefect_faults import check_home, check_named_server, explain_start
from flows.prefect_settings import (
    API_URL,
    check_settings_files,
    drop_empty_api_url,
    find_home,
    find_named_server,
    may_name_a_server,
)
from hip_mri.errors import DeploymentError

PREFECT_DEFAULTS: Final = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # never pickle, which runs what it loads
    "PREFECT_LOGGING_EXTRA_LOGGERS": "hip_mri",  # the library's lines reach the run's log in the UI
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # Prefect's own lines go there too, not to the terminal
    # Larger batches: the server spends 8 ms of processor time on each task run instead of 32.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "200",
}
"""Taken for a run from the command line where the environment says nothing else."""

OWN_SERVER_DEFAULTS: Final = {
    # Half a second at each start, and two on an empty database. A block that is saved registers its own type.
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
}
"""Taken by a server of the run's own where the environment says nothing else."""

HOST: Final = "127.0.0.1"

SECONDS_TO_START: Final = 90.0
"""How long a server of the run's own may take until it answers; an empty database on a busy machine takes 30."""

SECONDS_TO_SEND: Final = 3.0
"""How long the end of a run waits for its last events and log lines to be sent."""

SECONDS_TO_STOP: Final = 10.0
"""How long the server may take to store them and to end; more than `flows.server_process` takes."""

HOW_TO_KEEP_A_SERVER: Final = (
    "This run has a Prefect server of its own. To keep one running, with a UI: `prefect server start` in another "
    "terminal, then here `export PREFECT_API_URL=http://127.0.0.1:4200/api`"
)

logger = logging.getLogger("hip_mri.prefect_server")


class PrefectServer:
    """The server of a run. `open_server` makes one.

    Attributes:
        is_own: Whether it was started for this run alone.
    """

    def __init__(self) -> None:
        self._own: _OwnServer | None = None

    @property
    def is_own(self) -> bool:
        return self._own is not None

    def start(self) -> None:
        """Start a server where it is certain that the run needs one of its own; does not wait for it.

        Where a file or a variable may name a server, `wait_until_ready` asks Prefect, once that is loaded.

        Raises:
            DeploymentError: Prefect's home cannot be used.
        """
        if not may_name_a_server(os.environ, Path.cwd()):
            self._start_own()

    def wait_until_ready(self) -> None:
        """Wait until a server of the run's own answers, or see that the one that is named does. Loads Prefect.

        Raises:
            DeploymentError: The server does not start or answer, or none is named and the settings allow no other.
        """
        if self._own is None:
            if named := find_named_server():
                check_named_server(named)
            else:
                self._start_own()
        if self._own is not None:
            logger.info(HOW_TO_KEEP_A_SERVER, extra={"send_to_api": False})  # no run yet that it could belong to
            self._own.wait_until_ready()

    def stop(self) -> None:
        """Stop a server of the run's own: at once where no flow has used it, else when it has stored all events."""
        if self._own is None:
            return
        os.environ.pop(API_URL, None)
        self._own.stop()
        self._own = None
        _refresh_settings()

    def _start_own(self) -> None:
        check_home(find_home(os.environ))
        self._own = _OwnServer()
        os.environ[API_URL] = self._own.api_url
        _refresh_settings()


@contextmanager
def open_server() -> Iterator[PrefectServer]:
    """Settle which server a run uses, and start one beside the imports if it needs one of its own.

    Sets `PREFECT_DEFAULTS` in the environment, so it comes before Prefect is imported. With a server of the run's own,
    PREFECT_API_URL is set within the block.

    Yields:
        The server; call `wait_until_ready` before the flow.

    Raises:
        DeploymentError: Prefect's settings files or its home cannot be used.
    """
    drop_empty_api_url()
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    check_settings_files(os.environ, Path.cwd())
    server = PrefectServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


class _OwnServer:
    """A server in a process of its own, on a free port of this machine."""

    def __init__(self) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server
        self._has_answered = False
        with socket.create_server((HOST, 0)) as listener:
            self._port: int = listener.getsockname()[1]
            self._process = subprocess.Popen(
                _command(listener),
                env=_add_defaults(os.environ),
                stdin=subprocess.PIPE,  # its end tells the server that this process has ended
                stdout=self._log,
                stderr=self._log,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C in a terminal is for the run alone
            )

    @property
    def api_url(self) -> str:
        return f"http://{HOST}:{self._port}/api"

    def wait_until_ready(self) -> None:
        """Wait for the answer to one request; the socket takes it from the beginning.

        Raises:
            DeploymentError: No answer came.
        """
        connection = http.client.HTTPConnection(HOST, self._port, timeout=SECONDS_TO_START)  # knows no proxy
        try:
            connection.request("GET", "/api/health")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException) as error:
            log = self._read_log() or str(error)
            raise DeploymentError(explain_start(log, find_home(os.environ))) from error
        finally:
            connection.close()
        self._has_answered = True

    def stop(self) -> None:
        """Let it store what has come, and end it; kill it where it has not answered yet, or takes too long."""
        if self._has_answered:
            _send_the_rest()
        else:
            self._process.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            logger.warning(
                "Prefect's server took too long to store the last events of this run; they are not shown",
                extra={"send_to_api": False},
            )
        finally:
            self._process.kill()
            self._process.wait()
            self._log.close()

    def _read_log(self) -> str:
        """What the server says of its end."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._log.seek(0)
        return self._log.read().decode(errors="replace")


def _command(listener: socket.socket) -> list[str]:
    script = Path(__file__).with_name("server_process.py")  # -P: modules of Prefect's are not looked for beside it
    return [sys.executable, "-P", str(script), str(listener.fileno()), str(os.getpid())]


def _add_defaults(environment: Mapping[str, str]) -> dict[str, str]:
    return {**OWN_SERVER_DEFAULTS, **environment}


def _refresh_settings() -> None:
    """Let Prefect, where it is loaded, read the environment again."""
    if "prefect.context" in sys.modules:  # not so where Prefect refuses its settings
        from prefect.context import refresh_global_settings_context  # noqa: PLC0415 - loaded already

        refresh_global_settings_context()


def _send_the_rest() -> None:
    """Send the events and log lines that wait in this process, in a bounded time."""
    sender = threading.Thread(target=_drain_workers, daemon=True)
    sender.start()
    sender.join(SECONDS_TO_SEND)


def _drain_workers() -> None:
    """As Prefect's own test harness does before it stops a server; in a thread without an event loop it waits."""
    from prefect.events.worker import EventsWorker  # noqa: PLC0415 - loaded already
    from prefect.logging.handlers import APILogWorker  # noqa: PLC0415 - loaded already

    for worker in (APILogWorker, EventsWorker):
        logging.getLogger(worker.__name__).setLevel(logging.ERROR)  # that items remain is no news here
        worker.drain_all(timeout=SECONDS_TO_SEND)
