"""Hashes of all results of a run, without times and random names."""

import hashlib
import io
import json
import re
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

DIFFERING = frozenset(
    {"created", "seconds", "looked_at", "registered_at", "decided_at", "concluded_at"}
    | {
        "num_taken_over",
        "num_kept",
        "num_assigned",
        "largest_deviation",
    }  # what an earlier run had read, split or locked
    | {"run", "name"}  # numbers of runs, see `hash_results`
    | {"environment"}  # commit and flow run
    | {"model_sha256", "champion_sha256", "challenger_sha256", "files"}  # Keras writes the time into its files
    | {"previous_sha256", "audit", "record_sha256"}  # of lines and records with times
)
"""Entries of JSON files that depend on the clock or on earlier runs."""

PLACES = (
    "manifest.parquet",
    "splits.parquet",
    "test_set.json",
    "ties.parquet",
    "quarantine.csv",
    "deliveries.json",
    "names.parquet",
    "entries/*",
    "identities/*",
    "attributes/*",
    "images/*/*",
    "fingerprints/*/*",
    "preprocessed/*/*/*",
    "DATA/*/*/*",
    "features/*/*",
    "backbones/*/identity.json",
    "backbones/*/backbone.weights.h5",
    "models/*/*",
    "folds/*",
    "neighbours/*",
    "leakage/*",
    "shortcuts/*",
    "training_sizes/*",
    "label_review/*",
    "novelty/*",
    "drift/*",
    "shards/*",
    "runs/*/*",
    "runs/*/figures/*",
    "releases/versions/*/*",
    "releases/*.json",
    "retrainings/*/*.json",
)

UNORDERED = ("names.parquet", "identities", "attributes")
"""Files, or folders of files, whose rows may come in another order after a kill."""

NOT_COMPARED = ("files.json", "report.html", "review.html", "model_card.md", "checklist.md")
"""They repeat the other files, with times and hashes of files that hold times."""


def hash_results(workspace: Path) -> dict[str, str]:
    """SHA-256 of every result, by its path in the workspace.

    Of runs the last stands for all: one that was killed after it had published is started again, and publishes under
    the next number. Versions, the champion and the reports of retrainings keep their numbers.
    """
    hashes = {}
    for file in sorted(file for place in PLACES for file in workspace.glob(place) if file.is_file()):
        name = _NUMBER.sub("runs/last/", str(file.relative_to(workspace)))
        if file.name not in NOT_COMPARED:
            hashes[name] = hashlib.sha256(_read(file)).hexdigest()
    return hashes


def find_differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Paths that are missing, foreign or different."""
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def find_leftovers(workspace: Path) -> list[str]:
    """What lies about half-written, and what Python's pickle wrote."""
    hidden = [path for path in workspace.rglob(".*") if path.name not in (".lock", ".gitignore")]
    pickles = [path for path in workspace.rglob("*") if path.is_file() and path.read_bytes()[:2] in _PICKLE_STARTS]
    return [str(path.relative_to(workspace)) for path in (*hidden, *pickles)]


_NUMBER = re.compile(r"^runs/\d{4}/")
_PICKLE_STARTS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


def _read(file: Path) -> bytes:
    """The content that counts."""
    if file.suffix == ".keras":
        with zipfile.ZipFile(file) as archive:
            return _read_weights(archive.read("model.weights.h5"))
    if file.suffix == ".h5":
        return _read_weights(file.read_bytes())
    if file.suffix == ".json":
        return json.dumps(_without_times(json.loads(file.read_bytes())), sort_keys=True).encode()
    if file.name in UNORDERED or file.parent.name in UNORDERED:
        table = pd.read_parquet(file)
        columns = sorted(table.columns)
        return table[columns].sort_values(columns).to_csv(index=False).encode("utf-8", "surrogatepass")
    return file.read_bytes()


def _read_weights(content: bytes) -> bytes:
    arrays: dict[str, bytes] = {}

    def add(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.asarray(item).tobytes()

    with h5py.File(io.BytesIO(content), "r") as weights:
        weights.visititems(add)
    return b"".join(name.encode() + arrays[name] for name in sorted(arrays))


def _without_times(content: object) -> object:
    """JSON without what differs from run to run, and without hashes of files that hold such things."""
    if isinstance(content, dict):
        return {name: _without_times(value) for name, value in content.items() if name not in DIFFERING}
    if isinstance(content, list):
        return [_without_times(item) for item in content]
    return content
