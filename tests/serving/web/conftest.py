"""Fixtures: a service of a small model in this process, and a client that calls it without a network."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pandas as pd
import pytest

from hip_mri.config import HeadDesign, ImageSettings, ServiceLimits, TrainingSettings
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.evaluation.conformal import DecisionRule
from hip_mri.evaluation.run_tables import describe_manifest
from hip_mri.hashes import digest_file
from hip_mri.models.loading import load_head
from hip_mri.models.network import train_model
from hip_mri.monitoring.novelty import fit_novelty
from hip_mri.serving.loaded_model import LoadedModel
from hip_mri.serving.scorer import Scorer, load_scorer
from hip_mri.serving.served_model import ServedModel
from hip_mri.serving.served_network import SavedNetwork, prepare_network
from hip_mri.serving.web.app import make_app
from hip_mri.serving.web.service import ScoringService
from hip_mri.workspace import Workspace

LIMITS = ServiceLimits(max_request_bytes=2**21, max_images=6, max_requests=3)

RULE = DecisionRule(threshold=0.5, error_rate=0.1, min_lesion=0.0, max_normal=0.0, reason="")
"""Every normal image is uncertain, and no lesion."""


@pytest.fixture(scope="session")
def scorer(trained_workspace, tmp_path_factory) -> Scorer:
    workspace, features = trained_workspace
    trained = train_model(workspace, features, HeadDesign("dense", 8), TrainingSettings(epochs=2), seed=1)
    file = trained.model_file
    saved = SavedNetwork(file, digest_file(file), features.backbone.name, features.preprocessing, "float32")
    manifest_file = tmp_path_factory.mktemp("run") / "manifest.csv"
    describe_manifest(read_manifest(workspace.manifest_file)).to_csv(manifest_file, index=False)
    novelty_file = fit_novelty(workspace, features, trained, 0.02)
    model = ServedModel(
        name="run 0417",
        network=saved,
        threshold=0.5,
        conformal=RULE,
        patients=None,
        notices=("SMALL: A notice.",),
        novelty_file=novelty_file,
        manifest_file=manifest_file,
    )
    network = prepare_network(saved, "openvino", "float32", 1, Workspace(tmp_path_factory.mktemp("served")))
    return load_scorer(model, network, load_head(network.head_file))


@pytest.fixture(scope="session")
def model(scorer) -> LoadedModel:
    model = LoadedModel(scorer)
    model.warm_up()
    return model


@pytest.fixture(scope="session")
def service(model) -> Iterator[ScoringService]:
    with ScoringService(model, ImageSettings(), LIMITS, num_cores=1) as service:
        yield service


Call = Callable[..., httpx.Response]


@pytest.fixture(scope="session")
def call() -> Callable[..., httpx.Response]:
    """Calls an application; `base_url` gives the header `Host`."""

    def call(
        app: Any, method: str, path: str, base_url: str = "http://127.0.0.1:8300", **options: Any
    ) -> httpx.Response:
        async def run() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url) as client:
                return await client.request(method, path, **options)

        return asyncio.run(run())

    return call


@pytest.fixture(scope="session")
def app(service):
    return make_app(service, None, only_loopback=True)


@pytest.fixture(scope="session")
def predict(call, app) -> Callable[..., httpx.Response]:
    """Sends files to `POST /predict`."""

    def predict(*contents: bytes, query: str = "", **options: Any) -> httpx.Response:
        files = [("images", (f"Schmidt {number}.png", content)) for number, content in enumerate(contents)]
        return call(app, "POST", f"/predict{query}", files=files, **options)

    return predict


@pytest.fixture(scope="session")
def stored(trained_workspace) -> tuple[pd.DataFrame, list[bytes]]:
    """Some images that trained, validated or tested the model, and their files."""
    workspace, _ = trained_workspace
    images = select_ready(read_manifest(workspace.manifest_file)).groupby("split").head(2).reset_index(drop=True)
    return images, [workspace.image_file(sha256).read_bytes() for sha256 in images["sha256"]]
