"""Runs Python in new processes, and finds ports for servers."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def run_python(
    *arguments: object, environment: Mapping[str, str] | None = None, cwd: Path = PROJECT, timeout_seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run the interpreter of the tests to its end; the project can be imported in any folder.

    Args:
        arguments: Of the interpreter.
        environment: The whole environment; by default that of the tests.
        cwd: Working directory.
        timeout_seconds: For the whole process.
    """
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={"PYTHONPATH": str(PROJECT), **(os.environ if environment is None else environment)},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_seconds,
    )


def find_free_ports(count: int) -> list[int]:
    """Different ports of this machine that are free now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]
