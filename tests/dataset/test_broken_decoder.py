"""Decoders that crash, hang or take all memory cost one image each, and the others are used."""

import pytest

from hip_mri.config import PreprocessingSettings
from hip_mri.dataset import entries as entries_module
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import ingest_images
from hip_mri.dataset.pseudonyms import read_named_manifest
from hip_mri.images.decoding_results import ReadingOptions
from hip_mri.images.sandbox import Sandbox
from hip_mri.serving import prediction_inputs
from tests.dataset.batches import read_batch
from tests.images.test_sandbox import COMMAND


@pytest.fixture
def breakable(monkeypatch):
    """Both places that read unknown files get a decoder that breaks on demand."""

    def make(options: ReadingOptions) -> Sandbox:
        return Sandbox(options, timeout_seconds=1.0, command=COMMAND)

    monkeypatch.setattr(entries_module, "Sandbox", make)
    monkeypatch.setattr(prediction_inputs, "Sandbox", make)


BROKEN = {"normal/crash.png": b"crash", "osseous_lesion/hang.png": b"hang", "normal/memory.png": b"memory"}
REASONS = {
    "normal/crash.png": "decoder_crashed",
    "osseous_lesion/hang.png": "decoder_hung",
    "normal/memory.png": "out_of_memory",
}


def test_fault_51_ingest_continues(breakable, entries, pack, workspace):
    report = ingest_images([Delivery("source", pack({**BROKEN, **entries}))], workspace, num_threads=2)
    assert (report.num_images, report.num_quarantined) == (len(entries), 3)
    manifest = read_named_manifest(workspace).set_index("source_name")
    assert manifest["reason"][manifest["reason"] != ""].to_dict() == REASONS


def test_fault_51_prediction_continues(breakable, entries, pack, workspace):
    settings = PreprocessingSettings(image_size=32)
    report = prediction_inputs.ingest_inputs(pack({**BROKEN, **entries}), workspace, settings, num_threads=2)
    assert (report.num_images, report.num_unreadable) == (len(entries), 3)
    batch = read_batch(workspace)
    assert batch["reason"][batch["reason"] != ""].to_dict() == REASONS
