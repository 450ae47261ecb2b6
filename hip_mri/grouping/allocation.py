"""Allocates whole groups to splits, so that the classes are as near to their fractions as possible."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import SPLITS

MAX_NUM_STEPS: Final = 2000
"""Upper limit of the steps of the search, which normally converges long before."""

MAX_NUM_KINDS: Final = 400
"""Number of kinds of groups up to which exchanges of two groups are tried besides moves of one."""


def allocate_groups(
    sizes: pd.DataFrame, fractions: Mapping[str, float], seed: int, fixed: pd.DataFrame | None = None
) -> pd.Series:
    """Draw the split of each group.

    Groups are sorted by a hash of the seed and their name, and fill the splits one after the other. Then single groups
    are moved, and pairs exchanged, as long as that brings the splits nearer to their fractions. The search does not
    distinguish groups of the same composition, its kind; their order decides which of them moves.

    Args:
        sizes: Images of each class in each group; index: name of the group, one column per class.
        fractions: Fraction of all images of a class by split; a split without one gets no images.
        seed: Seed of the random choice.
        fixed: Number of images by class (columns) that each split (index) already has.

    Returns:
        The split of each group, in the order of `sizes`.
    """
    before = np.zeros((len(SPLITS), sizes.shape[1]))
    if fixed is not None:
        before = fixed.reindex(index=list(SPLITS), columns=sizes.columns, fill_value=0).to_numpy(float)
    if sizes.empty:
        return pd.Series([], index=sizes.index, dtype="str")
    fraction = np.array([fractions.get(split, 0.0) for split in SPLITS])
    order = np.argsort([_draw(seed, str(name)) for name in sizes.index], kind="stable")
    counts = sizes.to_numpy(float)[order]
    target = fraction[:, None] * (before.sum(axis=0) + counts.sum(axis=0))
    kinds, kind_of_group = np.unique(counts, axis=0, return_inverse=True)
    place = _fill(counts, target - before, fraction > 0)
    held = np.zeros((len(SPLITS), len(kinds)), np.int64)
    np.add.at(held, (place, kind_of_group), 1)
    wanted = _improve(held.copy(), kinds, before, target, fraction > 0)
    _fill_empty(wanted, kinds, before, fraction > 0)
    wanted = _improve(wanted, kinds, before, target, fraction > 0)
    splits = np.empty(len(counts), dtype=object)
    for kind in range(len(kinds)):
        members = np.flatnonzero(kind_of_group == kind)
        splits[order[members]] = _settle(place[members], wanted[:, kind])
    return pd.Series(splits, index=sizes.index, dtype="str")


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()


def _fill(counts: NDArray, open_places: NDArray, may_take: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Allocate each group to val or test, whichever first has room for all of it, the rest to train."""
    room = open_places.copy()
    place = np.zeros(len(counts), np.int64)
    held_out = [split for split in range(1, len(SPLITS)) if may_take[split]]
    for number, group in enumerate(counts):
        for split in held_out:
            if (group <= room[split]).all():
                place[number] = split
                room[split] -= group
                break
    return place


def _improve(
    held: NDArray[np.int64], kinds: NDArray, before: NDArray, target: NDArray, may_take: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Move and exchange kinds of groups between splits while the deviation falls; shape (splits, kinds).

    No step takes the last image of a class out of a split.
    """
    weight = 1 / np.maximum(target.sum(axis=0), 1) ** 2  # deviations are relative to the size of the class
    steps = _list_steps(kinds)
    for _ in range(MAX_NUM_STEPS):
        counts = before + held @ kinds
        error = counts - target
        best, best_gain = None, 1e-12
        for source in np.flatnonzero(may_take):
            for sink in np.flatnonzero(may_take):
                if source == sink:
                    continue
                there, back, change = steps
                # sum of squares falls by -2 d(e_sink - e_source) - 2 d^2 when d goes from source to sink
                gain = (-2 * change * (error[sink] - error[source]) - 2 * change**2) @ weight
                possible = (held[source, there] > 0) & ((back < 0) | (held[sink, back] > 0))
                for split, left in ((source, counts[source] - change), (sink, counts[sink] + change)):
                    possible &= ((left > 0) | (counts[split] == 0)).all(axis=1)
                gain = np.where(possible, gain, -np.inf)
                choice = int(gain.argmax())
                if gain[choice] > best_gain:
                    best, best_gain = (source, sink, there[choice], back[choice]), gain[choice]
        if best is None:
            break
        source, sink, there_kind, back_kind = best
        held[source, there_kind] -= 1
        held[sink, there_kind] += 1
        if back_kind >= 0:
            held[sink, back_kind] -= 1
            held[source, back_kind] += 1
    return held


def _fill_empty(held: NDArray[np.int64], kinds: NDArray, before: NDArray, may_take: NDArray[np.bool_]) -> None:
    """Move the smallest possible group into a split that lacks a class, without emptying another one; in place."""
    for label in range(kinds.shape[1]):
        for split in np.flatnonzero(may_take & ((before + held @ kinds)[:, label] == 0)):
            counts = before + held @ kinds
            can_spare = (held > 0) & ((counts[:, None, :] - kinds > 0) | (kinds == 0)).all(axis=2)
            fitting = [kind for kind in np.flatnonzero(kinds[:, label]) if can_spare[:, kind].any()]
            if fitting:
                kind = min(fitting, key=lambda kind: kinds[kind].sum())
                held[np.flatnonzero(can_spare[:, kind])[0], kind] -= 1
                held[split, kind] += 1


def _list_steps(kinds: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray]:
    """All moves of a kind and exchanges of two: the kind that goes, the one that returns (-1: none), the difference."""
    number = np.arange(len(kinds))
    there, back = number, np.full(len(kinds), -1)
    if len(kinds) <= MAX_NUM_KINDS:
        first, second = (grid.ravel() for grid in np.meshgrid(number, number, indexing="ij"))
        there = np.concatenate([there, first[first != second]])
        back = np.concatenate([back, second[first != second]])
    returned = np.where((back >= 0)[:, None], kinds[back], 0.0)
    return there, back, kinds[there] - returned


def _settle(place: NDArray[np.int64], wanted: Sequence[int] | NDArray[np.int64]) -> NDArray:
    """Move the last groups of one kind so that each split has the wanted number of them."""
    place = place.copy()
    surplus = np.bincount(place, minlength=len(SPLITS)) - np.asarray(wanted)
    free = np.concatenate(
        [np.flatnonzero(place == split)[-over:] for split, over in enumerate(surplus) if over > 0] or [[]]
    )
    takers = np.repeat(np.arange(len(SPLITS)), np.maximum(-surplus, 0))
    place[free.astype(int)] = takers
    return np.array(SPLITS, dtype=object)[place]
