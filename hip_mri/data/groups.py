"""Who belongs together: images of one group share a split, so that no test image has a relative in training.

Evidence comes from the user (a table of patients, a pattern of file names) and from the images (equal pixels, near
duplicates). A group is whatever any of it connects, by union-find over all.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hip_mri.config import DataSettings
from hip_mri.data.ingest import CONTRADICTORY_LABEL, write_quarantine
from hip_mri.data.manifest import read_manifest, write_manifest
from hip_mri.data.patients import PatientTable, find_in_names, hash_identities, match_rows, read_patient_table
from hip_mri.data.similarity import find_similar_images
from hip_mri.errors import SplitError, list_offenders
from hip_mri.workspace import Workspace, replace_file

logger = logging.getLogger(__name__)

EVIDENCE: Final = ("patient_id", "patient_pattern", "exact", "similar")
"""Kinds of evidence: the table of patients, the pattern of file names, equal decoded pixels, near duplicates."""


NO_PAIRS: Final = pd.DataFrame({"first": [], "second": [], "kind": []}, dtype="str")


@dataclass(frozen=True)
class GroupReport:
    """What came of grouping.

    Attributes:
        num_groups: Groups, those of one image included.
        largest_group: Images of the largest group.
        num_patients: Patients that are known by table or pattern.
        num_without_patient: Images in use whose patient is not known.
        evidence: Number of images that each kind of evidence ties to another image.
        num_contradictory: Files that were quarantined because equal pixels stand in both class folders.
    """

    num_groups: int
    largest_group: int
    num_patients: int
    num_without_patient: int
    evidence: dict[str, int]
    num_contradictory: int

    @property
    def is_patient_level(self) -> bool:
        """Whether the patient of every image is known, so that figures may be called patient-level."""
        return self.num_without_patient == 0


def group_images(workspace: Workspace, source_file: Path, settings: DataSettings, num_threads: int) -> GroupReport:
    """Find the groups of the manifest's images and write them back.

    Equal pixels with contradictory labels are quarantined. A split that the table of patients prescribes is written
    into the manifest, for `split_manifest` to keep.

    Args:
        workspace: Its manifest gets the columns patient, group, evidence and, where prescribed, split. Its
            `similar.parquet` gets the pairs of similar images.
        source_file: May hold a table of patients.
        settings: Which evidence is used. Similar images are found by their fingerprints.
        num_threads: Threads that compare images.

    Returns:
        The counts.

    Raises:
        SettingsError: Table or pattern fit no image.
        SplitError: The table prescribes two splits for one image.
    """
    manifest = read_manifest(workspace.manifest_file).reset_index(drop=True)
    table = read_patient_table(settings.patients_file, source_file)
    pairs = _find_pairs(manifest, workspace, num_threads) if settings.group_similar else NO_PAIRS
    with replace_file(workspace.similar_file) as temporary:
        pairs.to_parquet(temporary, index=False)
    num_contradictory = _quarantine_contradictions(manifest, pairs, workspace)
    used = manifest[manifest["state"].isin(["ready", "duplicate"])]
    known = _identify(used, table, settings.patient_pattern, workspace)
    pairs = pairs[pairs["first"].isin(used["sha256"]) & pairs["second"].isin(used["sha256"])]
    images = used[used["state"] == "ready"].set_index("sha256")
    group, evidence = connect(images.index, _list_ties(known), pairs)
    ready = manifest["state"] == "ready"
    hashes = manifest.loc[ready, "sha256"]
    names = images["image_id"].groupby(group).transform("min")
    manifest.loc[ready, "group"] = hashes.map(names)
    manifest.loc[ready, "evidence"] = hashes.map(evidence)
    manifest.loc[ready, "patient"] = hashes.map(known.groupby("sha256")["patient"].max())
    manifest.loc[ready, "split"] = hashes.map(_find_prescribed(known))
    write_manifest(workspace.manifest_file, manifest)
    report = _count(manifest[ready], num_contradictory)
    logger.info(
        "%d groups, the largest of %d images%s",
        report.num_groups,
        report.largest_group,
        "".join(f"; {count} tied by {kind}" for kind, count in report.evidence.items() if count),
    )
    return report


def _find_pairs(manifest: pd.DataFrame, workspace: Workspace, num_threads: int) -> pd.DataFrame:
    hashes = manifest.loc[manifest["state"] == "ready", "sha256"]
    return find_similar_images(list(hashes), workspace, num_threads)


def connect(hashes: pd.Index, ties: pd.DataFrame, pairs: pd.DataFrame) -> tuple[NDArray[np.int32], pd.Series]:
    """Connect images by all evidence.

    Args:
        hashes: SHA-256 of each image, unique.
        ties: Columns sha256, kind and key: images with one kind and key belong together.
        pairs: Columns first, second and kind: two images that belong together.

    Returns:
        Number of the group of each image, shape (len(hashes),), and the kinds of evidence that tie it to another
        image, joined by `+` in the order of `EVIDENCE`, by SHA-256.
    """
    ties = ties.drop_duplicates(["sha256", "kind", "key"])
    ties = ties[ties.groupby(["kind", "key"])["sha256"].transform("size") > 1]
    keys = ties.groupby(["kind", "key"], sort=False).ngroup().to_numpy(np.int64) + len(hashes)
    heads = np.concatenate([hashes.get_indexer(ties["sha256"]), hashes.get_indexer(pairs["first"])])
    tails = np.concatenate([keys, hashes.get_indexer(pairs["second"])])
    size = len(hashes) + int(keys.max() - len(hashes) + 1 if len(keys) else 0)
    graph = coo_array((np.ones(len(heads), np.int8), (heads, tails)), shape=(size, size))
    group = connected_components(graph, directed=False)[1][: len(hashes)]
    ends = [pairs[[end, "kind"]].rename(columns={end: "sha256"}) for end in ("first", "second")]
    tied = pd.concat([ties[["sha256", "kind"]], *ends])
    evidence = pd.Series("", index=hashes)
    for kind in EVIDENCE:
        is_tied = hashes.isin(tied.loc[tied["kind"] == kind, "sha256"])
        evidence[is_tied] = evidence[is_tied].map(lambda before, kind=kind: f"{before}+{kind}" if before else kind)
    return group, evidence


def _identify(
    used: pd.DataFrame, table: PatientTable | None, pattern: str | None, workspace: Workspace
) -> pd.DataFrame:
    """What is known of each file in use: sha256, patient_id, patient_pattern, patient (all hashes) and split."""
    known = used[["sha256"]].assign(patient_id="", patient_pattern="", split="")
    if table is not None:
        matched = match_rows(table, used["source_name"])
        known["patient_id"] = hash_identities(matched["patient_id"], workspace)
        known["split"] = matched["split"]
        _keep_attributes(matched.assign(sha256=used["sha256"]), table.attributes, workspace)
    else:
        workspace.attributes_file.unlink(missing_ok=True)
    if pattern is not None:
        known["patient_pattern"] = hash_identities(find_in_names(used["source_name"], pattern), workspace)
    known["patient"] = known["patient_id"].where(known["patient_id"] != "", known["patient_pattern"])
    return known


def _keep_attributes(matched: pd.DataFrame, attributes: Sequence[str], workspace: Workspace) -> None:
    with replace_file(workspace.attributes_file, is_private=True) as temporary:
        matched[["sha256", *attributes]].drop_duplicates("sha256").to_parquet(temporary, index=False)


def _list_ties(known: pd.DataFrame) -> pd.DataFrame:
    ties = known.melt("sha256", ["patient_id", "patient_pattern"], var_name="kind", value_name="key")
    return ties[ties["key"] != ""]


def _find_prescribed(known: pd.DataFrame) -> pd.Series:
    prescribed = known.loc[known["split"] != "", ["sha256", "split"]].drop_duplicates()
    twice = prescribed.loc[prescribed["sha256"].duplicated(), "sha256"]
    if len(twice):
        raise SplitError(
            f"data.patients_file: {len(twice)} images are prescribed for two splits by copies of the same file: "
            f"{list_offenders([sha256[:16] for sha256 in twice])}. Give the copies one split."
        )
    splits = prescribed.set_index("sha256")["split"]
    return splits.reindex(known["sha256"].unique(), fill_value="")


def _quarantine_contradictions(manifest: pd.DataFrame, pairs: pd.DataFrame, workspace: Workspace) -> int:
    """Take out images whose equal pixels stand in both class folders; returns the number of files."""
    images = manifest[manifest["state"] == "ready"].set_index("sha256")
    exact = pairs[(pairs["kind"] == "exact") & pairs["first"].isin(images.index) & pairs["second"].isin(images.index)]
    if exact.empty:
        return 0
    cluster, _ = connect(images.index, pd.DataFrame(columns=["sha256", "kind", "key"]), exact)
    is_contradictory = images["label"].groupby(cluster).transform("nunique") > 1
    taken_out = manifest["sha256"].isin(images.index[is_contradictory])
    manifest.loc[taken_out, ["state", "reason"]] = ["quarantined", CONTRADICTORY_LABEL]
    write_quarantine(workspace.quarantine_file, manifest)
    return int(taken_out.sum())


def _count(images: pd.DataFrame, num_contradictory: int) -> GroupReport:
    patients = images.loc[images["patient"] != "", "patient"]
    return GroupReport(
        num_groups=int(images["group"].nunique()),
        largest_group=int(images["group"].value_counts().max()),
        num_patients=int(patients.nunique()),
        num_without_patient=len(images) - len(patients),
        evidence={
            kind: int(images["evidence"].str.split("+").map(lambda kinds, kind=kind: kind in kinds).sum())
            for kind in EVIDENCE
        },
        num_contradictory=num_contradictory,
    )
