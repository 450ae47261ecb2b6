"""The program that reads images of unknown origin for another process, which outlives whatever they do to it.

It speaks over the socket that is its standard input, first of all `READY`. A question is `QUESTION`, then an image
file. An answer is `ANSWER`, then a JSON object, the stripped file (empty where it equals what was sent) and the gray
levels (empty where nobody asked for them). Nothing that it sends is ever executed or unpickled.
"""

import contextlib
import json
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import cv2

from hip_mri.data.images import Picture, read_picture
from hip_mri.errors import ImageError

QUESTION: Final = struct.Struct(">Q?")
"""Bytes of the file, and whether gray levels are wanted."""

READY: Final = b"+"
"""First thing that it says: it has started."""

ANSWER: Final = struct.Struct(">IQQ")
"""Bytes of the JSON object, of the stripped file and of the gray levels."""

MAX_NUM_MEMORY_BYTES: Final = 2 * 2**30
"""Memory that one image may take, on top of what the program has when it starts."""

MOST_SECONDS: Final = 300.0
"""Longest time over one image. Far longer than any process that asks would wait, so that it ends only those whose
process is no more: it can be killed, and a decoder that hangs does not see that its connection is closed."""


def receive(connection: socket.socket, num_bytes: int, deadline: float | None = None) -> bytes:
    """Receive so many bytes; `EOFError` where the other side ends before, `TimeoutError` after the deadline.

    Args:
        connection: Where they come from.
        num_bytes: How many.
        deadline: On the clock of `time.monotonic`, in seconds; without it, the wait is endless.
    """
    buffer = bytearray(num_bytes)
    view, num_received = memoryview(buffer), 0
    while num_received < num_bytes:
        if deadline is not None:
            connection.settimeout(max(deadline - time.monotonic(), 1e-3))
        num_new = connection.recv_into(view[num_received:])
        if not num_new:
            raise EOFError
        num_received += num_new
    return bytes(buffer)


def serve(
    connection: socket.socket, read: Callable[[bytes], Picture] = read_picture, most_seconds: float = MOST_SECONDS
) -> None:
    """Answer questions until the other side closes the connection.

    Args:
        connection: Where they come from.
        read: Reads an image file.
        most_seconds: After so long over one image the system ends this process, whatever it does.
    """
    with contextlib.suppress(EOFError, ConnectionError):
        connection.sendall(READY)
        while True:
            num_bytes, wants_levels = QUESTION.unpack(receive(connection, QUESTION.size))
            content = receive(connection, num_bytes)
            signal.setitimer(signal.ITIMER_REAL, most_seconds)
            head, stripped, levels = _answer(content, wants_levels, read)
            signal.setitimer(signal.ITIMER_REAL, 0)
            told = json.dumps(head).encode()
            # In one piece: each piece would wake the other side, for nothing as long as the rest is on its way.
            connection.sendall(ANSWER.pack(len(told), len(stripped), len(levels)) + told + stripped + levels)


def _answer(
    content: bytes, wants_levels: bool, read: Callable[[bytes], Picture]
) -> tuple[dict[str, Any], bytes, bytes]:
    try:
        picture = read(content)
    except ImageError as error:
        return {"reason": error.reason, "message": str(error)}, b"", b""
    except MemoryError:
        return {"reason": "out_of_memory", "message": "the image takes too much memory to decode"}, b"", b""
    head = {"shape": picture.levels.shape, "patient": picture.patient}
    stripped = b"" if picture.content == content else picture.content
    return head, stripped, picture.levels.tobytes() if wants_levels else b""


def limit_resources(num_memory_bytes: int = MAX_NUM_MEMORY_BYTES) -> None:
    """Bound the memory of this process, leave no core files, and leave Ctrl-C to the process that asks.

    The alarm of `serve` must end the process by itself: a handler in Python would wait for the decoder, and what the
    process was started with could ignore it.
    """
    cv2.setNumThreads(1)  # one decoder for each thread that asks keeps the cores busy
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # not every system counts or bounds it
        num_pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = num_pages * resource.getpagesize() + num_memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    limit_resources()
    serve(socket.socket(fileno=0))
