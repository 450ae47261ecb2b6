"""Runs the application with Uvicorn."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from hip_mri.errors import DeploymentError

HEADER_TIMEOUT_SECONDS: Final = 15.0
"""Maximum time until the header lines of a request have arrived. Uvicorn has no such limit."""

WRITE_TIMEOUT_SECONDS: Final = 30.0
"""Maximum time in which a client receives nothing of a response."""

MAX_CONNECTIONS: Final = 256
"""Connections at the same time; further ones are closed at once."""

SHUTDOWN_TIMEOUT_SECONDS: Final = 2
"""Time for running requests to end after a signal."""


class TimedProtocol(H11Protocol):
    """Closes connections of clients that send header lines or receive responses too slowly."""

    _waiting: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, unless there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        """Handle data, and stop the clock once all header lines are there."""
        super().data_received(data)
        self._wait_for_headers()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        super().connection_lost(exc)
        _cancel(self._waiting, self._writing)

    def pause_writing(self) -> None:
        """Start the clock: the client does not receive what was sent."""
        super().pause_writing()
        self._writing = self._writing or self.loop.call_later(WRITE_TIMEOUT_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the clock."""
        super().resume_writing()
        _cancel(self._writing)
        self._writing = None

    def _wait_for_headers(self) -> None:
        """Start the clock unless it runs; stop it while a request is being answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            _cancel(self._waiting)
            self._waiting = None
        elif self._waiting is None:
            self._waiting = self.loop.call_later(HEADER_TIMEOUT_SECONDS, self.transport.abort)


def _cancel(*timers: asyncio.TimerHandle | None) -> None:
    for timer in timers:
        if timer is not None:
            timer.cancel()


def open_socket(host: str, port: int) -> socket.socket:
    """Open the socket on which the service listens.

    Raises:
        DeploymentError: The address or the port cannot be used.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=MAX_CONNECTIONS)
    except OSError as error:
        raise DeploymentError(
            f"host, port: the service cannot listen on {host}, port {port} ({error.strerror or error}). Give an "
            "address of this machine and a port that no other program uses."
        ) from error


def make_server(app: ASGIApp, on_ready: Callable[[], None]) -> uvicorn.Server:
    """Make a server, which answers requests from `run(sockets=[...])` on until a signal arrives.

    Args:
        app: The application.
        on_ready: Called when requests are answered.
    """
    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_SECONDS,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return _ReportingServer(config, on_ready)


class _ReportingServer(uvicorn.Server):
    """Reports when it is ready."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and report it."""
        await super().startup(sockets)
        self._on_ready()
