"""Fixtures with a prepared workspace and a small random backbone."""

from pathlib import Path

import pytest

from hip_mri.config import DataSettings, PreprocessingSettings
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.folder_export import export_folders
from hip_mri.dataset.identities import identify_images
from hip_mri.dataset.ingest import ingest_images
from hip_mri.dataset.preprocessing import preprocess_images
from hip_mri.dataset.shards import Shard, plan_shards
from hip_mri.grouping.groups import group_images
from hip_mri.grouping.split import split_manifest
from hip_mri.models.backbones.backbone import Backbone
from hip_mri.models.backbones.engine_choice import EngineChoice
from hip_mri.models.backbones.preparation import prepare_backbone
from hip_mri.models.backbones.weights import resolve_weights
from hip_mri.models.features import FeatureSet, extract_features
from hip_mri.workspace import Workspace
from tests.small_sources import put_key

SMALL = PreprocessingSettings(image_size=32)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, source_zip: Path) -> Workspace:
    """50 images of 30 patients, 32 pixels, split, preprocessed."""
    workspace = Workspace(tmp_path_factory.mktemp("prepared"))
    put_key(workspace.root)  # the split follows from hashes of patients, and random weights are calibrated on it
    delivered = [Delivery("source", source_zip)]
    ingest_images(delivered, workspace, num_threads=2)
    # Number k of both classes shows patient k.
    identify_images(delivered, workspace, DataSettings(group_similar=False, patient_pattern=r"(\d+)\.png"))
    group_images(workspace, DataSettings(group_similar=False, patient_pattern=r"(\d+)\.png"), num_threads=1)
    split_manifest(workspace, 0.2, 0.2, seed=3)
    for shard in plan_shards(workspace, shard_size=2048):
        preprocess_images(shard, workspace, SMALL, num_threads=2)
    export_folders(workspace, SMALL)
    return workspace


@pytest.fixture(scope="session")
def backbone(prepared: Workspace) -> Backbone:
    """ResNet50 with random weights."""
    weights = resolve_weights("random", "ResNet50", fall_back_to_random=False)
    return prepare_backbone(weights, prepared, SMALL, seed=5, num_threads=2)


@pytest.fixture
def shards(prepared: Workspace) -> list[Shard]:
    return plan_shards(prepared, shard_size=2048)


@pytest.fixture(scope="session")
def trained_workspace(prepared: Workspace, backbone: Backbone) -> tuple[Workspace, FeatureSet]:
    """The prepared workspace with all features in it."""
    features = FeatureSet(backbone, SMALL, EngineChoice("openvino", "float32", "test"), with_mirrored=True)
    for shard in plan_shards(prepared, shard_size=2048):
        extract_features(shard, prepared, features, num_threads=1)
    return prepared, features
