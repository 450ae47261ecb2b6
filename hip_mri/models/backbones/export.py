"""A backbone in OpenVINO's format: made once, and used only as it was written."""

import logging
import sys
import threading
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from hip_mri.hashes import HASHES, is_as_recorded, record_hashes
from hip_mri.locks import hold_lock
from hip_mri.models.backbones.backbone import IDENTITY_NAME, Backbone, add_maps, load_backbone
from hip_mri.models.keras_settings import choose_backend
from hip_mri.storage import link_or_copy, publish_folder, read_json, write_json

logger = logging.getLogger(__name__)

RECIPE: Final = 2
"""Number of this way to export; a change that alters what an export computes raises it. Below 2 the user's settings of
Keras could alter it."""

EXPORT_NAME: Final = "backbone.xml"
EXPORT_FILES: Final = (EXPORT_NAME, "backbone.bin", IDENTITY_NAME)

SECONDS_TO_WAIT: Final = 300.0
"""How long a process waits for another one's export, which takes ten seconds or, on a busy machine, a minute."""

_lock = threading.Lock()


def export_openvino(backbone: Backbone) -> Path:
    """Write a backbone in OpenVINO's format: features and last maps. Done once for its weights and OpenVINO's version.

    An export is used only if its files have the recorded SHA-256 and it was made from these weights.

    Returns:
        The `.xml` file; the weights lie beside it.
    """
    folder = _locate_export(backbone.folder)
    with _lock, _hold_across_processes(folder):
        if not has_export(backbone):
            logger.info("Exporting the backbone to OpenVINO, once for these weights")
            import_openvino()  # before Keras does
            with publish_folder(folder) as fresh:
                add_maps(load_backbone(backbone)).export(str(fresh / EXPORT_NAME), format="openvino", verbose=False)
                write_json(fresh / IDENTITY_NAME, _identify_export(backbone))
                record_hashes(fresh)
    return folder / EXPORT_NAME


def _hold_across_processes(folder: Path) -> AbstractContextManager[None]:
    """Let one process at a time export, or look whether it must: the workers of a cluster share the folder."""
    place = folder.parent / ".lock"
    refusal = f"backbones: {folder} has for {SECONDS_TO_WAIT:g} seconds been exported by"
    return hold_lock(place, SECONDS_TO_WAIT, refusal, "Wait for it to end, or end it")


def has_export(backbone: Backbone) -> bool:
    """Whether the export of a backbone is there, whole, and made from its weights."""
    folder = _locate_export(backbone.folder)
    return is_as_recorded(folder, EXPORT_FILES) and read_json(folder / IDENTITY_NAME) == _identify_export(backbone)


def link_export(backbone: Backbone, folder: Path) -> None:
    """Let the export of a backbone, if there is one, also be that of the same backbone in another folder."""
    if has_export(backbone):
        with publish_folder(_locate_export(folder)) as fresh:
            for name in (*EXPORT_FILES, HASHES):
                link_or_copy(_locate_export(backbone.folder) / name, fresh / name)


def _locate_export(backbone_folder: Path) -> Path:
    return backbone_folder.with_name(f"{backbone_folder.name}-openvino")


def _identify_export(backbone: Backbone) -> dict[str, Any]:
    packages = ("openvino", "keras", choose_backend())
    return {"recipe": RECIPE, "backbone": backbone.digest} | {package: version(package) for package in packages}


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which reports every conversion to a server on the internet."""
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType] - import then fails
    import openvino  # noqa: PLC0415 - not needed by the Keras engine

    return openvino
