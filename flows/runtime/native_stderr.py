"""Removes TensorFlow's informational lines from the standard error stream of a command."""

import os
import shutil
import subprocess
import sys
from typing import Final

INFORMATION: Final = r"^(I[0-9]{4} |WARNING: All log messages before absl::InitializeLog\(\))"
"""Lines of level INFO in the format of Abseil's logs, and the line above the first of them."""


def filter_native_stderr() -> None:
    """Pass descriptor 2 through a filter from now on, and give `sys.stderr` a descriptor of its own.

    TensorFlow's native code writes the lines while it is loaded, before it reads `TF_CPP_MIN_LOG_LEVEL`. The filter is
    a process of its own, so that the last message before a crash is not lost. It ends with the processes that write to
    it.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    grep = shutil.which("grep")
    if grep is None:
        return
    command = [grep, "--line-buffered", "-vE", INFORMATION]
    # A session of its own: Ctrl+C at the terminal must not end it before the last line.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr, start_new_session=True)
    assert process.stdin is not None
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
