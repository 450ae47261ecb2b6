"""How well examinations are found where no patient is named: `python -m tests.benchmarks.grouping --weights FILE`.

Phantoms are drawn as volumes (`hip_mri.synthetic.volumes`). Grouping gets their features and the names of their files.
`--folder` keeps the sets for the next time; any NPZ file in it with the arrays of `VolumeSet` is measured as well. For
each set, one line of JSON is printed:

- ordered, shuffled: errors of the inferred groups, with the files in order and with their numbers permuted.
- ordered_thumbnails: the same as ordered without features, as with random weights.
- random_labels: labels are drawn for each patient, and files are numbered anew in each class folder. An honest AUC is
  then 0.5 on average. The AUC of folds that keep inferred groups whole is compared with that of folds that keep
  patients whole, and the leakage test is run on both and on folds of single images.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import solve
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import roc_auc_score

from hip_mri.config import LABELS, PreprocessingSettings
from hip_mri.dataset.row_store import StoredRows
from hip_mri.evaluation.metrics.results import summarize_leakage
from hip_mri.grouping.examinations.descriptors import (
    Descriptors,
    describe_features,
    describe_orientations,
    find_informative_order,
    make_comparable,
)
from hip_mri.grouping.examinations.images import UNKNOWN
from hip_mri.grouping.examinations.inference import infer_examinations
from hip_mri.grouping.examinations.sequences import list_sequences
from hip_mri.grouping.fingerprints import fingerprint_image
from hip_mri.grouping.inferred_ties import MAX_BOUND, MAX_EXAMINATION_FRACTION, MIN_BOUND
from hip_mri.images.clahe_and_resizing import preprocess_image
from hip_mri.models.backbones.engines import FeatureEngine
from hip_mri.models.cross_validation import assign_folds, count_folds
from hip_mri.monitoring.leakage import predict_random_labels
from hip_mri.synthetic.volumes import draw_volumes
from tests.benchmarks.drift import open_network

SPACINGS = {"1": (1,), "2": (2,), "3": (3,), "5": (5,), "8": (8,), "mixed": (1, 2, 3, 5, 8)}
MAX_FOLDS = 5
PENALTY = 0.1
"""Of the ridge regression that predicts the random labels, relative to the squared length of a row."""


@dataclass(frozen=True)
class VolumeSet:
    """Images in the order in which they were acquired.

    Attributes:
        features: Float32, shape (images, features).
        thumbnails: Gray levels 0-255, uint8, as in the fingerprints.
        source_name: Folder of the class and file name with a running number of six digits.
        patient: The patient.
        label: One of `LABELS`.
    """

    features: NDArray[np.float32]
    thumbnails: NDArray[np.uint8]
    source_name: NDArray[np.str_]
    patient: NDArray[np.str_]
    label: NDArray[np.str_]

    @classmethod
    def read(cls, file: Path) -> "VolumeSet":
        with np.load(file) as arrays:
            return cls(*(arrays[name] for name in cls.__dataclass_fields__))

    def shuffle(self, seed: int) -> "VolumeSet":
        """Permute the running numbers of each class folder."""
        names, generator = self.source_name.copy(), np.random.default_rng(seed)
        for label in LABELS:
            names[self.label == label] = generator.permutation(names[self.label == label])
        return replace(self, source_name=names)

    def relabel(self, seed: int) -> "VolumeSet":
        """Draw a label for each patient, and number the files of each class anew."""
        patients, owner = np.unique(self.patient, return_inverse=True)
        label = np.array(LABELS)[np.random.default_rng(seed).permutation(np.arange(len(patients)) % 2)[owner]]
        names = [f"{folder}/{number:06d}.png" for number, folder in enumerate(label)]
        return replace(self, source_name=np.array(names), label=label)


def draw_set(file: Path, engine: FeatureEngine, seed: int, num_patients: int, spacings: Sequence[int]) -> None:
    images, preprocessing = draw_volumes(seed, num_patients, spacings), PreprocessingSettings()
    features = engine.compute([preprocess_image(image.pixels, preprocessing) for image in images])
    thumbnails = np.stack([fingerprint_image(image.pixels)["thumbnail"] for image in images])
    columns = zip(*((image.source_name, image.patient_id, image.label) for image in images), strict=True)
    np.savez_compressed(file, **asdict(VolumeSet(features, thumbnails, *map(np.array, columns))))


def infer_groups(images: VolumeSet, *, with_features: bool = True) -> NDArray[np.int64]:
    """Number the group of each image, as `infer_ties` infers it where no patient is named."""
    num_images = len(images.label)
    names = pd.DataFrame({"sha256": np.arange(num_images).astype(str), "source_name": images.source_name})
    unknown = dict.fromkeys(("series_number", "instance_number", "acquired", "position"), np.nan)
    names = names.assign(delivery="", slice=0, study="", series="", **unknown)
    order = list_sequences(names).set_index("sha256").reindex(names["sha256"])
    sequence, place = order[["sequence", "place"]].fillna(UNKNOWN).to_numpy(np.int64, copy=True).T

    def open_kinds(position: NDArray[np.int64]) -> list[Descriptors]:
        kinds = [Descriptors(as_stored(images.thumbnails[position]), describe_orientations)]
        if with_features:
            kinds.append(Descriptors(as_stored(images.features[position]), describe_features))
        return kinds

    position = np.lexsort((place, sequence))
    is_informative = find_informative_order(open_kinds(position), sequence[position], seed=0)
    sequence[position[~is_informative]] = UNKNOWN
    position = np.lexsort((place, sequence))
    kinds, sequence = open_kinds(position), sequence[position]
    comparable = make_comparable(kinds, sequence, np.full(num_images, UNKNOWN), seed=0)
    max_images = int(np.clip(MAX_EXAMINATION_FRACTION * num_images, MIN_BOUND, MAX_BOUND))
    joins = infer_examinations(comparable, max_images, seed=0).joins
    ends = position[joins[["first", "second"]].to_numpy()].T
    return connected_components(coo_array((np.ones(len(joins)), ends), (num_images, num_images)), directed=False)[1]


def as_stored(rows: NDArray) -> StoredRows:
    """Rows in memory, which are indexed as stored ones are."""
    return cast("StoredRows", rows)


def measure_groups(images: VolumeSet, group: NDArray[np.int64]) -> dict[str, Any]:
    """Errors of the groups; neighbors are images of one class folder in the order of acquisition."""
    places = [np.flatnonzero(images.label == label) for label in LABELS]
    first, second = np.concatenate([[place[:-1], place[1:]] for place in places], axis=1)
    is_same, is_joined = images.patient[first] == images.patient[second], group[first] == group[second]
    table = pd.DataFrame({"group": group, "patient": images.patient})
    is_mixed = table.groupby("group")["patient"].transform("nunique") > 1
    is_cut = table.groupby("patient")["group"].transform("nunique") > 1
    return {
        "images": len(group),
        "patients": table["patient"].nunique(),
        "groups": table["group"].nunique(),
        "false_cuts": int((is_same & ~is_joined).sum()),
        "neighbors": int(is_same.sum()),
        "false_cut_fraction": float((~is_joined[is_same]).mean()),
        "false_joins": int((~is_same & is_joined).sum()),
        "borders": int((~is_same).sum()),
        "fraction_in_mixed_groups": float(is_mixed.mean()),
        "fraction_of_cut_patients": float(is_cut.mean()),
        "largest_group": int(table["group"].value_counts().max()),
        "largest_patient": int(table["patient"].value_counts().max()),
    }


def measure_random_labels(images: VolumeSet, seeds: Sequence[int]) -> dict[str, Any]:
    """AUC and result of the leakage test for each kind of folds, over draws of labels."""
    aucs, leaks = pd.DataFrame(), pd.DataFrame()
    for seed in seeds:
        drawn = images.relabel(seed)
        groups = {
            "inferred": infer_groups(drawn),
            "patients": np.unique(drawn.patient, return_inverse=True)[1],
            "off": np.arange(len(drawn.label)),
        }
        for name, group in groups.items():
            table = describe_order(drawn).assign(group=group.astype(str))
            aucs.loc[seed, name] = cross_validate(drawn, table, seed)
            tested = predict_random_labels(as_stored(drawn.features), table, MAX_FOLDS, num_seeds=3)
            leaks.loc[seed, name] = summarize_leakage(tested)["leaks"]
    deviation = float(aucs["patients"].std(ddof=1))
    z_scores = (aucs - 0.5) / deviation
    return {
        "draws": len(aucs),
        "auc": aucs.mean().round(4).to_dict(),
        "auc_deviation_by_patient": deviation,
        "within_95_percent_of_chance": (z_scores.abs() <= 1.96).sum().to_dict(),
        "within_99_percent_of_chance": (z_scores.abs() <= 2.58).sum().to_dict(),
        "leakage_test_says_leaks": leaks.eq(True).sum().to_dict(),
    }


def describe_order(images: VolumeSet) -> pd.DataFrame:
    """Columns label, sequence (the folder) and place (the running number), as the leakage test needs them."""
    places = [int(Path(name).stem[-6:]) for name in images.source_name]
    return pd.DataFrame({"label": images.label, "sequence": images.label, "place": places})


def cross_validate(images: VolumeSet, table: pd.DataFrame, seed: int) -> float:
    """AUC of ridge regression with folds that keep the groups whole: mean over folds."""
    centered = images.features - images.features.mean(axis=0)
    unit = (centered / np.linalg.norm(centered, axis=1, keepdims=True)).astype(float)
    similarity, target = unit @ unit.T, np.where(images.label == LABELS[1], 1.0, -1.0)
    folds, aucs = assign_folds(table, seed, count_folds(table, MAX_FOLDS)), []
    for held_out in np.unique(folds):
        fit_on, scored = np.flatnonzero(folds != held_out), np.flatnonzero(folds == held_out)
        penalized = similarity[np.ix_(fit_on, fit_on)] + PENALTY * np.eye(len(fit_on))
        scores = similarity[np.ix_(scored, fit_on)] @ solve(penalized, target[fit_on], assume_a="pos")
        if len(set(target[scored])) == len(LABELS):
            aucs.append(roc_auc_score(target[scored], scores))
    return float(np.mean(aucs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="imagenet", help="`imagenet`, `random`, or a weights file of ResNet50")
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=1, help="number of sets of each spacing; 0 draws none")
    parser.add_argument("--spacings", nargs="*", choices=SPACINGS, default=list(SPACINGS))
    parser.add_argument("--draws", type=int, default=20, help="draws of random labels for each set")
    parser.add_argument("--folder", type=Path, help="folder of the sets; a temporary one if not given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in given.spacings:
            for seed in range(given.seeds):
                file = folder / f"spacing-{name}-patients-{given.patients}-seed-{seed}.npz"
                if not file.exists():
                    network = Path(temporary) / "network"
                    engine = open_network(network, given.weights, PreprocessingSettings(), num_threads=2)
                    draw_set(file, engine, seed, given.patients, SPACINGS[name])
        for file in sorted(folder.glob("*.npz")):
            images = VolumeSet.read(file)
            shuffled = images.shuffle(seed=0)
            measured: dict[str, Any] = {
                "set": file.stem,
                "ordered": measure_groups(images, infer_groups(images)),
                "ordered_thumbnails": measure_groups(images, infer_groups(images, with_features=False)),
                "shuffled": measure_groups(shuffled, infer_groups(shuffled)),
            }
            if given.draws:
                measured["random_labels"] = measure_random_labels(images, range(given.draws))
            print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
