"""Decodes images in separate processes, so that a crash of a decoder costs one image and not the run.

A malicious or damaged file can crash, block or exhaust a decoder. Each reading thread sends its files one by one to a
decoder process, which runs until the sandbox is closed. If a process ends early, the file that caused it is known.
"""

import contextlib
import itertools
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
from hip_mri.images.decoding_results import EncodedPicture, Picture, ReadingOptions, SliceFacts
from hip_mri.images.sandbox_worker import READY, REQUEST, RESPONSE, receive

TIMEOUT_SECONDS: Final = 60.0
"""Maximum time for one image; the largest one that is allowed takes a few seconds, a slice a thousandth of that."""

NUM_THREADS_PER_CORE: Final = 2
"""Threads to start for each core: while one waits for its decoder, another uses the core. With one, reading 24,000
images took a quarter longer than without separate processes; with two, no longer."""

NUM_TRIES: Final = 2
"""Number of attempts: a process can also end for other reasons, such as lack of memory."""

WORKER: Final = (sys.executable, "-P", "-m", "hip_mri.images.sandbox_worker")

START_TIMEOUT_SECONDS: Final = 120.0
"""Maximum time for a process to start: usually half a second, but much more if memory is short."""

_ENVIRONMENT: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR", "LANG", "LC_ALL")

_TUNING: Final = {
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1"),
    **dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"), str(2**25)),
}
"""One thread for each process; and glibc reuses the memory of one image for the next."""

_MAX_RESPONSE_BYTES: Final = 2**30
"""Maximum size of a response; a longer one comes from a compromised or damaged process."""

_FACTS: Final = tuple(field.name for field in fields(SliceFacts))


class Sandbox:
    """Decodes image files in separate processes. A context manager; threads may share it.

    Processes are started when threads need them and run until the block ends.

    Args:
        options: How files are read.
        timeout_seconds: Maximum time for one file.
        command: Command of the decoder process; the options are appended as its last argument.
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
            EncodedPicture(str(picture["sha256"]), blob, **facts)
            for picture, facts, blob in self._decode(content, False)
        ]

    def read(self, content: bytes) -> list[Picture]:
        """Decode an image file; see `reading.read_pictures`. If the process ends, another one tries again once.

        Raises:
            ImageError: The file cannot be used, or it crashes, blocks or exhausts the decoder.
            DeploymentError: No decoder process starts.
        """
        return [
            Picture(np.frombuffer(blob, np.uint8).reshape(picture["shape"]), **facts)
            for picture, facts, blob in self._decode(content, True)
        ]

    def _decode(self, content: bytes, wants_levels: bool) -> "list[_Decoded]":
        for tries_left in reversed(range(NUM_TRIES)):
            with self._borrow() as process:
                try:
                    return process.decode(content, wants_levels, self._timeout_seconds)
                except TimeoutError as error:
                    if not tries_left:
                        raise ImageError("decoder_hung", "the decoder did not respond in time") from error
                except (EOFError, OSError, ValueError, KeyError, TypeError) as error:
                    if not tries_left:
                        raise ImageError("decoder_crashed", "the decoder process ended during the image") from error
        raise AssertionError

    @contextlib.contextmanager
    def _borrow(self) -> "Iterator[_Process]":
        """Provide a process that no other thread uses; it is kept if it is still usable."""
        try:
            process = self._idle.get_nowait()
        except queue.Empty:
            process = _Process(self._command)
        try:
            yield process
        finally:
            if process.is_usable:
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
                f"the program that decodes images does not start ({error or 'it ends at once'}). Check that memory is "
                f"free and that '{' '.join(command)}' runs, then start again."
            ) from error
        self.is_usable = True

    def decode(self, content: bytes, wants_levels: bool, timeout_seconds: float) -> "list[_Decoded]":
        """Send a file and receive the response; the process is usable only after a complete response."""
        self.is_usable = False
        deadline = time.monotonic() + timeout_seconds
        self._connection.settimeout(timeout_seconds)
        self._connection.sendall(REQUEST.pack(len(content), wants_levels) + content)
        lengths = RESPONSE.unpack(receive(self._connection, RESPONSE.size, deadline))
        if sum(lengths) > _MAX_RESPONSE_BYTES:
            raise ValueError
        text, blobs = (receive(self._connection, length, deadline) for length in lengths)
        response = json.loads(text)
        error = ImageError(str(response["reason"]), str(response["message"])) if "reason" in response else None
        decoded = [] if error else _divide(response["pictures"], blobs)
        self.is_usable = True
        if error:
            raise error
        return decoded

    def end(self) -> None:
        """Kill the process."""
        self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()


_Decoded = tuple[Mapping[str, Any], dict[str, Any], bytes]
"""All properties of an image, those of `SliceFacts`, and its bytes."""


def _divide(pictures: Sequence[Mapping[str, Any]], blobs: bytes) -> list[_Decoded]:
    """Assign the bytes to the images."""
    ends = list(itertools.accumulate(int(picture["num_bytes"]) for picture in pictures))
    if (ends or [0])[-1] != len(blobs):
        raise ValueError
    facts = [{name: picture[name] for name in _FACTS} for picture in pictures]
    return list(zip(pictures, facts, (blobs[a:b] for a, b in itertools.pairwise([0, *ends])), strict=True))


def _select_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Select the variables that the interpreter needs to find this library; others can contain passwords."""
    kept = {name: environment[name] for name in _ENVIRONMENT if name in environment}
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]))
    return kept | _TUNING | {"PYTHONPATH": path}
