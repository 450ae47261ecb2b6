"""Groups are not divided, and the split fractions are as close as that allows."""

import itertools
import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hip_mri.config import LABELS, SPLITS
from hip_mri.grouping.allocation import allocate_groups

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
SIZES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(any), min_size=3, max_size=60)
quick = settings(max_examples=60, deadline=None, database=None)


def tabulate(sizes) -> pd.DataFrame:
    return pd.DataFrame(list(sizes), columns=list(LABELS), index=[f"g{number:04d}" for number in range(len(sizes))])


def measure(sizes: pd.DataFrame, splits: pd.Series, shares=SHARES) -> float:
    """Sum of squared differences of the shares of each class, over the splits."""
    found = sizes.groupby(splits).sum().reindex(list(SPLITS), fill_value=0) / sizes.sum().clip(lower=1)
    wanted = pd.Series(shares).reindex(list(SPLITS))
    return float(found.loc[:, sizes.sum() > 0].sub(wanted, axis="index").pow(2).to_numpy().sum())


@quick
@given(SIZES, st.integers(0, 2**32 - 1))
def test_each_group_gets_one_split_whatever_the_order(sizes, seed):
    table = tabulate(sizes)
    splits = allocate_groups(table, SHARES, seed)
    assert list(splits.index) == list(table.index)
    assert set(splits) <= set(SPLITS)
    turned = allocate_groups(table.iloc[::-1], SHARES, seed)
    assert splits.to_dict() == turned.to_dict()


@settings(max_examples=40, deadline=None, database=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(any), min_size=6, max_size=7), st.integers(0, 99)
)
def test_the_division_is_near_the_best_of_all(sizes, seed):
    table = tabulate(sizes)
    present = table.loc[:, table.sum() > 0].to_numpy()
    places = np.eye(3)[list(itertools.product(range(3), repeat=len(table)))]  # (divisions, groups, splits)
    counts = np.einsum("dgs,gc->dsc", places, present)
    complete = (counts > 0).all(axis=(1, 2))
    found = allocate_groups(table, SHARES, seed)
    if complete.any():
        assert set(found) == set(SPLITS)
        wanted = np.array(list(SHARES.values()))[:, None]
        squares = ((counts[complete] / present.sum(axis=0) - wanted) ** 2).sum(axis=(1, 2))
        # A search by single moves and exchanges can stop before the optimum; a few large groups are the hardest case.
        assert math.sqrt(measure(table, found)) <= math.sqrt(squares.min()) + 0.35


@pytest.mark.parametrize("seed", range(5))
def test_skewed_groups_come_within_one_image(seed):
    """Sizes as patients have them: many of a few slices, some of a hundred."""
    generator = np.random.default_rng(seed)
    size = np.minimum(1 + generator.pareto(1.2, 800).astype(int) * 2, 100)
    is_lesion = generator.random(800) < 0.15
    table = tabulate(np.stack([size * ~is_lesion + is_lesion, size * is_lesion], axis=1).tolist())
    found = table.groupby(allocate_groups(table, SHARES, seed)).sum().reindex(list(SPLITS))
    wanted = np.outer(list(SHARES.values()), table.sum())
    assert np.abs(found.to_numpy() - wanted).max() < 1


def test_equal_groups_are_drawn_alike():
    """Over many seeds, each of a set of like groups is tested as often as the share says."""
    table, num_seeds = tabulate([(1, 0)] * 20), 400
    tested = Counter(
        name
        for seed in range(num_seeds)
        for name, split in allocate_groups(table, {"train": 0.6, "val": 0.2, "test": 0.2}, seed).items()
        if split == "test"
    )
    five_deviations = 5 * math.sqrt(num_seeds * 0.2 * 0.8)
    assert all(abs(tested[name] - num_seeds * 0.2) < five_deviations for name in table.index)


def test_what_is_there_counts():
    fixed = pd.DataFrame([[70, 70], [0, 0], [15, 15]], index=list(SPLITS), columns=list(LABELS))
    splits = allocate_groups(tabulate([(1, 0)] * 15 + [(0, 1)] * 15), SHARES, 3, fixed)
    assert set(splits) == {"val"}


def test_a_split_with_fraction_zero_is_empty():
    splits = allocate_groups(tabulate([(1, 1)] * 30), {"train": 0.8, "val": 0.2, "test": 0}, 3)
    assert Counter(splits) == {"train": 24, "val": 6}


def test_no_groups_are_no_problem():
    assert allocate_groups(tabulate([(1, 1)]).iloc[:0], SHARES, 3).empty
