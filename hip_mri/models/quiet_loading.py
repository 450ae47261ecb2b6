"""Loads TensorFlow without the lines that its native code writes to standard error while it loads.

Its variable TF_CPP_MIN_LOG_LEVEL does not reach them: they are written before TensorFlow reads it.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

SILENCED: Final = "tensorflow"


def silence_loading() -> None:
    """From now on TensorFlow loads without these lines, whoever imports it first; a second call changes nothing.

    Python's own errors are raised as ever. While TensorFlow loads, for seconds and once in a process, descriptor 2
    leads nowhere; `sys.stderr` keeps working where it has a descriptor of its own.
    """
    if SILENCED not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Takes part in the first search for TensorFlow only."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the signature is Python's
        target: ModuleType | None = None,  # noqa: ARG002 - see above
    ) -> ModuleSpec | None:
        if fullname != SILENCED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _SilencedLoader(spec.loader)
        return spec


class _SilencedLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with _without_native_stderr():
            self._loader.exec_module(module)


@contextmanager
def _without_native_stderr() -> Iterator[None]:
    native, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(native, 2)
        os.close(native)
        os.close(nowhere)
