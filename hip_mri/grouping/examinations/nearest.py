"""Joins runs without the evidence of a common order: each with the one that is nearest, and vice versa.

The nearest of many strangers can be near by chance, so the expected number of strangers that are as near is bounded.
"""

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr

from hip_mri.grouping.examinations.distances import MAX_COMPARED, NUM_STRANGERS, describe_strangers, measure_runs
from hip_mri.grouping.examinations.images import UNKNOWN, ComparableImages, Run, spread, tabulate_joins

MAX_STRANGERS_ORDERED, MAX_STRANGERS_UNORDERED = 0.01, 0.2
"""Expected number of strangers that are as near, up to which two runs are joined. More are allowed for images without
an order, for which there is no other evidence: a missed join leaks, a false one costs a group. The number is halved
from round to round, so that chains of strangers stay short."""

MIN_NUM_RUNS: Final = 10
"""Runs from which the nearest are searched; fewer do not show how near strangers are."""

MAX_REPRESENTATIVES: Final = 4
"""Images of a run whose nearest images are searched, evenly spaced."""

MAX_NUM_ROUNDS: Final = 10
"""Rounds in which images without an order are joined; each can double the size of a group."""

ROWS_PER_BLOCK: Final = 2048


def join_nearest(images: ComparableImages, runs: list[Run], generator: np.random.Generator) -> pd.DataFrame:
    """Join runs of different sequences, and, round by round, runs without an order.

    Args:
        images: Descriptors, order and known patients.
        runs: Runs of neighbors, or single images.
        generator: Draws the strangers that runs are compared with.

    Returns:
        One join for each pair of runs, between their nearest images; columns of `JOIN_COLUMNS`.
    """
    joins = []
    for number in range(MAX_NUM_ROUNDS):
        sequence = np.array([images.sequence[run[0]] for run in runs])
        found = _find_reciprocal_pairs(images, runs, sequence, number, generator)
        joins += [
            (*_find_nearest_images(images, runs[first], runs[second]), certainty) for first, second, certainty in found
        ]
        runs = _merge(runs, found)
        if not found or (number == 0 and not (sequence == UNKNOWN).any()):
            break
    first, second, certainty = zip(*joins, strict=True) if joins else ((), (), ())
    return tabulate_joins(first, second, "features", certainty)


def _find_reciprocal_pairs(
    images: ComparableImages,
    runs: list[Run],
    sequence: NDArray[np.int64],
    round_number: int,
    generator: np.random.Generator,
) -> list[tuple[int, int, float]]:
    """Pairs of runs that are each other's nearest, with the certainty that they are of one examination."""
    if len(runs) < MIN_NUM_RUNS:
        return []
    scale = np.array([_score_strangers(images, runs, number, generator) for number in range(len(runs))])
    best = [(np.inf, -1)] * len(runs)
    for first, second in _list_candidates(images, runs, sequence):
        if images.of_two_patients(runs[first], runs[second]):
            continue
        root = np.cbrt(measure_runs(images, runs[first], runs[second]))
        score = float(((root - scale[[first, second], 0]) / scale[[first, second], 1]).max())
        for run, other in ((first, second), (second, first)):
            best[run] = min(best[run], (score, other))
    found = []
    for run, (score, other) in enumerate(best):
        num_strangers = float(ndtr(score)) * len(runs)
        is_ordered = other >= 0 and UNKNOWN not in (sequence[run], sequence[other])
        max_strangers = (MAX_STRANGERS_ORDERED if is_ordered else MAX_STRANGERS_UNORDERED) / 2**round_number
        if run < other and best[other][1] == run and num_strangers <= max_strangers:
            found.append((run, other, 1 / (1 + num_strangers)))
    return found


def _score_strangers(
    images: ComparableImages, runs: list[Run], number: int, generator: np.random.Generator
) -> tuple[float, float]:
    """Center and deviation of the cube roots of the distances of a run to others, most of which are strangers."""
    others = generator.choice(len(runs) - 1, min(NUM_STRANGERS, len(runs) - 1), replace=False)
    others += others >= number
    return describe_strangers([measure_runs(images, runs[number], runs[other]) for other in others])


def _list_candidates(images: ComparableImages, runs: list[Run], sequence: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pairs of runs of which one holds the image that is nearest to an image of the other."""
    chosen = [spread(run, MAX_REPRESENTATIVES) for run in runs]
    position = np.concatenate(chosen)
    owner = np.repeat(np.arange(len(runs)), [len(run) for run in chosen])
    points = images.points[position]
    squares = np.einsum("ij,ij->i", points, points)
    pairs = set()
    for start in range(0, len(points), ROWS_PER_BLOCK):
        block = slice(start, start + ROWS_PER_BLOCK)
        nearest, smallest = np.full(len(points[block]), UNKNOWN), np.full(len(points[block]), np.inf)
        for other_start in range(0, len(points), 16 * ROWS_PER_BLOCK):
            others = slice(other_start, other_start + 16 * ROWS_PER_BLOCK)
            distances = squares[others] - 2 * points[block] @ points[others].T
            is_same_order = sequence[owner[block]][:, None] == sequence[owner[others]]
            is_same_order &= sequence[owner[others]] != UNKNOWN
            distances[is_same_order | (owner[block][:, None] == owner[others])] = np.inf
            column = distances.argmin(axis=1)
            found = distances[np.arange(len(distances)), column]
            is_nearer = found < smallest
            nearest[is_nearer], smallest[is_nearer] = owner[others][column[is_nearer]], found[is_nearer]
        ends = np.sort(np.stack([owner[block], nearest], axis=1)[nearest != UNKNOWN], axis=1)
        pairs.update(map(tuple, np.unique(ends, axis=0).tolist()))
    return sorted(pairs)


def _find_nearest_images(images: ComparableImages, first: Run, second: Run) -> tuple[int, int]:
    """Positions of the images of two runs that are nearest to each other."""
    ends = spread(first, MAX_COMPARED), spread(second, MAX_COMPARED)
    differences = images.points[ends[0]][:, None] - images.points[ends[1]]
    row, column = np.unravel_index((differences**2).sum(axis=2).argmin(), differences.shape[:2])
    return int(ends[0][row]), int(ends[1][column])


def _merge(runs: list[Run], pairs: list[tuple[int, int, float]]) -> list[Run]:
    merged = {first: np.sort(np.concatenate([runs[first], runs[second]])) for first, second, _ in pairs}
    gone = {second for _, second, _ in pairs}
    return [merged.get(number, run) for number, run in enumerate(runs) if number not in gone]
