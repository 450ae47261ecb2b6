"""Imports Keras with the settings of this pipeline, independent of `keras.json` and environment variables.

Every module imports Keras by `import_keras`. Keras itself reads `keras.json` and the variables `KERAS_...` when it is
imported: data format, floatx and backend alter what a network computes, and an invalid value fails the import.
"""

import contextlib
import functools
import importlib.util
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from hip_mri.config import RunnerSettings
from hip_mri.errors import SettingsError
from hip_mri.hashes import digest

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

Model: TypeAlias = "keras.Model"
"""Type of a network in annotations, where Keras is not imported."""

BACKEND_VARIABLE: Final = "HIP_MRI_KERAS_BACKEND"
"""Environment variable that chooses the backend; `KERAS_BACKEND` is not read."""

BACKENDS: Final = ("tensorflow", "jax", "torch")
"""Supported backends, the default first. Each is also the name of its distribution and of its module."""

SETTINGS: Final = {"image_data_format": "channels_last", "floatx": "float32", "epsilon": 1e-7}
"""Settings of every network, by the name of the function of `keras.config`."""

DTYPE_POLICY: Final = "float32"
"""Policy of every layer, unless a network has another one. Keras keeps it per thread."""

DEVICE_VARIABLE: Final = "KERAS_TORCH_DEVICE"
"""The only variable of Keras that is not hidden: the device of PyTorch."""

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
"""Environment variables that can alter results of a backend; those of oneDNN also alter results of OpenVINO.

Measured with TensorFlow 2.21 on a processor with AVX-512, features of a ResNet50: `TF_ENABLE_ONEDNN_OPTS=0` changes
them by 6e-6 (relative L2 distance), `ONEDNN_MAX_CPU_ISA=AVX2` by 1e-6, likewise those of OpenVINO.
"""

_loading = threading.RLock()


def choose_backend() -> str:
    """Read the backend of Keras from the environment, without loading it.

    Returns:
        One of `BACKENDS`.

    Raises:
        SettingsError: `HIP_MRI_KERAS_BACKEND` names an unknown backend, or one that is not installed.
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
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None  # a folder of that name has no origin


def import_keras() -> ModuleType:
    """Import Keras and apply the settings of this pipeline.

    Settings that were changed since the last call, as in a notebook, are set again for the whole process. Functions
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
    """Import Keras for the first time in this process, without the settings of the user."""
    for name in [name for name in sys.modules if name.startswith("keras.")]:
        del sys.modules[name]  # left by a failed import
    try:
        with _hide_user_settings(backend):
            importlib.import_module("keras")
    except ImportError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SettingsError(
            f"{BACKEND_VARIABLE}: Keras cannot be loaded with the backend {backend} ({reason}). Install {backend} in a "
            f"version that fits Keras {version('keras')}, or choose another backend."
        ) from error
    # Downloads by Keras go to its usual folder.
    folder = list_keras_folders()[0]
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    vars(importlib.import_module("keras.src.backend.config"))["_KERAS_DIR"] = str(folder)


@contextlib.contextmanager
def _hide_user_settings(backend: str) -> Iterator[None]:
    """Hide `keras.json` and all variables of Keras except the backend.

    Keras can neither find nor create a file below the null device.
    """
    names = [name for name in os.environ if name.startswith("KERAS_") and name != DEVICE_VARIABLE]
    hidden = {name: os.environ.pop(name) for name in names}
    replaced = {"KERAS_HOME": os.devnull, "KERAS_BACKEND": backend}
    os.environ.update(replaced)
    try:
        yield
    finally:
        for name in replaced:
            os.environ.pop(name, None)
        os.environ.update(hidden)


def _apply_settings(config: Any) -> None:
    for name, needed in {**SETTINGS, "dtype_policy": DTYPE_POLICY}.items():
        found = getattr(config, name)()
        found = getattr(found, "name", found)
        if found != needed:
            logger.warning("Keras's %s was %s in this process; hip_mri sets it to %s", name, found, needed)
            getattr(config, f"set_{name}")(needed)


def _allow_tensor_float_32() -> None:
    """Restore TensorFlow's default for GPUs; `NVIDIA_TF32_OVERRIDE` still switches it off."""
    experimental = importlib.import_module("tensorflow").config.experimental
    if not experimental.tensor_float_32_execution_enabled():
        experimental.enable_tensor_float_32_execution(True)


def describe_keras() -> dict[str, Any]:
    """Describe everything about Keras and its backend that can alter results, without loading them.

    Returns:
        Versions, settings, and environment variables that are set. Suitable as part of a digest.
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
    """Return a plain value unchanged; of others, which could contain a path, the beginning of the digest."""
    return value if re.fullmatch(r"[\w.:+-]{1,40}", value) else f"digest {digest(value)[:12]}"


def count_network_threads() -> int:
    """Count the threads that TensorFlow uses for one operation.

    The number alters the result of training: the weights of a head with 16 threads differ from those with 1, 2 or 4,
    which are equal. Features and calibration are equal with 1, 2, 4 and 16 threads. Measured with TensorFlow 2.21 and
    deterministic operations.
    """
    value = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    return int(value) if value.isdecimal() and int(value) else RunnerSettings().count_threads()


def list_keras_folders() -> list[Path]:
    """List the folders of downloads by Keras: `KERAS_HOME`, `.keras` in the home folder, and a temporary one.

    New downloads go to the first folder that can be written.
    """
    with _loading:  # which hides KERAS_HOME meanwhile
        names = [os.environ.get("KERAS_HOME", ""), "~/.keras", "/tmp/.keras"]
    if names[0] == os.devnull:  # in a child process that was started while Keras was loaded
        del names[0]
    return [Path(os.path.expanduser(name)) for name in names if name]  # noqa: PTH111 - raises nothing without a home
