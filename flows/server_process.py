"""The process of the Prefect server that serves one run; it ends when the process that started it ends.

`flows.prefect_server` starts it as a script: it loads nothing of this project, and Prefect only in `main`. Standard
input is a pipe whose other end nobody but the starting process holds; nothing is ever sent through it. Its end, by
whatever cause, is the signal to stop.
"""

import gc
import os
import select
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uvicorn import Server

SECONDS_TO_TAKE_IN: Final = 4.0
"""How long the server goes on after the end of the run, while events wait to be stored."""

SECONDS_TO_SHUT_DOWN: Final = 5.0
"""How long it may take to close the database after that."""

SECONDS_BETWEEN_LOOKS: Final = 0.05

SECONDS_BETWEEN_LOOKS_FOR_PARENT: Final = 1.0
"""A fork of the starting process holds the pipe open after the process itself has been killed."""


@dataclass
class _Serving:
    server: "Server | None" = None


def main() -> int:
    """Serve Prefect's API on a listening socket, given by its descriptor, until the starting process ends."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    parent = int(sys.argv[2])
    gc.disable()  # a tenth of the time to load
    serving = _Serving()
    threading.Thread(target=_end_with_parent, args=(parent, serving), daemon=True).start()

    import uvicorn  # noqa: PLC0415 - the thread above must run first
    from prefect.server.api.server import create_app  # noqa: PLC0415 - seconds to import

    app = create_app(ephemeral=True, final=True)
    settings = uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=1)
    server = uvicorn.Server(settings)
    serving.server = server
    gc.freeze()
    gc.enable()
    server.run(sockets=[listener])
    return 0 if server.started else 1


def _end_with_parent(parent: int, serving: _Serving) -> None:
    while not select.select([sys.stdin.fileno()], [], [], SECONDS_BETWEEN_LOOKS_FOR_PARENT)[0]:
        if os.getppid() != parent:
            break
    server = serving.server
    if server is None or not server.started:  # SQLite undoes what a migration had begun
        os._exit(1)
    _wait_until_idle(server, time.monotonic() + SECONDS_TO_TAKE_IN)
    server.should_exit = True  # each service stores what it has taken
    time.sleep(SECONDS_TO_SHUT_DOWN)
    os._exit(1)


def _wait_until_idle(server: "Server", end: float) -> None:
    """Wait until no request runs and no service has a message left to read."""
    from prefect.server.utilities.messaging.memory import METRICS  # noqa: PLC0415 - loaded by the server

    quiet = 0
    while quiet < 2 and time.monotonic() < end:
        waiting = sum(topic["published"] - topic["consumed"] for topic in list(METRICS.values()))
        quiet = quiet + 1 if not server.server_state.tasks and waiting <= 0 else 0
        time.sleep(SECONDS_BETWEEN_LOOKS)


if __name__ == "__main__":
    sys.exit(main())
