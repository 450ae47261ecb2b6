"""Memory per image: one row of a table and one entry of the archive's directory, without copies."""

import hashlib
import tracemalloc

import pytest

from hip_mri.dataset import entries
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import ingest_images
from hip_mri.images.decoding_results import EncodedPicture
from hip_mri.images.sandbox import Sandbox
from hip_mri.workspace import Workspace
from tests.benchmarks.load import write_zip

MAX_BYTES_PER_IMAGE = 1100
"""Python's own, at the worst moment; what Arrow holds of the tables comes on top, a few hundred bytes."""


def encode(sandbox: Sandbox, content: bytes) -> list[EncodedPicture]:
    """Stands in for decoding, which takes place in other processes."""
    return [EncodedPicture(hashlib.sha256(content).hexdigest(), content)]


@pytest.fixture
def peak_of(tmp_path, monkeypatch):
    """Ingests so many small images and prints the peak of the bytes that Python held."""
    monkeypatch.setattr(Sandbox, "encode", encode)
    monkeypatch.setattr(entries, "write_small_file", lambda file, content: None)
    # Python keeps the names of new paths in one table for the process, which grows by megabytes at some time.
    monkeypatch.setattr(Workspace, "image_file", lambda workspace, sha256: tmp_path)
    monkeypatch.setattr(entries, "ENTRIES_PER_BATCH", 256)

    def measure(num_images: int) -> int:
        file = write_zip(tmp_path / f"{num_images}.zip", num_images)
        workspace = Workspace(tmp_path / f"workspace-{num_images}")
        workspace.prepare()
        tracemalloc.start()
        try:
            ingest_images([Delivery("source", file)], workspace, 1)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure


def test_ingest_holds_little_of_each_image(peak_of):
    peak_of(100)  # what is imported and made once
    few, many = peak_of(1000), peak_of(4000)
    assert (many - few) / 3000 < MAX_BYTES_PER_IMAGE
