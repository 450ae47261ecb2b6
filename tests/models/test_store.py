"""Features on disk: stored rows are found, and only those."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hip_mri.errors import WorkspaceError
from hip_mri.models.store import FeatureStore

NUM_FEATURES = 5


def make_keys(count: int, *, mirrored: bool = False) -> pd.DataFrame:
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]
    return pd.DataFrame({"sha256": hashes, "mirrored": mirrored})


def make_features(keys: pd.DataFrame) -> np.ndarray:
    """Rows that are determined by their keys."""
    numbers = [int(sha256[:6], 16) + mirrored for sha256, mirrored in keys.itertuples(index=False)]
    return np.outer(numbers, np.ones(NUM_FEATURES)).astype(np.float32)


def test_rows_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    store, keys, mirrored = FeatureStore(tmp_path), make_keys(40), make_keys(40, mirrored=True)
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
    store, keys = FeatureStore(tmp_path), make_keys(30)
    assert len(store.find_missing(keys)) == 30
    store.add(keys[:12], make_features(keys[:12]))
    missing = store.find_missing(pd.concat([keys, make_keys(3, mirrored=True)]))
    assert set(missing["sha256"][~missing["mirrored"].astype(bool)]) == set(keys["sha256"][12:])
    assert missing["mirrored"].sum() == 3


def test_part_without_index_does_not_count(tmp_path: Path) -> None:
    """State after a kill between the two files."""
    store, keys = FeatureStore(tmp_path), make_keys(4)
    store.add(keys, make_features(keys))
    next(tmp_path.glob("*.parquet")).unlink()
    assert len(store.find_missing(keys)) == 4
    with pytest.raises(WorkspaceError, match="4 of 4 rows"):
        store.select(keys["sha256"], mirrored=False)
    store.add(keys, make_features(keys))
    assert store.find_missing(keys).empty


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    keys = make_keys(2)
    with pytest.raises(WorkspaceError, match="not finite"):
        FeatureStore(tmp_path).add(keys, np.full((2, 3), np.nan, np.float32))
    assert not list(tmp_path.iterdir())
