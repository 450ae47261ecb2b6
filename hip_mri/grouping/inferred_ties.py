"""Relates images of one examination where no patient is named, and keeps what earlier runs inferred.

Images that were inferred to be of one examination stay related, and those that were not stay apart: later images, from
which the limits are learned anew, change no decision on two earlier images.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.dataset.pseudonyms import resolve_pseudonyms
from hip_mri.dataset.row_store import RowStore
from hip_mri.dataset.table_files import read_table, write_table
from hip_mri.grouping.evidence import INFERRED_EVIDENCE
from hip_mri.grouping.examinations.descriptors import (
    Descriptors,
    describe_features,
    find_informative_order,
    make_comparable,
)
from hip_mri.grouping.examinations.images import JOIN_COLUMNS, UNKNOWN
from hip_mri.grouping.examinations.inference import Inference, infer_examinations
from hip_mri.grouping.examinations.sequences import list_sequences
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

MIN_NUM_IMAGES: Final = 60
"""Images from which examinations are inferred; from fewer no limit can be learned."""

MAX_EXAMINATION_FRACTION, MIN_BOUND, MAX_BOUND = 0.1, 60, 500
"""Largest inferred examination: this fraction of all images, but within these numbers of images."""

BORDER_COLUMNS: Final = (*JOIN_COLUMNS, "is_joined")
"""As `JOIN_COLUMNS`, with the SHA-256 of the two images, and whether they are joined."""

RECORD_COLUMNS: Final = ("sha256", "examination", "evidence", "certainty")
"""SHA-256 of an image, that of the first image of its examination, the evidence that relates it to others (`order`,
`features`, both joined by `+`, or empty), and the probability of its closest relation, or else that of having none."""


@dataclass(frozen=True)
class DescriptorStore:
    """Where descriptors of one kind are computed from.

    Attributes:
        store: Rows of images.
        describe: Turns rows to descriptors; see `Descriptors`.
        field: Field of the rows that is read, if they have several.
    """

    store: RowStore
    describe: Callable[[NDArray], NDArray[np.float32]]
    field: str | None = None

    def open(self, hashes: pd.Series) -> Descriptors:
        """Open the descriptors of images, by SHA-256 and in their order."""
        return Descriptors(replace(self.store.select(hashes, mirrored=False), field=self.field), self.describe)


@dataclass(frozen=True)
class InferredReport:
    """Counts of the inferred examinations, with the expected errors.

    Attributes:
        num_images: Images whose examination was inferred.
        num_examinations: Their examinations.
        num_ordered: Images whose order was used.
        has_features: Whether features of a pretrained network were compared besides thumbnails.
        false_cuts: Expected fraction of the neighbors within examinations that are in two groups; `None` without an
            order.
        missed_borders: Expected fraction of the borders between examinations that are within a group; as above.
    """

    num_images: int
    num_examinations: int
    num_ordered: int
    has_features: bool
    false_cuts: float | None
    missed_borders: float | None


def find_order(images: pd.DataFrame, kinds: Sequence[DescriptorStore], workspace: Workspace, seed: int) -> pd.DataFrame:
    """Find the order of the images, and write it to `order.parquet`.

    Args:
        images: Rows of the manifest that are in use.
        kinds: Descriptors, by which an order that brings no similar images together is found and ignored; without any,
            and for few images, every order counts.
        workspace: Its names of files are read.
        seed: Seed of the random choices.

    Returns:
        The images sorted by their order, with the columns sequence (`UNKNOWN` without an order) and place.
    """
    images = images.assign(source_name=resolve_pseudonyms(images["entry"], workspace))
    order = list_sequences(images)
    images = images.merge(order, on="sha256", how="left").fillna({"sequence": UNKNOWN, "place": 0})
    images = images.astype({"sequence": np.int64, "place": np.int64})
    images = images.sort_values(["sequence", "place", "sha256"], ignore_index=True)
    if kinds and len(images) >= MIN_NUM_IMAGES:
        opened = [kind.open(images["sha256"]) for kind in kinds]
        is_informative = find_informative_order(opened, images["sequence"].to_numpy(), seed)
        images["sequence"] = images["sequence"].where(is_informative, UNKNOWN)
        images = images.sort_values(["sequence", "place", "sha256"], ignore_index=True)
    write_table(workspace.order_file, order)
    return images


def infer_ties(
    images: pd.DataFrame,
    kinds: Sequence[DescriptorStore],
    patients: pd.Series,
    placed: pd.Series,
    workspace: Workspace,
    seed: int,
) -> tuple[pd.DataFrame, InferredReport | None]:
    """Infer which images without a named patient are of one examination.

    Args:
        images: From `find_order`.
        kinds: Descriptors that are compared.
        patients: Patient of each image whose patient is named, by SHA-256.
        placed: SHA-256 of the images that earlier runs have split; the record of others, of a run that did not get so
            far, is made anew.
        workspace: Its record of examinations is extended, and `borders.parquet` written.
        seed: Seed of the random choices.

    Returns:
        Columns sha256, kind and key, as `evidence.TIE_COLUMNS`, and the counts, if anything was inferred in this run.
    """
    images = images.assign(patient=patients.reindex(images["sha256"], fill_value="").to_numpy())
    is_named = images["patient"] != ""
    recorded = read_examinations(workspace)
    recorded = recorded[recorded["sha256"].isin(placed)]
    if len(images) < MIN_NUM_IMAGES or is_named.all():
        return _list_ties(recorded, patients), None
    pairs, inference = _infer_pairs(images, kinds, seed)
    write_table(workspace.borders_file, pairs)
    recorded, bridges = _extend_record(recorded, list(images["sha256"]), pairs)
    write_table(workspace.examinations_file, recorded)
    found = recorded[recorded["sha256"].isin(images.loc[~is_named, "sha256"])]
    report = InferredReport(
        num_images=len(found),
        num_examinations=found["examination"].nunique(),
        num_ordered=int((images["sequence"] != UNKNOWN).sum()),
        has_features=any(kind.describe is describe_features for kind in kinds),
        false_cuts=inference.false_cuts,
        missed_borders=inference.missed_borders,
    )
    logger.info(
        "Inferred %d examinations of %d images without a named patient, by %s%s",
        *(report.num_examinations, report.num_images),
        "the order of files and " if report.num_ordered else "",
        "features and thumbnails" if report.has_features else "thumbnails",
    )
    return pd.concat([_list_ties(recorded, patients), bridges], ignore_index=True), report


def read_examinations(workspace: Workspace) -> pd.DataFrame:
    """Read the examinations that earlier runs inferred; columns of `RECORD_COLUMNS`."""
    advice = "Restore it from a backup, or remove it: examinations are inferred anew."
    return read_table(workspace.examinations_file, RECORD_COLUMNS, advice)


def _infer_pairs(images: pd.DataFrame, kinds: Sequence[DescriptorStore], seed: int) -> tuple[pd.DataFrame, Inference]:
    """Pairs of images at borders and across sequences; columns of `BORDER_COLUMNS`."""
    codes, names = pd.factorize(images["patient"])
    patient = np.where(names[codes] == "", UNKNOWN, codes)
    opened = [kind.open(images["sha256"]) for kind in kinds]
    comparable = make_comparable(opened, images["sequence"].to_numpy(), patient, seed)
    max_images = int(np.clip(MAX_EXAMINATION_FRACTION * len(images), MIN_BOUND, MAX_BOUND))
    inference = infer_examinations(comparable, max_images, seed)
    hashes = images["sha256"].to_numpy()
    joins, cuts = _name_ends(inference.joins, hashes), _name_ends(inference.cuts, hashes)
    return pd.concat([joins.assign(is_joined=True), cuts.assign(is_joined=False)], ignore_index=True), inference


def _name_ends(joins: pd.DataFrame, hashes: NDArray) -> pd.DataFrame:
    return joins.assign(**{end: pd.Series(hashes[joins[end]], dtype="str") for end in ("first", "second")})


def _extend_record(
    recorded: pd.DataFrame, hashes: Sequence[str], pairs: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Add new images to the examination to which they are related with the greatest certainty.

    Returns:
        The extended record, and ties of new images that relate two recorded examinations, which are never merged.
    """
    earlier = set(recorded["sha256"])
    new = [sha256 for sha256 in hashes if sha256 not in earlier]
    is_new = ~(pairs["first"].isin(earlier) & pairs["second"].isin(earlier))
    joined = pairs[pairs["is_joined"] & is_new].sort_values("certainty", ascending=False)
    examination = dict(zip(recorded["sha256"], recorded["examination"], strict=True)) | {name: name for name in new}
    members = {name: [name] for name in new}
    bridges = []
    for first, second in zip(joined["first"], joined["second"], strict=True):
        names = sorted({examination[first], examination[second]}, key=lambda name: name in members)
        if len(names) == 1:
            continue
        kept, gone = names
        if gone not in members:
            bridges += [(first, "features", f"{first}/{second}"), (second, "features", f"{first}/{second}")]
            continue
        for sha256 in members.pop(gone):
            examination[sha256] = kept
            if kept in members:
                members[kept].append(sha256)
    added = pd.DataFrame({"sha256": new, "examination": [examination[name] for name in new]}, dtype="str")
    added = added.join(_describe_relations(pairs[is_new]), on="sha256").fillna({"evidence": "", "certainty": 1.0})
    return pd.concat([recorded, added], ignore_index=True), pd.DataFrame(bridges, columns=["sha256", "kind", "key"])


def _describe_relations(pairs: pd.DataFrame) -> pd.DataFrame:
    """Evidence and certainty of each image (index) of these pairs; see `RECORD_COLUMNS`."""
    ends = pd.concat([pairs.assign(sha256=pairs[end]) for end in ("first", "second")])
    by_kind = (
        ends[ends["is_joined"]]
        .groupby(["sha256", "kind"])["certainty"]
        .max()
        .unstack()
        .reindex(columns=INFERRED_EVIDENCE)
    )
    evidence = np.select(
        [by_kind.notna().all(axis="columns"), by_kind["order"].notna()], ["order+features", "order"], "features"
    )
    related = pd.DataFrame({"evidence": evidence, "certainty": by_kind.max(axis="columns")})
    cut = ends[~ends["is_joined"]].groupby("sha256")["certainty"].max()
    alone = pd.DataFrame({"evidence": "", "certainty": 1 - cut})
    return pd.concat([related, alone[~alone.index.isin(related.index)]])


def _list_ties(recorded: pd.DataFrame, patients: pd.Series) -> pd.DataFrame:
    """Ties of the images of each recorded examination, except those whose patients are named and differ."""
    known = recorded.assign(patient=patients.reindex(recorded["sha256"], fill_value="").to_numpy())
    named = known[known["patient"] != ""]
    num_patients = named.groupby("examination")["patient"].nunique()
    is_divided = known["examination"].isin(num_patients.index[num_patients > 1])
    ties = known[~(is_divided & (known["patient"] != ""))]
    ties = ties.assign(kind=ties["evidence"].str.split("+").str[0].replace("", "order"), key=ties["examination"])
    return ties.loc[ties.groupby("key")["sha256"].transform("size") > 1, ["sha256", "kind", "key"]]
