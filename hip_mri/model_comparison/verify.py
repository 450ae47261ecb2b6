"""Verifies a finished comparison: computes its results again from the stored scores, and compares all hashes."""

from pathlib import Path

import pandas as pd

from hip_mri.errors import HipMriError
from hip_mri.evaluation.verify import compare
from hip_mri.hashes import compare_hashes
from hip_mri.model_comparison.publication import COMPARISON_FILE, SCORES_FILE
from hip_mri.model_comparison.results import compute_results
from hip_mri.storage import read_json


def is_comparison(folder: Path) -> bool:
    """Whether a folder is that of a comparison."""
    return (folder / COMPARISON_FILE).is_file()


def verify_comparison(folder: Path) -> list[str]:
    """Verify the folder of a comparison, such as `workspace/comparisons/0001`; returns one sentence per difference."""
    try:
        differences = compare_hashes(folder)
        facts = read_json(folder / COMPARISON_FILE)
        texts = {"candidate": "str", "image_id": "str", "group": "str"}
        scores = pd.read_csv(folder / SCORES_FILE, dtype=texts, keep_default_na=False)
        computed = compute_results(scores, facts["candidates"], facts["seed"])
        differences += compare(facts["results"], computed, COMPARISON_FILE)
    except (HipMriError, OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        return [f"the results cannot be computed again: {error}"]
    return differences
