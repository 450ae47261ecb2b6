"""Files of weights and networks with random changes are loaded or rejected with a `WeightsError`.

Changed numbers are loaded; only the hash of a file detects them (fault 66).
"""

import random
import zipfile
from dataclasses import replace

import h5py
import keras
import pytest

from hip_mri.config import ARCHITECTURES, HeadDesign
from hip_mri.errors import WeightsError
from hip_mri.models.backbones import weights
from hip_mri.models.backbones.hdf5_checks import count_parameters
from hip_mri.models.heads.head import build_head
from hip_mri.models.loading import load_head
from tests.models.saved_files import change

NUM_CHANGED_FILES = 100
EXTREME_NUMBERS = (0, 1, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
"""Limits of integer types."""

pytestmark = pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras, before it refuses the layer


@pytest.fixture(scope="module")
def head() -> keras.Model:
    return build_head(2048, HeadDesign("dense", 4), seed=0)


def change_bytes(content: bytes, seed: int) -> bytes:
    """A copy with a few bits flipped or numbers written over, cut off now and then."""
    generator = random.Random(seed)
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 16))):
        place = generator.randrange(len(changed))
        if generator.random() < 0.7:
            changed[place] ^= 1 << generator.randrange(8)
        else:
            width = min(generator.choice((1, 2, 4, 8)), len(changed) - place)
            changed[place : place + width] = (generator.choice(EXTREME_NUMBERS) % 2 ** (8 * width)).to_bytes(
                width, "little"
            )
    return bytes(changed[: generator.randrange(len(changed))] if generator.random() < 0.05 else changed)


def test_fault_65_weights_of_any_damage_are_checked_or_refused(head, tmp_path, monkeypatch):
    sound, file = tmp_path / "sound.weights.h5", tmp_path / "x.weights.h5"
    head.save_weights(sound)
    with h5py.File(sound) as content:
        small = replace(ARCHITECTURES["ResNet50"], num_parameters=count_parameters(content))
    monkeypatch.setitem(ARCHITECTURES, "ResNet50", small)
    rejected: list[str] = []
    for seed in range(NUM_CHANGED_FILES):
        file.write_bytes(change_bytes(sound.read_bytes(), seed))
        try:
            weights.resolve_weights(str(file), "ResNet50", fall_back_to_random=False)
        except WeightsError as error:
            rejected.append(str(error))
    assert 0 < len(rejected) < NUM_CHANGED_FILES
    assert all(message.startswith("model.weights: ") for message in rejected)


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_fault_65_networks_of_any_damage_are_loaded_or_refused(head, tmp_path, packing):
    head.save(tmp_path / "sound.keras")
    file = change(tmp_path / "sound.keras", tmp_path / "x.keras", packing)
    content = file.read_bytes()
    rejected: list[str] = []
    for seed in range(NUM_CHANGED_FILES // 2):
        file.write_bytes(change_bytes(content, seed))
        try:
            load_head(file)
        except WeightsError as error:
            rejected.append(str(error))
    assert rejected
    assert all(message.startswith("model") for message in rejected)
