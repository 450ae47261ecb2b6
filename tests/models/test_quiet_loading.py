"""TensorFlow loads without a word on standard error, and nothing else is silenced."""

import subprocess
import sys

CODE = """
import sys
from hip_mri.models.quiet_loading import silence_loading

silence_loading()
silence_loading()
print("before", file=sys.stderr, flush=True)
import keras, tensorflow

print("after", file=sys.stderr, flush=True)
print(type(tensorflow.__spec__.loader).__name__, type(tensorflow.__loader__).__name__)
"""


def test_tensorflow_loads_without_a_word() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr.splitlines() == ["before", "after"]
    assert done.stdout.split() == ["SourceFileLoader", "SourceFileLoader"]
