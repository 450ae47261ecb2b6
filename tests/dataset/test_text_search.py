"""The search of a workspace's images for text, with a stand-in for the networks that read."""

import numpy as np
import pandas as pd

from hip_mri.dataset.manifest import read_manifest
from hip_mri.dataset.text_search import TEXT_COLUMNS, find_images_with_text
from hip_mri.images.burned_in_text import TextBox
from hip_mri.images.stored_png import hash_pixels


class Finder:
    """Finds text in images of certain hashes, and remembers what it searched."""

    def __init__(self, *hashes: str) -> None:
        self.hashes, self.searched = set(hashes), []

    def __call__(self, levels: np.ndarray) -> list[TextBox]:
        self.searched.append(hash_pixels(levels))
        return [TextBox(1, 2, 30, 8, 0.91)] * 2 if self.searched[-1] in self.hashes else []


def test_images_with_text_are_listed_and_reported(filled, caplog):
    manifest = read_manifest(filled.manifest_file)
    finder = Finder(manifest["sha256"][3], manifest["sha256"][5])
    assert find_images_with_text(filled, 2, find=finder) == 2
    assert sorted(finder.searched) == sorted(manifest["sha256"])
    table = pd.read_csv(filled.text_file)
    assert tuple(table.columns) == TEXT_COLUMNS
    assert set(table.loc[table["num_places"] == 2, "sha256"]) == finder.hashes
    assert f"2 of {len(manifest)} images have text" in caplog.text


def test_an_image_is_searched_once(filled):
    first, second = Finder(read_manifest(filled.manifest_file)["sha256"][0]), Finder()
    find_images_with_text(filled, 1, find=first)
    assert find_images_with_text(filled, 1, find=second) == 1
    assert second.searched == []


def test_a_damaged_table_is_made_anew(filled):
    filled.text_file.write_text("nonsense")
    finder = Finder()
    assert find_images_with_text(filled, 1, find=finder) == 0
    assert len(finder.searched) == len(pd.read_csv(filled.text_file))
