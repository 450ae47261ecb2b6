"""Reading images of unknown origin in processes of their own, so that a broken one costs one image and not the run.

A decoder that meets a malicious or broken file can crash, hang or take all memory. Each thread that reads hands its
files, one by one, to a decoder process that lives as long as the reader; when it dies, the file in its hands is known.
"""

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from hip_mri.data.decoder import ANSWER, QUESTION, READY, receive
from hip_mri.data.images import Picture
from hip_mri.errors import DeploymentError, ImageError

TIMEOUT_SECONDS: Final = 60.0
"""Longest time for one image; the largest one that is allowed takes a few seconds, a slice a thousandth of them."""

NUM_ASKING: Final = 2
"""Threads that should ask for each one that may work: while one waits for its decoder, another has work for the core.
With one, reading 24,000 images took a quarter longer than without processes of their own; with two, no longer."""

NUM_TRIES: Final = 2
"""A process can die for reasons that lie outside the image, as when the system runs out of memory."""

DECODER: Final = (sys.executable, "-P", "-m", "hip_mri.data.decoder")

START_TIMEOUT_SECONDS: Final = 120.0
"""Longest time for a process to start: half a second, or much more on a machine that is short of memory."""

_ENVIRONMENT: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR", "LANG", "LC_ALL")

_TUNING: Final = {
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1"),
    **dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"), str(2**25)),
}
"""One thread for each process; and glibc keeps what one image took for the next instead of asking the system again."""

_MAX_NUM_ANSWER_BYTES: Final = 2**30
"""More than any answer has; a longer one comes from a process that is out of its mind."""


class IsolatedReader:
    """Reads image files in processes that nothing is lost with. A context manager; threads may share it.

    Processes are started as threads need them, and stay until the block ends.

    Args:
        timeout_seconds: Longest time for one image.
        command: The program that reads.
    """

    def __init__(self, timeout_seconds: float = TIMEOUT_SECONDS, command: Sequence[str] = DECODER) -> None:
        self._timeout_seconds = timeout_seconds
        self._command = command
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().end()

    def check(self, content: bytes) -> tuple[bytes, str]:
        """Read an image file for all but its gray levels, which need not travel; see `read`.

        Returns:
            `content` and `patient` of the `Picture`; the former is the very argument where nothing was to strip.
        """
        picture = self._ask(content, wants_levels=False)
        return picture.content, picture.patient

    def read(self, content: bytes) -> Picture:
        """Read an image file, in a fresh process once more where the process ended over it.

        Raises:
            ImageError: The file cannot be used, or the decoder crashes, hangs or runs out of memory over it.
            DeploymentError: No decoder starts.
        """
        return self._ask(content, wants_levels=True)

    def _ask(self, content: bytes, *, wants_levels: bool) -> Picture:
        for tries_left in reversed(range(NUM_TRIES)):
            with self._borrow() as process:
                try:
                    return process.read(content, wants_levels, self._timeout_seconds)
                except TimeoutError as error:
                    if not tries_left:
                        raise ImageError("decoder_hung", "the decoder did not come to an end") from error
                except (EOFError, OSError, ValueError, KeyError, TypeError) as error:
                    if not tries_left:
                        raise ImageError("decoder_crashed", "the decoder died of the image") from error
        raise AssertionError

    @contextlib.contextmanager
    def _borrow(self) -> "Iterator[_Process]":
        """A process that no other thread uses; it comes back if it can go on."""
        try:
            process = self._idle.get_nowait()
        except queue.Empty:
            process = _Process(self._command)
        try:
            yield process
        finally:
            if process.is_sound:
                self._idle.put(process)
            else:
                process.end()


class _Process:
    """One decoder process and the connection to it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # decoders print what they find in files, and that can name people
                    env=_select_environment(os.environ),
                )
            receive(self._connection, len(READY), time.monotonic() + START_TIMEOUT_SECONDS)
        except (OSError, EOFError) as error:
            self.end()
            raise DeploymentError(
                f"the program that decodes images does not start ({error or 'it ends at once'}). See that memory is "
                f"free and that '{' '.join(command)}' runs, then start again."
            ) from error
        self.is_sound = True

    def read(self, content: bytes, wants_levels: bool, timeout_seconds: float) -> Picture:
        """Ask and wait; unsound unless a whole answer came."""
        self.is_sound = False
        deadline = time.monotonic() + timeout_seconds
        self._connection.settimeout(timeout_seconds)
        self._connection.sendall(QUESTION.pack(len(content), wants_levels) + content)
        lengths = ANSWER.unpack(receive(self._connection, ANSWER.size, deadline))
        if sum(lengths) > _MAX_NUM_ANSWER_BYTES:
            raise ValueError
        told, stripped, pixels = (receive(self._connection, length, deadline) for length in lengths)
        answer = json.loads(told)
        read = None if "reason" in answer else _understand(answer, stripped or content, pixels)
        self.is_sound = True
        if read is None:
            raise ImageError(str(answer["reason"]), str(answer["message"]))
        return read

    def end(self) -> None:
        """End the process, whatever it does."""
        self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _understand(answer: Mapping[str, Any], content: bytes, pixels: bytes) -> Picture:
    """What the answer says; without pixels, of no height."""
    height, width = answer["shape"]
    levels = np.frombuffer(pixels, np.uint8).reshape(height if pixels else 0, width)
    return Picture(levels, content, str(answer["patient"]))


def _select_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What the interpreter needs to find this very library, and nothing else: above all no passwords."""
    kept = {name: environment[name] for name in _ENVIRONMENT if name in environment}
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]))
    return kept | _TUNING | {"PYTHONPATH": path}
