"""Finds images that are copies of one another, so that no copy of a training image is in the test set.

Perceptual hashes alone do not decide: of ten thousand pairs of different patients, one has closer hashes than many a
cropped copy and its original. So they give candidates only, each of which is confirmed by aligning the thumbnails and
correlating the detail between coarse shading and pixel noise.
"""

import logging
from collections.abc import Sequence
from typing import Final, cast

import cv2
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray

from hip_mri.dataset.row_store import StoredRows
from hip_mri.grouping.candidates import Candidates, find_candidates
from hip_mri.grouping.fingerprints import CROPS, THUMBNAIL_SIZE, StoredFingerprints, read_fingerprints
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

MIN_CORRELATION: Final = 0.965
"""Correlation from which two images are copies. Measured on 8,379 copies of phantoms (scaled, mirrored, brighter,
re-encoded, cropped by up to 3 % per side, all at once) and on the most similar of 2,800 phantom patients: the lowest
value of a copy is 0.975, the highest of two patients is 0.949. The threshold is the middle of both after Fisher's z
transform."""

_COARSE, _FINE = 2.0, 1.0  # standard deviations of the two blurs, pixels of the thumbnail
_BORDER: Final = 3  # pixels beside the overlap that the blurs reach from outside
_MIN_OVERLAP: Final = 0.5  # fraction of the thumbnail
_MAX_SLANT: Final = 0.05  # of the axes after alignment; a crop turns nothing
_MAX_SCALE_CHANGE: Final = 0.12  # crops by 3 % per side scale by 0.94 along each axis
_STOP: Final = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-3)
_EVERYWHERE: Final = np.ones((THUMBNAIL_SIZE, THUMBNAIL_SIZE), np.uint8)
_PAIRS_AT_ONCE: Final = 2048


def find_similar_images(hashes: Sequence[str], workspace: Workspace, num_threads: int) -> pd.DataFrame:
    """Find the images that are copies of one another, by their stored fingerprints.

    Found are re-encoded, scaled, horizontally mirrored or brighter copies, and ones cropped by up to 3 % per side.
    Neighboring slices of a patient may be among them.

    Returns:
        Pairs that connect all copies, though not every pair of a large group, sorted; columns first and second (the
        SHA-256, first below second), kind (`similar`) and correlation (`MIN_CORRELATION` to 1). The same for the same
        images.

    Raises:
        WorkspaceError: Some have no fingerprint.
    """
    stored = read_fingerprints(hashes, workspace)
    pairs = pair_similar_images(stored, num_threads)
    logger.info("Pairs of similar images: %d among %d images", len(pairs), len(stored.sha256))
    return pairs.sort_values(["first", "second"], ignore_index=True)


def pair_similar_images(stored: StoredFingerprints, num_threads: int) -> pd.DataFrame:
    """Pair the images whose hashes are near and whose thumbnails correlate once they are aligned."""
    cv2.setNumThreads(1)  # joblib's threads use all cores already
    candidates = find_candidates(stored.hashes, stored.mirrored_hashes, num_threads)
    chunks = [slice(start, start + _PAIRS_AT_ONCE) for start in range(0, len(candidates), _PAIRS_AT_ONCE)]
    correlations = Parallel(n_jobs=num_threads, backend="threading")(
        delayed(correlate_candidates)(stored.thumbnails, candidates, chunk) for chunk in chunks
    )
    correlation = np.concatenate([np.empty(0), *cast("list[NDArray[np.float64]]", correlations)])
    is_similar = correlation >= MIN_CORRELATION
    logger.debug("Confirmed %d of %d candidates", is_similar.sum(), len(candidates))
    first, second = stored.sha256[np.sort([candidates.query[is_similar], candidates.image[is_similar]], axis=0)]
    pairs = pd.DataFrame({"first": first, "second": second, "kind": "similar"}, dtype="str")
    pairs = pairs.assign(correlation=correlation[is_similar])
    return pairs.sort_values("correlation", ascending=False).drop_duplicates(["first", "second"])


def correlate_candidates(
    thumbnails: NDArray[np.uint8] | StoredRows, candidates: Candidates, chunk: slice
) -> NDArray[np.float64]:
    """Correlate the thumbnails of some of the candidates, aligned; see `correlate_aligned`."""
    pairs = zip(
        thumbnails[candidates.query[chunk]], candidates.is_mirrored[chunk],
        thumbnails[candidates.image[chunk]], candidates.crop[chunk],
        strict=True,
    )  # fmt: skip
    return np.array(
        [
            correlate_aligned(query[:, :: -1 if is_mirrored else 1], image, CROPS[crop])
            for query, is_mirrored, image, crop in pairs
        ]
    )


def correlate_aligned(copy: NDArray[np.uint8], original: NDArray[np.uint8], crop: Sequence[float] = CROPS[0]) -> float:
    """Correlate two thumbnails after one is moved and scaled to fit the other.

    Args:
        copy: Gray levels of the image that may be a crop, shape (32, 32).
        original: Gray levels of the other.
        crop: Fractions of the original that may be cut off left, above, right and below; where the alignment starts.

    Returns:
        -1 to 1, whatever the brightness and contrast of either; -1 where they cannot be aligned.

    Source: the alignment is `cv2.findTransformECC`; Evangelidis and Psarakis, "Parametric image alignment using
        enhanced correlation coefficient maximization", IEEE TPAMI 30:1858, 2008.
    """
    left, top, right, bottom = crop
    scale_x, scale_y = 1 - left - right, 1 - top - bottom
    shift_x, shift_y = (THUMBNAIL_SIZE * cut + (scale - 1) / 2 for cut, scale in ((left, scale_x), (top, scale_y)))
    warp = np.array([[scale_x, 0, shift_x], [0, scale_y, shift_y]], np.float32)
    template, picture = copy.astype(np.float32), original.astype(np.float32)
    try:
        cv2.findTransformECC(
            _remove_shading(template), _remove_shading(picture), warp, cv2.MOTION_AFFINE, _STOP, _EVERYWHERE, 3
        )
    except cv2.error:  # it does not converge
        return -1.0
    return _correlate_overlap(template, picture, warp) if _is_crop(warp) else -1.0


def _remove_shading(image: NDArray) -> NDArray:
    return image - cv2.GaussianBlur(image, (0, 0), _COARSE)


def _is_crop(warp: NDArray) -> bool:
    """Whether a transform rotates and scales as little as a crop does."""
    is_upright = abs(warp[0, 1]) <= _MAX_SLANT and abs(warp[1, 0]) <= _MAX_SLANT
    return is_upright and bool(np.abs(warp.diagonal() - 1).max() <= _MAX_SCALE_CHANGE)


def _correlate_overlap(template: NDArray, picture: NDArray, warp: NDArray) -> float:
    size, flags = template.shape[::-1], cv2.WARP_INVERSE_MAP
    aligned = cv2.warpAffine(picture, warp, size, flags=cv2.INTER_LINEAR | flags, borderMode=cv2.BORDER_REPLICATE)
    is_inside = cv2.warpAffine(_EVERYWHERE, warp, size, flags=cv2.INTER_NEAREST | flags)
    reach = np.ones((2 * _BORDER + 1, 2 * _BORDER + 1), np.uint8)
    overlap = cv2.erode(is_inside, reach, borderType=cv2.BORDER_CONSTANT, borderValue=(0,)).astype(bool)
    if overlap.mean() < _MIN_OVERLAP:
        return -1.0
    levels = np.stack([_keep_detail(image)[overlap] for image in (template, aligned)]).astype(np.float64)
    levels -= levels.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(levels, axis=1).prod()
    return float(np.clip(levels[0] @ levels[1] / norm, -1, 1)) if norm else -1.0


def _keep_detail(image: NDArray) -> NDArray:
    """Band-pass filter that removes coarse shading and pixel noise."""
    return cv2.GaussianBlur(image, (0, 0), _FINE) - cv2.GaussianBlur(image, (0, 0), _COARSE)
