"""Rows on disk: stored rows are found, and only those."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hip_mri.dataset.row_store import RowStore
from hip_mri.errors import WorkspaceError

NUM_FEATURES = 5


def make_keys(count: int, *, mirrored: bool = False) -> pd.DataFrame:
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]
    return pd.DataFrame({"sha256": hashes, "mirrored": mirrored})


def make_features(keys: pd.DataFrame) -> np.ndarray:
    """Rows that are determined by their keys."""
    numbers = [int(sha256[:6], 16) + mirrored for sha256, mirrored in keys.itertuples(index=False)]
    return np.outer(numbers, np.ones(NUM_FEATURES)).astype(np.float32)


def test_rows_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    store, keys, mirrored = RowStore(tmp_path), make_keys(40), make_keys(40, mirrored=True)
    for start in range(0, 40, 10):
        part = pd.concat([keys[start : start + 10], mirrored[start : start + 10]])
        store.add(part, make_features(part))
    shuffled = keys.sample(frac=1, random_state=1)
    rows = store.select(shuffled["sha256"], mirrored=False)
    np.testing.assert_array_equal(rows[np.arange(40)], make_features(shuffled))
    np.testing.assert_array_equal(rows[np.array([7, 3, 7])], make_features(shuffled)[[7, 3, 7]])
    flipped = store.select(shuffled["sha256"], mirrored=True)
    np.testing.assert_array_equal(flipped[np.arange(40)], make_features(shuffled.assign(mirrored=True)))


def test_missing_rows_are_those_not_added(tmp_path: Path) -> None:
    store, keys = RowStore(tmp_path), make_keys(30)
    assert len(store.find_missing(keys)) == 30
    store.add(keys[:12], make_features(keys[:12]))
    missing = store.find_missing(pd.concat([keys, make_keys(3, mirrored=True)]))
    assert set(missing["sha256"][~missing["mirrored"].astype(bool)]) == set(keys["sha256"][12:])
    assert missing["mirrored"].sum() == 3


def test_part_without_index_does_not_count(tmp_path: Path) -> None:
    """State after a kill between the two files."""
    store, keys = RowStore(tmp_path), make_keys(4)
    store.add(keys, make_features(keys))
    next(tmp_path.glob("*.parquet")).unlink()
    assert len(store.find_missing(keys)) == 4
    with pytest.raises(WorkspaceError, match="4 of 4 rows"):
        store.select(keys["sha256"], mirrored=False)
    store.add(keys, make_features(keys))
    assert store.find_missing(keys).empty


def test_one_field_of_rows_is_read(tmp_path: Path) -> None:
    keys = make_keys(6)
    values = np.zeros(6, [("number", np.int64), ("name", "S3")])
    values["number"], values["name"] = np.arange(6), [b"n%d" % number for number in range(6)]
    for part in (slice(0, 4), slice(4, 6)):
        RowStore(tmp_path).add(keys[part], values[part])
    rows = RowStore(tmp_path).select(keys["sha256"][::-1], mirrored=False)
    np.testing.assert_array_equal(rows[:], values[::-1])
    np.testing.assert_array_equal(replace(rows, field="number")[np.array([0, 5, 0])], [5, 0, 5])


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize("damage", [b"", b"no array", b"\x93NUMPY\x01\x00", None])
def test_a_damaged_part_is_missing(tmp_path: Path, suffix: str, damage: bytes | None) -> None:
    store, keys = RowStore(tmp_path), make_keys(4)
    store.add(keys, make_features(keys))
    (part,) = tmp_path.glob(f"*{suffix}")
    part.write_bytes(part.read_bytes()[:-1] if damage is None else damage)
    assert len(store.find_missing(keys)) == 4


def test_no_images_have_no_rows(tmp_path: Path) -> None:
    store, keys = RowStore(tmp_path), make_keys(4)
    store.add(keys, make_features(keys))
    assert store.find_missing(keys[:0]).empty
    assert len(store.select(keys["sha256"][:0], mirrored=False)) == 0
