"""Process that decodes images for the sandbox: `python -m hip_mri.images.sandbox_worker OPTIONS`.

`OPTIONS` are the `ReadingOptions` as JSON. The standard input of the process is a socket. It sends `READY`, and then
a response to each request. A request is `REQUEST` and an image file. A response is `RESPONSE`, a JSON object, and
the PNG file or the gray levels of each picture. Responses are never executed or unpickled.
"""

import contextlib
import json
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import cv2

from hip_mri.errors import ImageError
from hip_mri.images.decoding_results import Picture, ReadingOptions
from hip_mri.images.reading import read_pictures
from hip_mri.images.stored_png import encode_png, hash_pixels

REQUEST: Final = struct.Struct(">Q?")
"""Bytes of the file, and whether gray levels are wanted instead of PNG files."""

READY: Final = b"+"
"""First byte that the process sends, when it has started."""

RESPONSE: Final = struct.Struct(">QQ")
"""Bytes of the JSON object, and of all pictures together."""

MAX_MEMORY_BYTES: Final = 2 * 2**30
"""Maximum memory for one image, in addition to the memory of the process at its start."""

MAX_SECONDS: Final = 300.0
"""Maximum time for one image, much longer than the timeout of the parent. It ends a blocked decoder whose parent was
killed, because that decoder does not notice the closed connection."""


def receive(connection: socket.socket, num_bytes: int, deadline: float | None = None) -> bytes:
    """Receive a number of bytes.

    Args:
        connection: The socket.
        num_bytes: Number of bytes.
        deadline: Value of `time.monotonic`, in seconds; `None` waits without a limit.

    Raises:
        EOFError: The other process closed the connection before.
        TimeoutError: The deadline has passed.
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
    connection: socket.socket, read: Callable[[bytes], Sequence[Picture]], max_seconds: float = MAX_SECONDS
) -> None:
    """Answer requests until the other process closes the connection.

    Args:
        connection: The socket.
        read: Reads an image file.
        max_seconds: Time for one image after which the operating system ends the process.
    """
    with contextlib.suppress(EOFError, ConnectionError):
        connection.sendall(READY)
        while True:
            num_bytes, wants_levels = REQUEST.unpack(receive(connection, REQUEST.size))
            content = receive(connection, num_bytes)
            signal.setitimer(signal.ITIMER_REAL, max_seconds)
            facts, blobs = _answer(content, wants_levels, read)
            signal.setitimer(signal.ITIMER_REAL, 0)
            text = json.dumps(facts).encode()
            # One call: each further one would wake the other process before the rest has arrived.
            connection.sendall(b"".join([RESPONSE.pack(len(text), sum(map(len, blobs))), text, *blobs]))


def _answer(
    content: bytes, wants_levels: bool, read: Callable[[bytes], Sequence[Picture]]
) -> tuple[dict[str, Any], list[bytes]]:
    try:
        pictures = read(content)
        blobs = [picture.levels.tobytes() if wants_levels else encode_png(picture.levels) for picture in pictures]
    except ImageError as error:
        return {"reason": error.reason, "message": str(error)}, []
    except MemoryError:
        return {"reason": "out_of_memory", "message": "decoding the image needs too much memory"}, []
    facts = [_describe(picture, len(blob)) for picture, blob in zip(pictures, blobs, strict=True)]
    return {"pictures": facts}, blobs


def _describe(picture: Picture, num_bytes: int) -> dict[str, Any]:
    facts = {name: value for name, value in vars(picture).items() if name != "levels"}
    return facts | {"sha256": hash_pixels(picture.levels), "shape": picture.levels.shape, "num_bytes": num_bytes}


def limit_resources(num_memory_bytes: int = MAX_MEMORY_BYTES) -> None:
    """Limit the memory of this process, disable core files, and ignore Ctrl-C, which the parent handles.

    The alarm of `serve` must end the process without a Python handler, which would wait for the decoder. The process
    can be started with the alarm ignored or blocked.
    """
    cv2.setNumThreads(1)  # there are enough decoder processes to use all cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # not every system counts or limits it
        num_pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = num_pages * resource.getpagesize() + num_memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    """Read the options and answer requests."""
    options = ReadingOptions(**json.loads(sys.argv[1]))
    limit_resources()
    serve(socket.socket(fileno=0), lambda content: read_pictures(content, options))


if __name__ == "__main__":
    main()
