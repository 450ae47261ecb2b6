"""Runs the Prefect server of one run, until the process that started it ends.

`flows.runtime.prefect_server` starts it as a script: it loads nothing of this project, and Prefect only in `main`.
Standard input is a pipe that carries no data: when the starting process closes it or ends, the server stops.
"""

import gc
import os
import select
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from uvicorn import Server

STORE_TIMEOUT_SECONDS: Final = 4.0
"""How long the server goes on after the end of the run, while events wait to be stored."""

SHUTDOWN_TIMEOUT_SECONDS: Final = 5.0
"""How long it may take to close the database after that."""

CHECK_INTERVAL_SECONDS: Final = 0.05

PARENT_CHECK_INTERVAL_SECONDS: Final = 1.0
"""A fork of the starting process holds the pipe open after the process itself has been killed."""


def main() -> int:
    """Serve Prefect's API on a listening socket, given by its descriptor, until the starting process ends."""
    listener, parent = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    gc.disable()  # saves a tenth of the time to load
    servers: list[Server] = []
    threading.Thread(target=_end_with_parent, args=(parent, servers), daemon=True).start()

    import uvicorn  # noqa: PLC0415 - the thread above must run first
    from prefect.server.api.server import create_app  # noqa: PLC0415 - seconds to import

    app = create_app(ephemeral=True, final=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=1))
    servers.append(server)
    gc.freeze()
    gc.enable()
    server.run(sockets=[listener])
    return 0 if server.started else 1


def _end_with_parent(parent: int, servers: "list[Server]") -> None:
    while not select.select([sys.stdin.fileno()], [], [], PARENT_CHECK_INTERVAL_SECONDS)[0]:
        if os.getppid() != parent:
            break
    if not servers or not servers[0].started:  # SQLite rolls back a migration that had begun
        os._exit(1)
    _wait_until_idle(servers[0], time.monotonic() + STORE_TIMEOUT_SECONDS)
    servers[0].should_exit = True  # each service stores what it has received
    time.sleep(SHUTDOWN_TIMEOUT_SECONDS)
    os._exit(1)


def _wait_until_idle(server: "Server", end: float) -> None:
    """Wait until no request runs and no service has a message left to read."""
    from prefect.server.utilities.messaging.memory import METRICS  # noqa: PLC0415 - loaded by the server

    num_idle = 0
    while num_idle < 2 and time.monotonic() < end:
        waiting = sum(topic["published"] - topic["consumed"] for topic in list(METRICS.values()))
        num_idle = num_idle + 1 if not server.server_state.tasks and waiting <= 0 else 0
        time.sleep(CHECK_INTERVAL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
