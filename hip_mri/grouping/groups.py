"""Who belongs together: images of one group share a split, so that no test image has a relative in training.

Evidence comes from the user (a table of patients, a pattern of file names), from DICOM files, which name their patient
and their series, and from the images (near duplicates; equal ones are one image). A group is whatever any of it
connects, by union-find over all; images that an earlier run had and the source no longer holds still count, so that a
new image of theirs joins their split.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import LABELS, SPLITS, DataSettings
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.identities import identify_images
from hip_mri.dataset.ingest import CONTRADICTORY_LABEL, check_classes
from hip_mri.dataset.manifest import read_manifest, write_manifest
from hip_mri.dataset.split_registry import read_split_registry
from hip_mri.grouping.fingerprints import list_fingerprinted
from hip_mri.grouping.similarity import find_similar_images
from hip_mri.sources.split_folders import UNDECIDED
from hip_mri.storage import read_json, replace_file, write_json
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

EVIDENCE: Final = ("patient_id", "patient_pattern", "series", "similar")
"""Kinds of evidence: the table of patients or the DICOM files, the pattern of file names, the DICOM series or the file
that holds several slices, near duplicates."""

TIE_COLUMNS: Final = ("sha256", "kind", "key")
"""Columns of a table of ties: images with one key belong together; the kind is the evidence for it."""


@dataclass(frozen=True)
class GroupReport:
    """What came of grouping.

    Attributes:
        num_patients: Patients that are known by table, pattern or DICOM files.
        num_without_patient: Images in use whose patient is not known.
        evidence: Number of images that each kind of evidence ties to another image.
        num_contradictory: Files that are quarantined because equal pixels are in both classes.
        attributes: Name of the table in the workspace that holds further columns of the table of patients.
        given_split_by: What gives images their split: `folders`, `table`, `folders and table`, or nothing.
        num_given_twice: Images whose copies, byte for byte, are given several splits; the test counts before
            validation, and this before training.
        has_constant_patient: Whether all images named one and the same patient, who was then taken for none.
    """

    num_patients: int
    num_without_patient: int
    evidence: dict[str, int]
    num_contradictory: int
    attributes: str | None
    given_split_by: str = ""
    num_given_twice: int = 0
    has_constant_patient: bool = False

    @property
    def is_patient_level(self) -> bool:
        """Whether the patient of every image is known, so that figures may be called patient-level."""
        return self.num_without_patient == 0


def group_images(
    workspace: Workspace, deliveries: Sequence[Delivery], settings: DataSettings, num_threads: int
) -> GroupReport:
    """Find the groups of the manifest's images and write them back.

    A split that folders or the table of patients give is written into the manifest, for `split_manifest` to keep.

    Args:
        workspace: Its manifest gets the columns patient, group, evidence and, where prescribed, split. Its
            `ties.parquet` gets all evidence, with the group that came of it.
        deliveries: Those of this run; each may hold a table of patients. What earlier ones told is remembered.
        settings: Which evidence is used. Similar images are found by their fingerprints.
        num_threads: Threads that compare images.

    Returns:
        The counts.

    Raises:
        SettingsError: Table or pattern fit no image.
        SplitError: Table and folders give images different splits, or too few images are left.
    """
    manifest = read_manifest(workspace.manifest_file).reset_index(drop=True)
    used = manifest[manifest["state"].isin(["ready", "duplicate"])]
    ledger = read_split_registry(workspace)
    names = set(manifest["delivery"])
    identities = identify_images(
        deliveries,
        names,
        settings.patients_file,
        settings.patient_pattern,
        workspace,
        settings.class_names,
        keep_given_split=settings.given_split == "keep",
    )
    known = identities.images[identities.images["sha256"].isin(used["sha256"])]
    known, has_constant_patient = _drop_constant_patients(known, workspace)
    known = _remember_patients(known, ledger)
    given = _find_given_splits(known)
    hashes = pd.Index(used.loc[used["state"] == "ready", "sha256"])
    absent = ledger[~ledger["sha256"].isin(used["sha256"])]
    pairs = _find_pairs(hashes, absent["sha256"], workspace, num_threads) if settings.group_similar else NO_PAIRS

    ready = manifest[manifest["state"] == "ready"]
    check_classes(ready["label"], manifest["reason"], workspace.quarantine_file)
    nodes = pd.Index(ready["sha256"]).append(pd.Index(absent["sha256"]))
    ties = pd.concat([_tie_patients(known, absent), _tie_pairs(pairs)], ignore_index=True)
    ties = ties[ties["sha256"].isin(nodes)]
    group, evidence = connect(nodes, ties)
    _keep_ties(ties.assign(group=group[nodes.get_indexer(pd.Index(ties["sha256"]))]), workspace)

    place = ready.index
    manifest.loc[place, "group"] = ready["image_id"].groupby(group[: len(ready)]).transform("min")
    manifest.loc[place, "evidence"] = evidence.iloc[: len(ready)].to_numpy()
    named = known[known["patient"] != ""].groupby("sha256")["patient"].first()
    manifest.loc[place, "patient"] = named.reindex(ready["sha256"], fill_value="").to_numpy()
    manifest.loc[place, "split"] = given["split"].reindex(ready["sha256"], fill_value="").to_numpy()
    write_manifest(workspace.manifest_file, manifest)
    report = replace(
        _count(manifest.loc[place], int((manifest["reason"] == CONTRADICTORY_LABEL).sum()), identities.attributes),
        given_split_by=" and ".join(sorted(set(known["split_by"]) - {""})),
        num_given_twice=int(given["is_given_twice"].sum()),
        has_constant_patient=has_constant_patient,
    )
    tied = [f"{count} by {kind}" for kind, count in report.evidence.items() if count]
    sizes = manifest.loc[place, "group"].value_counts()
    logger.info("%d groups, the largest of %d images; tied: %s", len(sizes), sizes.max(), ", ".join(tied) or "none")
    return report


def connect(nodes: pd.Index, ties: pd.DataFrame) -> tuple[NDArray[np.int32], pd.Series]:
    """Connect images by all evidence.

    Args:
        nodes: SHA-256 of each image, unique.
        ties: Columns of `TIE_COLUMNS`, of these images.

    Returns:
        Number of the group of each image, shape (len(nodes),), and the kinds of evidence that tie it to another image,
        joined by `+` in the order of `EVIDENCE`, in the order of `nodes`.
    """
    from scipy.sparse import coo_array  # noqa: PLC0415 - a tenth of a second to import
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415 - see above

    kinds = pd.Categorical(ties["kind"], categories=list(EVIDENCE)).codes
    heads, (keys, distinct) = nodes.get_indexer(pd.Index(ties["sha256"])), pd.factorize(ties["key"])
    numbers = pd.DataFrame({"head": heads, "key": keys, "kind": kinds})  # a tenth of the memory of the texts
    num_images = np.bincount(numbers[["head", "key"]].drop_duplicates()["key"], minlength=len(distinct))
    numbers = numbers[num_images[numbers["key"]] > 1]
    heads, keys = numbers["head"].to_numpy(), numbers["key"].to_numpy()
    size = len(nodes) + len(distinct)
    graph = coo_array((np.ones(len(heads), np.int8), (heads, keys + len(nodes))), shape=(size, size))
    group = connected_components(graph, directed=False)[1][: len(nodes)]
    return group, pd.Series(_name_evidence(len(nodes), heads, numbers["kind"].to_numpy()), index=nodes, dtype="str")


def _name_evidence(num_nodes: int, heads: NDArray[np.int64], kinds: NDArray[np.int8]) -> NDArray[np.object_]:
    """The kinds of evidence that name each image, joined by `+`; images share the few texts that there are."""
    found = np.zeros(num_nodes, np.int64)
    for kind in range(len(EVIDENCE)):
        found[heads[kinds == kind]] |= 1 << kind
    sets = range(1 << len(EVIDENCE))
    names = ["+".join(name for kind, name in enumerate(EVIDENCE) if bits >> kind & 1) for bits in sets]
    return np.array(names, dtype=object)[found]


NO_PAIRS: Final = pd.DataFrame({"first": [], "second": [], "kind": []}, dtype="str")


def _find_pairs(hashes: pd.Index, absent: pd.Series, workspace: Workspace, num_threads: int) -> pd.DataFrame:
    """Similar images among those of the source and those of earlier runs, as far as fingerprints are kept."""
    remembered = list_fingerprinted(list(absent), workspace)
    return find_similar_images([*hashes, *remembered], workspace, num_threads)


def _tie_patients(known: pd.DataFrame, absent: pd.DataFrame) -> pd.DataFrame:
    """Images of one patient, who may be known by the table in one file and by the name of another, or of one series."""
    ties = known.melt("sha256", ["patient_id", "patient_pattern", "series"], var_name="kind", value_name="key")
    earlier = absent.loc[:, ["sha256", "patient"]].rename(columns={"patient": "key"}).assign(kind="patient_id")
    ties = pd.concat([ties, earlier])
    return ties.loc[ties["key"] != "", list(TIE_COLUMNS)].drop_duplicates()


def _tie_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    key = pairs["first"] + "/" + pairs["second"]
    ends = [pd.DataFrame({"sha256": pairs[end], "kind": pairs["kind"], "key": key}) for end in ("first", "second")]
    return pd.concat(ends, ignore_index=True).astype("str")


def _keep_ties(ties: pd.DataFrame, workspace: Workspace) -> None:
    with replace_file(workspace.ties_file, is_private=True) as temporary:
        ties.sort_values(list(TIE_COLUMNS)).to_parquet(temporary, index=False)


def _remember_patients(known: pd.DataFrame, ledger: pd.DataFrame) -> pd.DataFrame:
    """Fill in the patients that an earlier run knew, where the present table and pattern know none."""
    earlier = ledger.set_index("sha256")["patient"].reindex(known["sha256"], fill_value="").set_axis(known.index)
    is_unknown = known["patient"] == ""
    filled = {column: known[column].where(~is_unknown, earlier) for column in ("patient_id", "patient")}
    return known.assign(**filled)


def _find_given_splits(known: pd.DataFrame) -> pd.DataFrame:
    """The split that each image is given, by SHA-256 (column split), and whether its copies are given others."""
    order = {split: number for number, split in enumerate((*reversed(SPLITS), *UNDECIDED))}
    given = known.loc[known["split"] != "", ["sha256", "split"]].drop_duplicates()
    given = given.sort_values("split", key=lambda splits: splits.map(order), kind="stable")
    is_given_twice = given["sha256"].duplicated(keep=False)
    return given.assign(is_given_twice=is_given_twice).drop_duplicates("sha256").set_index("sha256")


def _drop_constant_patients(known: pd.DataFrame, workspace: Workspace) -> tuple[pd.DataFrame, bool]:
    """Take for none a patient whom all images name, since this ties everything together: a placeholder of an export.

    That one was taken for none is remembered, so that images that stand in different splits are not tied later on.

    Returns:
        The table without these, and whether there are any.
    """
    file, patients = workspace.ignored_patients_file, ["patient_id", "patient_pattern"]
    ignored = set(read_json(file)) if file.exists() else set()
    found = {patient for column in patients if (patient := _find_constant(known, column))}
    if found - ignored:
        write_json(file, sorted(found | ignored))
    is_ignored = known[patients].isin(found | ignored)
    if is_ignored.to_numpy().any():
        logger.warning(
            "%d of %d images name one and the same patient, as a placeholder does; it is ignored, and their patients "
            "are not known. Give a table of patients with --data.patients-file",
            known.loc[is_ignored.any(axis="columns"), "sha256"].nunique(),
            known["sha256"].nunique(),
        )
    columns = known[patients].mask(is_ignored, "")
    patient = columns["patient_id"].where(columns["patient_id"] != "", columns["patient_pattern"])
    return known.assign(**columns, patient=patient), bool(is_ignored.to_numpy().any())


def _find_constant(known: pd.DataFrame, column: str) -> str:
    """The only patient in a column, where most images name it and they are enough for a split; else nothing."""
    images = known.drop_duplicates("sha256")
    named = images.loc[images[column] != "", column]
    is_constant = named.nunique() == 1 and len(named) >= len(SPLITS) * len(LABELS) and 2 * len(named) > len(images)
    return str(named.iloc[0]) if is_constant else ""


def _count(images: pd.DataFrame, num_contradictory: int, attributes: str | None) -> GroupReport:
    patients = images.loc[images["patient"] != "", "patient"]
    kinds = images["evidence"].value_counts()
    return GroupReport(
        num_patients=int(patients.nunique()),
        num_without_patient=len(images) - len(patients),
        evidence={kind: int(kinds[[kind in found.split("+") for found in kinds.index]].sum()) for kind in EVIDENCE},
        num_contradictory=num_contradictory,
        attributes=attributes,
    )
