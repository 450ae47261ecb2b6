"""Exports backbones to OpenVINO's format, once, and checks an export before it is used."""

import logging
import sys
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

EXPORT_RECIPE: Final = 2
"""Version of the export; raised by changes that alter what it computes. Before 2 the user's Keras settings could alter
it."""

EXPORT_NAME: Final = "backbone.xml"
EXPORT_FILES: Final = (EXPORT_NAME, "backbone.bin", IDENTITY_NAME)

SECONDS_TO_WAIT: Final = 300.0
"""How long a process waits for the export of another one, which takes ten seconds, or a minute on a busy machine."""


def export_openvino(backbone: Backbone) -> Path:
    """Export a backbone to OpenVINO's format, with features and last maps as outputs.

    An export of the same weights and versions is reused if its files have the recorded SHA-256.

    Returns:
        The `.xml` file; the weights are in a `.bin` file beside it.
    """
    folder = _locate_export(backbone.folder)
    refusal = f"backbones: {folder} has for {SECONDS_TO_WAIT:g} seconds been exported by"
    # The workers of a cluster share the folder.
    with hold_lock(folder.parent / ".lock", SECONDS_TO_WAIT, refusal, "Wait for it to end, or end it"):
        if not has_export(backbone):
            logger.info("Exporting the backbone to OpenVINO, once for these weights")
            import_openvino()  # before Keras imports it
            with publish_folder(folder) as fresh:
                add_maps(load_backbone(backbone)).export(str(fresh / EXPORT_NAME), format="openvino", verbose=False)
                write_json(fresh / IDENTITY_NAME, _identify_export(backbone))
                record_hashes(fresh)
    return folder / EXPORT_NAME


def has_export(backbone: Backbone) -> bool:
    """Whether an undamaged export of a backbone, with its weights, exists."""
    folder = _locate_export(backbone.folder)
    return is_as_recorded(folder, EXPORT_FILES) and read_json(folder / IDENTITY_NAME) == _identify_export(backbone)


def link_export(backbone: Backbone, folder: Path) -> None:
    """Link the export of a backbone, if there is one, for the same backbone in another folder."""
    if has_export(backbone):
        with publish_folder(_locate_export(folder)) as fresh:
            for name in (*EXPORT_FILES, HASHES):
                link_or_copy(_locate_export(backbone.folder) / name, fresh / name)


def _locate_export(backbone_folder: Path) -> Path:
    return backbone_folder.with_name(f"{backbone_folder.name}-openvino")


def _identify_export(backbone: Backbone) -> dict[str, Any]:
    packages = ("openvino", "keras", choose_backend())
    return {"recipe": EXPORT_RECIPE, "backbone": backbone.digest} | {package: version(package) for package in packages}


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which sends a report of every conversion to a server."""
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType] - makes its import fail
    import openvino  # noqa: PLC0415 - not needed by the Keras engine

    return openvino
