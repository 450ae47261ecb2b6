"""Fixtures of several packages: a small source of images and a workspace."""

import atexit
import io
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="hip-mri-tests-")  # a person's own Prefect is left alone
os.environ["KERAS_HOME"] = tempfile.mkdtemp(prefix="hip-mri-tests-")  # for tests that import Keras themselves
os.environ.pop("KERAS_BACKEND", None)
os.environ.pop("HIP_MRI_KERAS_BACKEND", None)
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")

from hip_mri.models.backbones import backbone as backbones
from hip_mri.workspace import Workspace
from tests.browser import browser, open_page  # noqa: F401 - fixtures
from tests.small_models import backbone, prepared, shards, trained_workspace  # noqa: F401 - fixtures
from tests.small_network import build_small_convnext, build_small_resnet
from tests.small_runs import versions, write_run  # noqa: F401 - fixtures
from tests.small_sources import entries, filled, filled_once, pack, shard, snapshot, source_file, spread, write_rows  # noqa: F401 - fixtures

GET_BUILDER = backbones.get_builder
"""What gives the real architectures."""

for variable in ("PREFECT_HOME", "KERAS_HOME"):
    atexit.register(shutil.rmtree, os.environ[variable], ignore_errors=True)

RESNET50_WEIGHTS = Path(__file__).parents[2] / "shared" / "weights" / "resnet50_imagenet_notop.weights.h5"
"""Pretrained weights that stand beside some checkouts; tests that need them are skipped elsewhere."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let small networks stand in for ResNet50 and ConvNeXtTiny, before any fixture, unless a test needs the real ones.

    System tests share networks with processes of their own, which know the real one alone.
    """
    needs_real = any(item.get_closest_marker(name) for name in ("full_network", "system"))
    backbones.get_builder = GET_BUILDER if needs_real else get_small_builder


def get_small_builder(name: str):
    return {"ResNet50": build_small_resnet, "ConvNeXtTiny": build_small_convnext}.get(name) or GET_BUILDER(name)


def draw_image(generator: np.random.Generator, *, has_lesion: bool, size: int = 64) -> np.ndarray:
    """A noisy disc; a lesion is a dark spot in it."""
    image = generator.normal(60, 12, (size, size))
    cv2.circle(image, (size // 2, size // 2), size // 3, 150.0, -1)
    if has_lesion:
        x, y = generator.integers(size // 2 - 8, size // 2 + 8, 2)
        cv2.circle(image, (int(x), int(y)), size // 8, 40.0, -1)
    return np.clip(image + generator.normal(0, 10, image.shape), 0, 255).astype(np.uint8)


def write_source(file: Path, num_normal: int = 30, num_lesion: int = 20, seed: int = 0) -> Path:
    """A zip in the original's layout."""
    generator = np.random.default_rng(seed)
    with zipfile.ZipFile(file, "w") as archive:
        for label, count in (("normal", num_normal), ("osseous_lesion", num_lesion)):
            for number in range(count):
                content = cv2.imencode(".png", draw_image(generator, has_lesion=label != "normal"))[1]
                archive.writestr(f"Hip MRI/{label}/hip{number:06d}.png", content.tobytes())
    return file


@pytest.fixture(scope="module", autouse=True)
def _forget_networks() -> Iterator[None]:
    """Networks and engines that the library keeps in memory go with the module, or a worker grows to gigabytes."""
    yield
    caches = [
        getattr(sys.modules[module], name)
        for module, name in (
            ("hip_mri.models.backbones.backbone", "load_backbone"),
            ("hip_mri.models.backbones.engines", "_load_engine"),
        )
        if module in sys.modules
    ]
    if any(cache.cache_info().currsize for cache in caches):  # a collection takes seconds, so it is not done in vain
        for cache in caches:
            cache.cache_clear()
        if "keras" in sys.modules:
            sys.modules["keras"].backend.clear_session()  # collects


@pytest.fixture(scope="session")
def source_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source") / "hip.zip")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    place = Workspace(tmp_path / "workspace")
    place.prepare()
    return place


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One Prefect server for all tests that need one."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def draw() -> Callable[..., NDArray[np.uint8]]:
    """Draws noise on a ramp, gray levels 0-255, shape (height, width); another seed, another picture."""

    def draw(seed: int, height: int = 24, width: int = 20) -> NDArray[np.uint8]:
        ramp = np.linspace(0, 180, height * width).reshape(height, width)
        return (ramp + np.random.default_rng(seed).integers(0, 60, (height, width))).astype(np.uint8)

    return draw


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Encodes an array, or a Pillow image, as a file of the given kind."""

    def encode(picture: NDArray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        return stream.getvalue()

    return encode
