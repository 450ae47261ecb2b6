"""Kinds of evidence that relate images, and the groups that evidence connects."""

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

INFERRED_EVIDENCE: Final = ("order", "features")
"""Kinds of evidence that are inferred, with an error that is estimated: the order of files, and near features."""

EXAMINATION_EVIDENCE: Final = ("study", *INFERRED_EVIDENCE)
"""Kinds of evidence that images are of one examination, which can be found after the images were split."""

EVIDENCE: Final = ("patient_id", "patient_pattern", "study", "series", "similar", *INFERRED_EVIDENCE)
"""Kinds of evidence: the table of patients or the DICOM files, the pattern of file names, the DICOM study, the DICOM
series or the file that holds several slices, near duplicates, and those of `INFERRED_EVIDENCE`."""

TIE_COLUMNS: Final = ("sha256", "kind", "key")
"""Columns of a table of ties: images with the same key are related; the kind is the evidence for it."""


def connect(nodes: pd.Index, ties: pd.DataFrame) -> tuple[NDArray[np.int32], pd.Series]:
    """Find the connected components of all evidence.

    Args:
        nodes: SHA-256 of each image, unique.
        ties: Columns of `TIE_COLUMNS`, of these images.

    Returns:
        Number of the group of each image, shape (len(nodes),), and the kinds of evidence that relate it to another
        image, joined by `+` in the order of `EVIDENCE`; both in the order of `nodes`.
    """
    from scipy.sparse import coo_array  # noqa: PLC0415 - a tenth of a second to import
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415 - see above

    kinds = pd.Categorical(ties["kind"], categories=list(EVIDENCE)).codes
    heads, (keys, distinct) = nodes.get_indexer(pd.Index(ties["sha256"])), pd.factorize(ties["key"])
    numbers = pd.DataFrame({"head": heads, "key": keys, "kind": kinds})  # a tenth of the memory of text
    num_images = np.bincount(numbers[["head", "key"]].drop_duplicates()["key"], minlength=len(distinct))
    numbers = numbers[num_images[numbers["key"]] > 1]
    heads, keys = numbers["head"].to_numpy(), numbers["key"].to_numpy()
    size = len(nodes) + len(distinct)
    graph = coo_array((np.ones(len(heads), np.int8), (heads, keys + len(nodes))), shape=(size, size))
    group = connected_components(graph, directed=False)[1][: len(nodes)]
    return group, pd.Series(_name_evidence(len(nodes), heads, numbers["kind"].to_numpy()), index=nodes, dtype="str")


def _name_evidence(num_nodes: int, heads: NDArray[np.int64], kinds: NDArray[np.int8]) -> NDArray[np.object_]:
    """The kinds of evidence for each image, joined by `+`; equal texts are one object."""
    found = np.zeros(num_nodes, np.int64)
    for kind in range(len(EVIDENCE)):
        found[heads[kinds == kind]] |= 1 << kind
    sets = range(1 << len(EVIDENCE))
    names = ["+".join(name for kind, name in enumerate(EVIDENCE) if bits >> kind & 1) for bits in sets]
    return np.array(names, dtype=object)[found]


def count_evidence(evidence: pd.Series) -> dict[str, int]:
    """Count the images that each kind of evidence relates to another image; `evidence` as from `connect`."""
    counts = evidence.value_counts()
    return {kind: int(counts[[kind in found.split("+") for found in counts.index]].sum()) for kind in EVIDENCE}
