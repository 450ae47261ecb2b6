"""How reliably copies are found and unrelated images kept apart: `python -m tests.benchmarks.copies --patients 2800`.

Phantoms are drawn and copied in each way of `tests.grouping.copies`. Each way is searched alone among all phantoms, so
that no copy is found by way of another. The figures justify `MIN_CORRELATION` and `MAX_DISTANCE`.
"""

import argparse
import itertools
import json
import time
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from hip_mri.grouping.candidates import find_candidates
from hip_mri.grouping.fingerprints import StoredFingerprints, fingerprint_image
from hip_mri.grouping.similarity import correlate_candidates, pair_similar_images
from hip_mri.synthetic.demo import draw_demo
from tests.grouping.copies import WAYS, plant_copy

PATIENTS_AT_ONCE = 100


def draw_rows(seed: int, every: int) -> tuple[list[np.ndarray], list[tuple[str, str, str]]]:
    """Fingerprints of the phantoms of one seed and of copies of some; beside them patient, original and way."""
    rows, kinds = [], []
    for number, drawn in enumerate(draw_demo(seed, PATIENTS_AT_ONCE)):
        original = f"{seed}-{number}"
        made = {"": drawn.pixels}
        if number % every == 0:
            made |= {way: plant_copy(drawn.pixels, way, seed * 1000 + number) for way in WAYS}
        for way, pixels in made.items():
            rows.append(fingerprint_image(pixels))
            kinds.append((f"{drawn.patient_id}-{seed}", original, way))
    return rows, kinds


def measure_way(rows: np.ndarray, images: pd.DataFrame, way: str, num_threads: int) -> dict[str, Any]:
    """Share of the copies of one way that are joined with their originals, and what is joined wrongly."""
    chosen = images["way"].isin(["", way]).to_numpy()
    rows, images = rows[chosen], images[chosen].reset_index(drop=True)
    names = np.array([f"{place:09}" for place in range(len(rows))])
    stored = StoredFingerprints(names, rows["hashes"], rows["mirrored_hash"], rows["thumbnail"])
    pairs = pair_similar_images(stored, num_threads)
    ends = [pairs[name].astype("int64").to_numpy() for name in ("first", "second")]
    graph = coo_matrix((np.ones(len(pairs)), ends), (len(rows), len(rows)))
    images["group"] = connected_components(graph, directed=False)[1]
    copies = images[images["way"] == way]
    originals = images[images["way"] == ""].set_index("original")["group"]
    patients = images["patient"].to_numpy()
    return {
        "copies": len(copies),
        "found": float((copies["group"].to_numpy() == originals[copies["original"]].to_numpy()).mean()),
        "pairs_of_different_patients": int((patients[ends[0]] != patients[ends[1]]).sum()),
        "largest_group": int(images["group"].value_counts().max()),
        "patients_in_a_group": int(images.groupby("group")["patient"].nunique().max()),
    }


def measure_margin(rows: np.ndarray, images: pd.DataFrame, num_threads: int) -> dict[str, Any]:
    """Correlation of the least alike copies and of the most alike images of different patients."""
    candidates = find_candidates(rows["hashes"], rows["mirrored_hash"], num_threads)
    chunks = [slice(start, start + 2048) for start in range(0, len(candidates), 2048)]
    tasks = (delayed(correlate_candidates)(rows["thumbnail"], candidates, chunk) for chunk in chunks)
    correlation = np.concatenate(list(Parallel(num_threads, backend="threading")(tasks)))
    patient, original = images["patient"].to_numpy(), images["original"].to_numpy()
    is_stranger = patient[candidates.query] != patient[candidates.image]
    is_copy = original[candidates.query] == original[candidates.image]
    return {
        "candidates": len(candidates),
        "candidates_of_different_patients": int(is_stranger.sum()),
        "highest_of_different_patients": float(correlation[is_stranger].max(initial=-1)),
        "lowest_of_copies": float(correlation[is_copy].min(initial=1)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=2800)
    parser.add_argument("--every", type=int, default=10, help="copy every n-th image")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    seeds = range(100, 100 + -(-given.patients // PATIENTS_AT_ONCE))
    before = time.perf_counter()
    drawn = list(Parallel(given.threads)(delayed(draw_rows)(seed, given.every) for seed in seeds))
    rows = np.stack(list(itertools.chain.from_iterable(made for made, _ in drawn)))
    kinds = itertools.chain.from_iterable(kind for _, kind in drawn)
    images = pd.DataFrame(kinds, columns=["patient", "original", "way"])
    results: dict[str, Any] = {"images": len(rows), "drawing_seconds": round(time.perf_counter() - before)}
    results |= {way: measure_way(rows, images, way, given.threads) for way in WAYS}
    print(json.dumps(results | {"margin": measure_margin(rows, images, given.threads)}, indent=2))


if __name__ == "__main__":
    main()
