"""Process that decodes images for the sandbox: `python -m hip_mri.images.sandbox_worker OPTIONS`.

`OPTIONS` are the `ReadingOptions` as JSON. The process uses the socket that is its standard input: it sends `READY`,
then for each question an answer. A question is `QUESTION`, then an image file. An answer is `ANSWER`, then a JSON
object, then for each picture its PNG file or its gray levels. Nothing that it sends is ever executed or unpickled.
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
from hip_mri.images.pictures import Picture, ReadingOptions
from hip_mri.images.png import encode_png, hash_pixels
from hip_mri.images.reading import read_pictures

QUESTION: Final = struct.Struct(">Q?")
"""Bytes of the file, and whether gray levels are wanted instead of PNG files."""

READY: Final = b"+"
"""First byte that the process sends: it has started."""

ANSWER: Final = struct.Struct(">QQ")
"""Bytes of the JSON object, and of all pictures together."""

MAX_NUM_MEMORY_BYTES: Final = 2 * 2**30
"""Memory that one image may take, in addition to what the process has when it starts."""

MAX_SECONDS: Final = 300.0
"""Maximum time for one image. Much longer than the parent waits: it ends a hanging decoder whose parent was killed,
because that does not notice the closed connection."""


def receive(connection: socket.socket, num_bytes: int, deadline: float | None = None) -> bytes:
    """Receive a number of bytes.

    Args:
        connection: Where they come from.
        num_bytes: How many.
        deadline: On the clock of `time.monotonic`, in seconds; without it, the wait is endless.

    Raises:
        EOFError: The other side ends before.
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
    """Answer questions until the other side closes the connection.

    Args:
        connection: Where they come from.
        read: Reads an image file.
        max_seconds: After this time for one image the system ends the process.
    """
    with contextlib.suppress(EOFError, ConnectionError):
        connection.sendall(READY)
        while True:
            num_bytes, wants_levels = QUESTION.unpack(receive(connection, QUESTION.size))
            content = receive(connection, num_bytes)
            signal.setitimer(signal.ITIMER_REAL, max_seconds)
            facts, blobs = _answer(content, wants_levels, read)
            signal.setitimer(signal.ITIMER_REAL, 0)
            text = json.dumps(facts).encode()
            # One call: each further one would wake the other side before the rest has come.
            connection.sendall(b"".join([ANSWER.pack(len(text), sum(map(len, blobs))), text, *blobs]))


def _answer(
    content: bytes, wants_levels: bool, read: Callable[[bytes], Sequence[Picture]]
) -> tuple[dict[str, Any], list[bytes]]:
    try:
        pictures = read(content)
        blobs = [picture.levels.tobytes() if wants_levels else encode_png(picture.levels) for picture in pictures]
    except ImageError as error:
        return {"reason": error.reason, "message": str(error)}, []
    except MemoryError:
        return {"reason": "out_of_memory", "message": "the image takes too much memory to decode"}, []
    facts = [_describe(picture, len(blob)) for picture, blob in zip(pictures, blobs, strict=True)]
    return {"pictures": facts}, blobs


def _describe(picture: Picture, num_bytes: int) -> dict[str, Any]:
    facts = {name: value for name, value in vars(picture).items() if name != "levels"}
    return facts | {"sha256": hash_pixels(picture.levels), "shape": picture.levels.shape, "num_bytes": num_bytes}


def limit_resources(num_memory_bytes: int = MAX_NUM_MEMORY_BYTES) -> None:
    """Limit the memory of this process, write no core files, and leave Ctrl-C to the process that asks.

    The alarm of `serve` must end the process by itself: a handler in Python would wait for the decoder, and the process
    can be started with the alarm ignored.
    """
    cv2.setNumThreads(1)  # one decoder for each thread that asks keeps the cores busy
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # not every system counts or limits it
        num_pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = num_pages * resource.getpagesize() + num_memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    """Read the options and answer questions."""
    options = ReadingOptions(**json.loads(sys.argv[1]))
    limit_resources()
    serve(socket.socket(fileno=0), lambda content: read_pictures(content, options))


if __name__ == "__main__":
    main()
