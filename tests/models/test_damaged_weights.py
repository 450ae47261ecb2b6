"""Weights and networks with bytes changed at random: they are loaded or refused, with an error for the user.

A bounded sample. Changed numbers are loaded: only the hash of a file can tell them, and does (fault 66).
"""

import random
import zipfile
from pathlib import Path

import h5py
import keras
import pytest

from hip_mri.errors import WeightsError
from hip_mri.models.backbones import weights
from hip_mri.models.head import build_head
from hip_mri.models.saved import load_head

NUM_CHANGED_FILES = 100
TELLING = (0, 1, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
"""Numbers at which programs go wrong."""

pytestmark = pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras, before it refuses the layer


@pytest.fixture(scope="module")
def head() -> keras.Model:
    return build_head(4, seed=0)


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
            changed[place : place + width] = (generator.choice(TELLING) % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(changed[: generator.randrange(len(changed))] if generator.random() < 0.05 else changed)


def test_fault_65_weights_of_any_damage_are_checked_or_refused(head, tmp_path, monkeypatch):
    sound, file = tmp_path / "sound.weights.h5", tmp_path / "x.weights.h5"
    head.save_weights(sound)
    with h5py.File(sound) as content:
        monkeypatch.setitem(weights.NUM_PARAMETERS, "ResNet50", weights._count_parameters(content))
    refused: list[str] = []
    for seed in range(NUM_CHANGED_FILES):
        file.write_bytes(change_bytes(sound.read_bytes(), seed))
        try:
            weights.resolve_weights(str(file), "ResNet50", fall_back_to_random=False)
        except WeightsError as error:
            refused.append(str(error))
    assert 0 < len(refused) < NUM_CHANGED_FILES
    assert all(message.startswith("model.weights: ") for message in refused)


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_fault_65_networks_of_any_damage_are_loaded_or_refused(head, tmp_path, packing):
    head.save(tmp_path / "sound.keras")
    file: Path = tmp_path / "x.keras"
    with zipfile.ZipFile(tmp_path / "sound.keras") as sound, zipfile.ZipFile(file, "w", packing) as packed:
        for name in sound.namelist():
            packed.writestr(name, sound.read(name))
    content = file.read_bytes()
    refused: list[str] = []
    for seed in range(NUM_CHANGED_FILES // 2):
        file.write_bytes(change_bytes(content, seed))
        try:
            load_head(file)
        except WeightsError as error:
            refused.append(str(error))
    assert refused
    assert all(message.startswith("model") for message in refused)
