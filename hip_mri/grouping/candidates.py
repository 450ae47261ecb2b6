"""Finds pairs of images that may be copies, by their perceptual hashes, without comparing all pairs.

Two hashes that differ in few of their 256 bits agree in a whole band of 32 bits. So the bits are divided into eight
bands, and only hashes with an equal band are compared in full. This finds all pairs that differ in up to 7 bits. It is
repeated for four orders of the bits, which finds 99 % of the pairs that differ in 16 bits and 90 % of those in 20.

Source: multi-index hashing; Norouzi, Punjani, Fleet, "Fast exact search in Hamming space with multi-index hashing",
IEEE TPAMI 36:1107, 2014. The index of the same kind in FAISS, `IndexBinaryMultiHash`, returns all pairs of a crowd of
similar hashes, so its memory grows with the square of the crowd. For 20,000 images, HNSW indexes take 5 (FAISS) or 12
times (USearch) as long, and they guarantee no distance.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Self, cast

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

MAX_DISTANCE: Final = 26  # bits of 256
"""Largest distance of the hashes of a candidate pair."""

NUM_ORDERS: Final = 4
NUM_BANDS: Final = 8
MAX_NUM_STEPS: Final = 32
"""Neighbors in the order of a bucket, in each direction, with which a hash is compared. Thousands of near-blank images
may share a bucket; there, a hash is compared with those that agree most in the next band, and equal hashes with the
same few, which connects them."""

MAX_NUM_KEPT: Final = 12
"""Nearest images that are kept for each image and for its mirror image, and vice versa."""

_BITS_OF_BAND: Final = 32
_ROWS_AT_ONCE: Final = 8192
_IMAGE_BITS: Final = 32  # enough for the place of an image
_IMAGE_MASK: Final = (1 << _IMAGE_BITS) - 1
_MAX_NUM_CROPS: Final = 256


@dataclass(frozen=True)
class Candidates:
    """Pairs of images that may be copies, as arrays of one length.

    Attributes:
        query: Place of the image that may be a crop of the other.
        is_mirrored: Whether `query` must be mirrored to look like the other.
        image: Place of the other.
        crop: Place in `CROPS` of the crop of `image` that comes closest.
        distance: Bits in which the hashes differ.
    """

    query: NDArray[np.int64]
    is_mirrored: NDArray[np.bool_]
    image: NDArray[np.int64]
    crop: NDArray[np.int64]
    distance: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.query)

    def sort(self) -> Self:
        """Sort by distance, and keep the nearest comparison of each pair of images in each orientation."""
        low, high = np.minimum(self.query, self.image), np.maximum(self.query, self.image)
        order = np.lexsort((self.crop, self.query, self.distance, self.is_mirrored, high, low))
        chosen = order[_mark_first(low[order], high[order], self.is_mirrored[order])]
        chosen = chosen[np.argsort(self.distance[chosen], kind="stable")]
        return type(self)(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def find_candidates(hashes: NDArray[np.uint8], mirrored_hashes: NDArray[np.uint8], num_threads: int) -> Candidates:
    """Find images whose hash is near the hash of a crop of another image.

    Args:
        hashes: Hashes of the crops of each image, the first of the whole image; shape (images, crops, 32).
        mirrored_hashes: Hash of each whole image mirrored horizontally, shape (images, 32).
        num_threads: Threads, each of which handles some of the crops.

    Returns:
        Each pair of images once per orientation, sorted by distance. The same for the same hashes.
    """
    num_images, num_crops, _ = hashes.shape
    queries = np.concatenate([hashes[:, 0], mirrored_hashes])
    nearest, num_crowded = _NOTHING, 0
    for seed in range(NUM_ORDERS):
        buckets = _Buckets(queries, np.random.default_rng(seed).permutation(queries.shape[1] * 8))
        found = Parallel(n_jobs=num_threads, backend="threading")(
            delayed(buckets.match)(hashes[:, crop], crop) for crop in range(num_crops)
        )
        matches, crowded = zip(*cast("list[tuple[_Matches, int]]", found), strict=True)
        nearest, num_crowded = _keep_nearest(nearest, *matches), num_crowded + sum(crowded)
    if num_crowded:
        num_lookups = 2 * NUM_ORDERS * NUM_BANDS * num_crops * num_images
        logger.info(
            "%.2g %% of the lookups reached the limit of neighbors with similar hashes",
            100 * num_crowded / num_lookups,
        )
    is_mirrored, query = np.divmod(nearest.pair >> _IMAGE_BITS, max(num_images, 1))
    image, (distance, crop) = nearest.pair & _IMAGE_MASK, np.divmod(nearest.rank, _MAX_NUM_CROPS)
    return Candidates(query, is_mirrored.astype(bool), image, crop, distance).sort()


class _Matches(NamedTuple):
    """Queries and images whose hashes are near, packed into two arrays of one length for fast sorting."""

    pair: NDArray[np.int64]  # the query's place in the upper half, the image's in the lower
    rank: NDArray[np.int64]  # distance * _MAX_NUM_CROPS + crop


_NOTHING: Final = _Matches(np.empty(0, np.int64), np.empty(0, np.int64))


class _Buckets:
    """All queries, sorted by each of the eight bands.

    Args:
        queries: Hashes, shape (queries, 32).
        bit_order: A permutation of their bits.
    """

    def __init__(self, queries: NDArray[np.uint8], bit_order: NDArray[np.int64]) -> None:
        self._bit_order = bit_order
        self._queries = queries
        self._keys = self._cut_keys(queries)
        self._places = np.empty(self._keys.shape, np.int64)
        for band, keys in enumerate(self._keys):  # one by one, since each takes a copy
            self._places[band] = np.argsort(keys, kind="stable")
            self._keys[band] = keys[self._places[band]]
        self._num_images = len(queries) // 2

    def match(self, hashes: NDArray[np.uint8], crop: int) -> tuple[_Matches, int]:
        """Queries near the hashes of images, shape (images, 32), and the number of lookups that reached the limit."""
        hashes, nearest, num_crowded = np.ascontiguousarray(hashes), _NOTHING, 0
        for band, keys in enumerate(self._cut_keys(hashes)):
            images = np.argsort(keys, kind="stable")  # neighboring lookups read neighboring memory
            found = [nearest]
            for direction in (1, -1):
                for num_steps, (places, rows) in enumerate(self._walk(band, keys[images], direction), 1):
                    found.append(self._compare(self._places[band][places], images[rows], hashes, crop))
                    num_crowded += len(rows) if num_steps == MAX_NUM_STEPS else 0
            nearest = _keep_nearest(*found)
        return nearest, num_crowded

    def _cut_keys(self, hashes: NDArray[np.uint8]) -> NDArray[np.uint64]:
        """One key per band, shape (8, hashes): its bits above, those of the next band below."""
        keys = np.empty((NUM_BANDS, len(hashes)), np.uint64)
        for start in range(0, len(hashes), _ROWS_AT_ONCE):
            bits = np.take(np.unpackbits(hashes[start : start + _ROWS_AT_ONCE], axis=1), self._bit_order, axis=1)
            bands = np.packbits(bits, axis=1).view(">u4").astype(np.uint64).T
            keys[:, start : start + _ROWS_AT_ONCE] = bands << np.uint64(_BITS_OF_BAND) | np.roll(bands, -1, axis=0)
        return keys

    def _walk(self, band: int, keys: NDArray[np.uint64], direction: int) -> Iterator[tuple[NDArray, NDArray]]:
        """Step through the bucket of each key; yields places in the order and rows of `keys`."""
        order = self._keys[band]
        places = np.searchsorted(order, keys) - (direction < 0)
        rows = np.arange(len(keys))
        for _ in range(MAX_NUM_STEPS):
            is_inside = (places >= 0) & (places < len(order))
            places, rows = places[is_inside], rows[is_inside]
            is_equal = (order[places] ^ keys[rows]) >> np.uint64(_BITS_OF_BAND) == 0
            places, rows = places[is_equal], rows[is_equal]
            if not len(rows):
                return
            yield places, rows
            places = places + direction

    def _compare(
        self, queries: NDArray[np.int64], images: NDArray[np.int64], hashes: NDArray[np.uint8], crop: int
    ) -> _Matches:
        """Those of the pairs whose whole hashes are near."""
        differing = self._queries[queries].view(np.uint64) ^ hashes[images].view(np.uint64)
        distance = np.bitwise_count(differing).sum(axis=1, dtype=np.int64)
        is_near = (distance <= MAX_DISTANCE) & (queries % self._num_images != images)
        pair = queries[is_near] << _IMAGE_BITS | images[is_near]
        return _Matches(pair, distance[is_near] * _MAX_NUM_CROPS + crop)


def _keep_nearest(*matches: _Matches) -> _Matches:
    """Keep the nearest images of each query and the nearest queries of each image, every pair once."""
    pair, rank = (np.concatenate(arrays) for arrays in zip(*matches, strict=True))
    order = np.lexsort((rank, pair))
    order = order[_mark_first(pair[order])]
    pair, rank = pair[order], rank[order]
    is_kept = _mark_nearest(pair >> _IMAGE_BITS, rank) | _mark_nearest(pair & _IMAGE_MASK, rank)
    return _Matches(pair[is_kept], rank[is_kept])


def _mark_nearest(group: NDArray[np.int64], rank: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the `MAX_NUM_KEPT` members of lowest rank in each group, the first of equal ones."""
    order = np.lexsort((rank, group))
    starts = np.flatnonzero(_mark_first(group[order]))
    number = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    is_nearest = np.empty(len(order), bool)
    is_nearest[order] = number < MAX_NUM_KEPT
    return is_nearest


def _mark_first(*columns: NDArray) -> NDArray[np.bool_]:
    """Mark the rows that differ from the row before in any column."""
    is_first = np.ones(len(columns[0]), bool)
    is_first[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return is_first
