"""Decodes images in separate processes, so that a crash of a decoder costs one image and not the run.

A decoder that meets a malicious or broken file can crash, hang or take all memory. Each thread that reads sends its
files, one by one, to a decoder process that lives as long as the sandbox; when it ends, the file at fault is known.
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
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from hip_mri.errors import DeploymentError, ImageError
from hip_mri.images.pictures import EncodedPicture, Picture, ReadingOptions, SliceFacts
from hip_mri.images.sandbox_worker import ANSWER, QUESTION, READY, receive

TIMEOUT_SECONDS: Final = 60.0
"""Longest time for one image; the largest one that is allowed takes a few seconds, a slice a thousandth of them."""

NUM_ASKING: Final = 2
"""Threads to start for each core: while one waits for its decoder, another uses the core. With one, reading 24,000
images took a quarter longer than without separate processes; with two, no longer."""

NUM_TRIES: Final = 2
"""Number of attempts: a process can also end for other reasons, such as lack of memory."""

WORKER: Final = (sys.executable, "-P", "-m", "hip_mri.images.sandbox_worker")

START_TIMEOUT_SECONDS: Final = 120.0
"""Longest time for a process to start: half a second, or much more if memory is short."""

_ENVIRONMENT: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR", "LANG", "LC_ALL")

_TUNING: Final = {
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1"),
    **dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"), str(2**25)),
}
"""One thread for each process; and glibc reuses the memory of one image for the next."""

_MAX_NUM_ANSWER_BYTES: Final = 2**30
"""Maximum size of an answer; a longer one comes from a compromised or damaged process."""

_FACTS: Final = tuple(field.name for field in fields(SliceFacts))


class Sandbox:
    """Decodes image files in separate processes. A context manager; threads may share it.

    Processes are started as threads need them, and stay until the block ends.

    Args:
        options: How files are read.
        timeout_seconds: Longest time for one file.
        command: The program that decodes; it gets the options as its last argument.
    """

    def __init__(
        self,
        options: ReadingOptions = ReadingOptions(),
        timeout_seconds: float = TIMEOUT_SECONDS,
        command: Sequence[str] = WORKER,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._command = (*command, json.dumps(asdict(options)))
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().end()

    def encode(self, content: bytes) -> list[EncodedPicture]:
        """Decode an image file and return its pictures in the form in which they are stored; see `read`."""
        return [
            EncodedPicture(str(answer["sha256"]), blob, **facts) for answer, facts, blob in self._ask(content, False)
        ]

    def read(self, content: bytes) -> list[Picture]:
        """Decode an image file; see `reading.read_pictures`. A process that ends over it is replaced once.

        Raises:
            ImageError: The file cannot be used, or the decoder crashes, hangs or runs out of memory over it.
            DeploymentError: No decoder starts.
        """
        return [
            Picture(np.frombuffer(blob, np.uint8).reshape(answer["shape"]), **facts)
            for answer, facts, blob in self._ask(content, True)
        ]

    def _ask(self, content: bytes, wants_levels: bool) -> "list[_Answer]":
        for tries_left in reversed(range(NUM_TRIES)):
            with self._borrow() as process:
                try:
                    return process.ask(content, wants_levels, self._timeout_seconds)
                except TimeoutError as error:
                    if not tries_left:
                        raise ImageError("decoder_hung", "the decoder did not respond in time") from error
                except (EOFError, OSError, ValueError, KeyError, TypeError) as error:
                    if not tries_left:
                        raise ImageError("decoder_crashed", "the decoder process ended over the image") from error
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
                    stderr=subprocess.DEVNULL,  # decoders print content of files, which can identify patients
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

    def ask(self, content: bytes, wants_levels: bool, timeout_seconds: float) -> "list[_Answer]":
        """Send a file and wait for the answer; unsound unless a whole answer came."""
        self.is_sound = False
        deadline = time.monotonic() + timeout_seconds
        self._connection.settimeout(timeout_seconds)
        self._connection.sendall(QUESTION.pack(len(content), wants_levels) + content)
        lengths = ANSWER.unpack(receive(self._connection, ANSWER.size, deadline))
        if sum(lengths) > _MAX_NUM_ANSWER_BYTES:
            raise ValueError
        text, blobs = (receive(self._connection, length, deadline) for length in lengths)
        answer = json.loads(text)
        found = [] if "reason" in answer else _divide(answer["pictures"], blobs)
        self.is_sound = True
        if "reason" in answer:
            raise ImageError(str(answer["reason"]), str(answer["message"]))
        return found

    def end(self) -> None:
        """Kill the process."""
        self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()


_Answer = tuple[Mapping[str, Any], dict[str, Any], bytes]
"""All properties of an image, those of `SliceFacts`, and its bytes."""


def _divide(pictures: Sequence[Mapping[str, Any]], blobs: bytes) -> list[_Answer]:
    """Assign the bytes to the images."""
    found, start = [], 0
    for picture in pictures:
        end = start + int(picture["num_bytes"])
        found.append((picture, {name: picture[name] for name in _FACTS}, blobs[start:end]))
        start = end
    if start != len(blobs):
        raise ValueError
    return found


def _select_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Select the variables that the interpreter needs to find this library; others can contain passwords."""
    kept = {name: environment[name] for name in _ENVIRONMENT if name in environment}
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]))
    return kept | _TUNING | {"PYTHONPATH": path}
