"""Runs Python in new processes."""

import os
import subprocess
import sys
from collections.abc import Mapping
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
