"""TensorFlow is loaded without informational lines on standard error; other lines are kept."""

import pytest

from tests.processes import run_python

START = """
import os, sys
from flows.runtime.native_stderr import filter_native_stderr

print("before", file=sys.stderr, flush=True)
filter_native_stderr()
"""

LOAD = """
import keras, tensorflow

print("after", file=sys.stderr)
"""

CRASH = r"""
os.write(2, b"I0000 00:00:1795 1 port.cc:153] information\nW0000 a warning\nF0000 fatal\n")
os.abort()
"""


@pytest.mark.parametrize(
    ("end", "lines"),
    [(LOAD, ["before", "after"]), (CRASH, ["before", "W0000 a warning", "F0000 fatal"])],
    ids=["load", "crash"],
)
def test_only_information_is_removed(end: str, lines: list[str]) -> None:
    assert run_python("-c", START + end).stderr.splitlines() == lines
