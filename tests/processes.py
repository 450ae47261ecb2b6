"""Runs programs in new processes, and finds ports for servers."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]


def run_python(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the interpreter of the tests to its end; `options` are those of `run_program`."""
    return run_program(sys.executable, *arguments, **options)


def run_program(
    *command: object,
    environment: Mapping[str, str] | None = None,
    cwd: Path = PROJECT,
    timeout_seconds: float = 120,
    standard_input: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; Python programs can import the project from any folder.

    Args:
        command: Program and arguments.
        environment: The whole environment; by default that of the tests.
        cwd: Working directory.
        timeout_seconds: For the whole process.
        standard_input: Text that the program can read.
    """
    return subprocess.run(
        [str(part) for part in command],
        input=standard_input,
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
