"""Ends a run on Ctrl-C, SIGTERM or SIGHUP: within seconds by an exception, else by killing the process.

The first signal raises `KeyboardInterrupt` in the main thread, so that every `with` block is left. That can take
minutes, since native code is not interrupted and Prefect waits for its threads. Therefore a thread waits for the
signals, and ends the process after a time limit or on a second signal. Files are written atomically, so the process can
end at any moment. The module loads only small parts of the standard library, so that signals are handled early.
"""

import os
import select
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a run; one that the parent process ignores, as `nohup` does with SIGHUP, stays ignored."""

ORDERLY_END_TIMEOUT_SECONDS: Final = 2.5
"""Time for the flow to report its state, release the workspace and end its processes and threads."""

REPORT_TIMEOUT_SECONDS: Final = 1.0
"""Time for `on_hard_end` callbacks after that."""

PRINT_TIMEOUT_SECONDS: Final = 0.5
"""Time for another thread to print `STOPPED`; standard error can be a pipe that nobody reads."""

KILL_TIMEOUT_SECONDS: Final = 0.5
"""Time for child processes to end after SIGKILL."""

STOPPED: Final = "Stopped. Start again with the same settings: finished work is kept."

Callback = Callable[[], None]


class SignalWatcher:
    """Ends the process on a signal. One instance, `watcher`, serves the process.

    Attributes:
        received: The first signal that was received, or `None`.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._ends_in_order = False
        self._has_interrupted = False
        self._print_lock = threading.Lock()
        self._has_printed = threading.Event()
        self._callbacks: list[Callback] = []

    @property
    def exit_code(self) -> int:
        """128 and the number of the signal, as shells report it."""
        return 128 + (self.received or signal.SIGINT)

    def start(self) -> None:
        """Handle signals from now on. Call it once, in the main thread of a program, before slow imports."""
        handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        # The C handler writes to the socket even while the main thread runs native code.
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
        for number in handled:
            signal.signal(number, self._raise_interrupt)
        threading.Thread(target=self._watch, args=(reader, handled), name="signals", daemon=True).start()
        sys.unraisablehook = self._silence_after_signal(sys.unraisablehook)
        threading.excepthook = self._silence_after_signal(threading.excepthook)
        warnings.showwarning = self._silence_after_signal(warnings.showwarning)

    @contextmanager
    def end_in_order(self) -> Iterator[None]:
        """Raise `KeyboardInterrupt` on the first signal within the block; outside of it the process ends at once."""
        self._ends_in_order = True
        try:
            yield
        finally:
            self._ends_in_order = False

    @contextmanager
    def on_hard_end(self, callback: Callback) -> Iterator[None]:
        """Call a function before a process ends out of order within the block; the latest one is called first."""
        self._callbacks.append(callback)
        try:
            yield
        finally:
            self._callbacks.remove(callback)

    def _raise_interrupt(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature is Python's
        self.received = self.received or number
        if self._ends_in_order and not self._has_interrupted:
            self._has_interrupted = True
            raise KeyboardInterrupt

    def _silence_after_signal(self, hook: Callable[..., object]) -> Callable[..., None]:
        """Print no warnings, and no tracebacks of threads and callbacks, after a signal."""

        def report(*fault: Any, **options: Any) -> None:
            if self.received is None:
                hook(*fault, **options)

        return report

    def _watch(self, reader: socket.socket, handled: list[signal.Signals]) -> None:
        received = _wait_for_signal(reader, handled)
        assert received is not None
        self.received = self.received or received
        waits = self._ends_in_order
        is_second = waits and _wait_for_signal(reader, handled, ORDERLY_END_TIMEOUT_SECONDS) is not None
        if waits and not is_second:
            self._call_back()
        self.print_stopped()
        end_process(self.exit_code)

    def print_stopped(self) -> None:
        """Print `STOPPED`, once per process."""
        if not self._print_lock.acquire(blocking=False):
            self._has_printed.wait(PRINT_TIMEOUT_SECONDS)  # else this thread ends the process before the other prints
            return
        with suppress(OSError, ValueError):  # standard error is closed
            stream = sys.stderr.fileno()  # descriptor 2 leads to a filter
            show_cursor = "\n\x1b[?25h" if os.isatty(stream) else ""  # progress bars hide it
            os.write(stream, f"{show_cursor}{STOPPED}\n".encode())
        self._has_printed.set()

    def _call_back(self) -> None:
        caller = threading.Thread(target=self._call_all, daemon=True)
        caller.start()
        caller.join(REPORT_TIMEOUT_SECONDS)

    def _call_all(self) -> None:
        for callback in reversed(self._callbacks):
            with suppress(Exception):
                callback()


def _wait_for_signal(
    reader: socket.socket, handled: list[signal.Signals], timeout_seconds: float | None = None
) -> int | None:
    """Return the number of the next signal; Python's C handler writes one byte per signal."""
    end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    while True:
        left = None if end is None else max(0.0, end - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            return None
        (number,) = reader.recv(1)
        if number in handled:
            return number


def end_process(exit_code: int) -> NoReturn:
    """End this process and its descendants without waiting for threads."""
    _kill_descendants(os.getpid())
    end = time.monotonic() + KILL_TIMEOUT_SECONDS
    with suppress(ChildProcessError):  # no child is left
        while time.monotonic() < end:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(exit_code)


def _kill_descendants(process: int) -> None:
    """Kill all descendants of a process; without `/proc`, they end when their pipes are closed."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            parent = int(file.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(file.parent.name))
    found = children.get(process, [])
    for descendant in found:
        found.extend(children.get(descendant, []))
        with suppress(OSError):
            os.kill(descendant, signal.SIGKILL)


watcher: Final = SignalWatcher()
