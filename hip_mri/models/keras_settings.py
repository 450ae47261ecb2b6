"""Loads Keras with the settings of this pipeline, whatever a user's `keras.json` and environment say.

Every module takes Keras from `import_keras`. When Keras is imported it reads `keras.json` and the variables
`KERAS_...`: the data format, floatx and backend there decide what a network computes, and a value that Keras rejects
ends the import.
"""

import contextlib
import functools
import importlib
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from hip_mri.config import RunnerSettings
from hip_mri.errors import SettingsError
from hip_mri.storage import digest

logger = logging.getLogger(__name__)

BACKEND_VARIABLE: Final = "HIP_MRI_KERAS_BACKEND"
"""Environment variable that chooses the backend; `KERAS_BACKEND` is not read."""

BACKENDS: Final = ("tensorflow", "jax", "torch")
"""Backends that can be chosen, the default first. Each is also the name of its distribution and of its module."""

SETTINGS: Final = {"image_data_format": "channels_last", "floatx": "float32", "epsilon": 1e-7}
"""What every network is built, trained and run with, by the name of the function of `keras.config`."""

DTYPE_POLICY: Final = "float32"
"""Of every layer, unless a network asks for another one. Keras keeps it for each thread."""

DEVICE_VARIABLE: Final = "KERAS_TORCH_DEVICE"
"""The one variable of Keras's own that stays: it names the device of PyTorch."""

NUMERIC_VARIABLES: Final = {
    "tensorflow": (
        "TF_ENABLE_ONEDNN_OPTS",
        "TF_SET_ONEDNN_FPMATH_MODE",
        "ONEDNN_MAX_CPU_ISA",
        "DNNL_MAX_CPU_ISA",
        "NVIDIA_TF32_OVERRIDE",
        "TF_XLA_FLAGS",
        "XLA_FLAGS",
    ),
    "jax": ("JAX_DEFAULT_MATMUL_PRECISION", "NVIDIA_TF32_OVERRIDE", "ONEDNN_MAX_CPU_ISA", "XLA_FLAGS"),
    "torch": (DEVICE_VARIABLE, "NVIDIA_TF32_OVERRIDE", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
}
"""Environment variables that can change what a backend computes; those of oneDNN also change what OpenVINO does.

Measured with TensorFlow 2.21 on a processor with AVX-512, features of a ResNet50: `TF_ENABLE_ONEDNN_OPTS=0` moves them
by 6e-6 (relative L2 distance), `ONEDNN_MAX_CPU_ISA=AVX2` by 1e-6, likewise those of OpenVINO.
"""

_loading = threading.Lock()


def choose_backend() -> str:
    """Read which backend Keras gets; loads nothing.

    Returns:
        One of `BACKENDS`.

    Raises:
        SettingsError: `HIP_MRI_KERAS_BACKEND` names another one, or one that is not installed.
    """
    backend = os.environ.get(BACKEND_VARIABLE) or BACKENDS[0]
    if backend not in BACKENDS:
        raise SettingsError(
            f"{BACKEND_VARIABLE}: {backend[:40]!r} is not supported. Give one of {', '.join(BACKENDS)}, or unset it to "
            f"use {BACKENDS[0]}."
        )
    if not _is_installed(backend):
        raise SettingsError(
            f"{BACKEND_VARIABLE}: {backend} is not installed. Install it with `pip install {backend}`, or unset "
            f"{BACKEND_VARIABLE} to use {BACKENDS[0]}."
        )
    return backend


@functools.cache
def _is_installed(module: str) -> bool:
    if module in sys.modules:
        return True
    spec = PathFinder.find_spec(module)  # not `importlib.util`: see `quiet_loading`, which waits for the first search
    return spec is not None and spec.origin is not None  # a folder of that name has no origin


def import_keras() -> ModuleType:
    """Import Keras, and give it the settings of this pipeline.

    Settings that were changed since the last call, as in a notebook, are set again, for the whole process. Functions
    that build, load, train or run a network call this first.

    Raises:
        SettingsError: The backend cannot be used, or Keras was imported before with another one.
    """
    backend = choose_backend()
    with _loading:
        if "keras" not in sys.modules:
            _load_keras(backend)
    keras = importlib.import_module("keras")
    found = keras.config.backend()
    if found != backend:
        raise SettingsError(
            f"{BACKEND_VARIABLE}: Keras is loaded with the backend {found} in this process, {backend} is needed. Start "
            f"a new process that imports hip_mri before Keras, or set {BACKEND_VARIABLE}={found} if {found} is one of "
            f"{', '.join(BACKENDS)}."
        )
    _apply_settings(keras.config)
    if backend == "tensorflow":
        _allow_tensor_float_32()
    return keras


def _load_keras(backend: str) -> None:
    """Import Keras for the first time in this process, with nothing of the user's to read."""
    for name in [name for name in sys.modules if name.startswith("keras.")]:
        del sys.modules[name]  # left behind by an import that failed, with the settings of that time
    try:
        with _hide_user_settings(backend):
            importlib.import_module("keras")
    except ImportError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SettingsError(
            f"{BACKEND_VARIABLE}: Keras cannot be loaded with the backend {backend} ({reason}). Install {backend} in a "
            f"version that fits Keras {version('keras')}, or choose another backend."
        ) from error
    # Keras has found no folder of its own; what a user downloads with Keras belongs in the usual one.
    folder = _list_keras_folders()[0]
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    vars(importlib.import_module("keras.src.backend.config"))["_KERAS_DIR"] = str(folder)


@contextlib.contextmanager
def _hide_user_settings(backend: str) -> Iterator[None]:
    """Leave Keras no `keras.json` to read or to write, and none of its variables but the backend.

    Below the null device there is no file, and none can be made.
    """
    names = [name for name in os.environ if name.startswith("KERAS_") and name != DEVICE_VARIABLE]
    hidden = {name: os.environ.pop(name) for name in names}
    ours = {"KERAS_HOME": os.devnull, "KERAS_BACKEND": backend}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
        os.environ.update(hidden)


def _apply_settings(config: Any) -> None:
    for name, wanted in SETTINGS.items():
        found = getattr(config, name)()
        if found != wanted:
            _log_change(name, found, wanted)
            getattr(config, f"set_{name}")(wanted)
    found = config.dtype_policy().name
    if found != DTYPE_POLICY:
        _log_change("dtype_policy", found, DTYPE_POLICY)
        config.set_dtype_policy(DTYPE_POLICY)


def _log_change(name: str, found: object, wanted: object) -> None:
    logger.warning("Keras's %s was %s in this process; hip_mri sets it to %s", name, found, wanted)


def _allow_tensor_float_32() -> None:
    """Leave TensorFlow at its own default for GPUs; `NVIDIA_TF32_OVERRIDE` still switches it off."""
    experimental = importlib.import_module("tensorflow").config.experimental
    if not experimental.tensor_float_32_execution_enabled():
        experimental.enable_tensor_float_32_execution(True)


def describe_keras() -> dict[str, Any]:
    """Everything about Keras and its backend that can change a number; loads neither.

    Returns:
        Versions, settings and, as far as they are set, environment variables. The same settings always give the same
        values, so that they can be part of a digest.
    """
    backend = choose_backend()
    variables = {name: _shorten(value) for name in NUMERIC_VARIABLES[backend] if (value := os.environ.get(name))}
    return {
        "version": version("keras"),
        "backend": backend,
        "backend_version": version(backend),
        **SETTINGS,
        "dtype_policy": DTYPE_POLICY,
        "variables": variables,
    }


def _shorten(value: str) -> str:
    """A plain value as it is; anything else, which could hold a path, as the beginning of its digest."""
    return value if re.fullmatch(r"[\w.:+-]{1,40}", value) else f"digest {digest(value)[:12]}"


def count_network_threads() -> int:
    """Threads that TensorFlow shares an operation among.

    It changes what training gives: with 16 threads a head's weights differ from those with 1, 2 or 4, which are equal.
    Features and calibration are the same with 1, 2, 4 and 16. Measured with TensorFlow 2.21 and deterministic
    operations.
    """
    asked = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else RunnerSettings().count_threads()


def list_keras_folders() -> list[Path]:
    """Folders in which Keras may have put its downloads: `KERAS_HOME`, `.keras` in the home folder, a temporary one.

    New downloads go to the first one, or where that cannot be written to the last one.
    """
    with _loading:  # else KERAS_HOME is hidden
        return _list_keras_folders()


def _list_keras_folders() -> list[Path]:
    names = [os.environ.get("KERAS_HOME", ""), "~/.keras", "/tmp/.keras"]
    if names[0] == os.devnull:  # in a child of a process that was loading Keras
        del names[0]
    return [Path(os.path.expanduser(name)) for name in names if name]  # noqa: PTH111 - raises nothing without a home
