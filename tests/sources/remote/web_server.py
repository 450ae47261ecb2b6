"""A web server on this machine, for tests that fetch."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]
"""Answers a request."""


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # some answers never end

    def handle_error(self, request, client_address) -> None:
        pass  # broken connections are part of the tests


@contextlib.contextmanager
def serve(answer: Answer) -> Iterator[int]:
    """Give every GET and HEAD to a function while the block lasts.

    Yields:
        The port.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_CONNECT = do_GET  # noqa: N815 - the names are http.server's

        def log_message(self, *arguments: object) -> None:
            pass

    with _QuietServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        yield listener.server_address[1]
        listener.shutdown()
        thread.join()
