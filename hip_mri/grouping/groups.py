"""Groups related images, so that no test image is related to a training image.

Evidence comes from the user (a table of patients, a pattern of file names), from DICOM files, which name their patient,
study and series, from the images (near duplicates; equal ones are one image), and, where no patient is named, from the
order of the files and from features. Groups are the connected components of all evidence. It includes the images of
earlier runs that the source no longer holds, so that new images related to them join their split.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import pandas as pd

from hip_mri.config import LABELS, SPLITS, DataSettings
from hip_mri.dataset.identities import read_identities
from hip_mri.dataset.ingest import CONTRADICTORY_LABEL, check_class_sizes
from hip_mri.dataset.manifest import read_manifest, write_manifest
from hip_mri.dataset.row_store import RowStore
from hip_mri.dataset.split_registry import read_split_registry
from hip_mri.dataset.table_files import write_table
from hip_mri.grouping.evidence import TIE_COLUMNS, connect, count_evidence
from hip_mri.grouping.examinations.descriptors import describe_features, describe_orientations
from hip_mri.grouping.fingerprints import list_fingerprinted, open_fingerprints
from hip_mri.grouping.inferred_ties import DescriptorStore, InferredReport, find_order, infer_ties
from hip_mri.grouping.similarity import find_similar_images
from hip_mri.sources.split_folders import UNDECIDED
from hip_mri.storage import read_json, write_json
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

MIN_PLACEHOLDER_IMAGES: Final = len(SPLITS) * len(LABELS)
"""Images that must share their only patient id for it to count as a placeholder: one per split and class."""


@dataclass(frozen=True)
class GroupReport:
    """Counts of the groups.

    Attributes:
        num_patients: Patients known by table, pattern or DICOM files.
        num_without_patient: Images in use whose patient is not known.
        evidence: Number of images that each kind of evidence relates to another image.
        num_contradictory: Files that are quarantined because their pixels are in both classes.
        attributes: Name of the table in the workspace that holds further columns of the table of patients.
        given_split_by: What gives images their split: `folders`, `table`, `folders and table`, or nothing.
        split_tables: SHA-256 of each table of the publisher's split, by split.
        num_given_twice: Images whose copies are given several splits; test takes precedence over validation, and
            validation over training.
        has_constant_patient: Whether a patient id that all images have is ignored as a placeholder.
        inferred: Examinations that were inferred; `None` if that is switched off, or not needed.
    """

    num_patients: int
    num_without_patient: int
    evidence: dict[str, int]
    num_contradictory: int
    attributes: str | None
    given_split_by: str = ""
    split_tables: Mapping[str, str] = field(default_factory=dict)
    num_given_twice: int = 0
    has_constant_patient: bool = False
    inferred: InferredReport | None = None

    @property
    def is_patient_level(self) -> bool:
        """Whether the patient of every image is known, so that figures may be called patient-level."""
        return self.num_without_patient == 0


def group_images(
    workspace: Workspace, settings: DataSettings, num_threads: int, features: RowStore | None = None, seed: int = 0
) -> GroupReport:
    """Find the groups of the manifest's images and write them to the manifest.

    A split that folders or the table of patients give is written to the manifest, for `split_manifest` to keep.

    Args:
        workspace: Holds the identities of its images (see `identify_images`). The columns patient, group, evidence and,
            where the source gives it, split of its manifest are written; its `ties.parquet` is replaced by all evidence
            with the resulting groups.
        settings: Which evidence is used. Similar images are found by their fingerprints.
        num_threads: Threads that compare images.
        features: Features of a pretrained network, by which examinations are inferred besides thumbnails.
        seed: Seed of the random comparisons with which they are inferred.

    Returns:
        The counts.

    Raises:
        SplitError: Too few images are left.
    """
    manifest = read_manifest(workspace.manifest_file).reset_index(drop=True)
    used = manifest[manifest["state"].isin(["ready", "duplicate"])]
    ready = manifest[manifest["state"] == "ready"]
    registry = read_split_registry(workspace)
    keep_given_split = settings.given_split == "keep"
    identities = read_identities(set(manifest["delivery"]), workspace, keep_given_split=keep_given_split)
    known = identities.images[identities.images["sha256"].isin(used["sha256"])]
    known, has_constant_patient = _drop_placeholders(known, workspace)
    known = _add_earlier_patients(known, registry)
    given = _find_given_splits(known)
    absent = registry[~registry["sha256"].isin(used["sha256"])]
    named = known[known["patient"] != ""].groupby("sha256")["patient"].first()

    check_class_sizes(ready["label"], manifest["reason"], workspace.quarantine_file)
    similar = _find_similar(ready, absent, workspace, settings, num_threads)
    inferred_ties, inferred = _infer(ready, named, registry["sha256"], workspace, settings, features, seed)
    ties = pd.concat([_tie_patients(known, absent), _tie_pairs(similar), inferred_ties], ignore_index=True)
    nodes = pd.Index(ready["sha256"]).append(pd.Index(absent["sha256"]))
    ties = ties[ties["sha256"].isin(nodes)]
    group, evidence = connect(nodes, ties)
    ties = ties.assign(group=group[nodes.get_indexer(pd.Index(ties["sha256"]))])
    write_table(workspace.ties_file, ties.sort_values(list(TIE_COLUMNS)))

    place = ready.index
    manifest.loc[place, "group"] = ready["image_id"].groupby(group[: len(ready)]).transform("min")
    manifest.loc[place, "evidence"] = evidence.iloc[: len(ready)].to_numpy()
    manifest.loc[place, "patient"] = named.reindex(ready["sha256"], fill_value="").to_numpy()
    manifest.loc[place, "split"] = given["split"].reindex(ready["sha256"], fill_value="").to_numpy()
    write_manifest(workspace.manifest_file, manifest)
    grouped = manifest.loc[place]
    patients = grouped.loc[grouped["patient"] != "", "patient"]
    report = GroupReport(
        num_patients=int(patients.nunique()),
        num_without_patient=len(grouped) - len(patients),
        evidence=count_evidence(grouped["evidence"]),
        num_contradictory=int((manifest["reason"] == CONTRADICTORY_LABEL).sum()),
        attributes=identities.attributes,
        given_split_by=" and ".join(sorted(set(known["split_by"]) - {""})),
        split_tables=read_json(workspace.split_tables_file) if workspace.split_tables_file.exists() else {},
        num_given_twice=int(given["is_given_twice"].sum()),
        has_constant_patient=has_constant_patient,
        inferred=inferred,
    )
    _log_groups(grouped["group"], report)
    return report


def _find_similar(
    ready: pd.DataFrame, absent: pd.DataFrame, workspace: Workspace, settings: DataSettings, num_threads: int
) -> pd.DataFrame:
    """Pairs of near duplicates, those of earlier images among them; without rows if they are not searched."""
    compared = []
    if settings.group_similar:
        compared = [*ready["sha256"], *list_fingerprinted(list(absent["sha256"]), workspace)]
    return find_similar_images(compared, workspace, num_threads)


def _infer(
    ready: pd.DataFrame,
    named: pd.Series,
    placed: pd.Series,
    workspace: Workspace,
    settings: DataSettings,
    features: RowStore | None,
    seed: int,
) -> tuple[pd.DataFrame, InferredReport | None]:
    """Ties of inferred examinations and their counts; the order of the images is found and written in any case."""
    kinds = _list_descriptors(workspace, settings, features)
    ordered = find_order(ready, kinds, workspace, seed)
    if not settings.infer_examinations:
        return pd.DataFrame(columns=list(TIE_COLUMNS), dtype="str"), None
    return infer_ties(ordered, kinds, named, placed, workspace, seed)


def _log_groups(groups: pd.Series, report: GroupReport) -> None:
    counts = [f"{count} by {kind}" for kind, count in report.evidence.items() if count]
    sizes = groups.value_counts()
    logger.info(
        "%d groups, the largest of %d images; related: %s", len(sizes), sizes.max(), ", ".join(counts) or "none"
    )


def _list_descriptors(workspace: Workspace, settings: DataSettings, features: RowStore | None) -> list[DescriptorStore]:
    """Descriptors by which images can be compared."""
    kinds = [DescriptorStore(features, describe_features)] if features is not None else []
    if settings.group_similar or settings.infer_examinations:
        kinds.append(DescriptorStore(open_fingerprints(workspace), describe_orientations, "thumbnail"))
    return kinds


def _tie_patients(known: pd.DataFrame, absent: pd.DataFrame) -> pd.DataFrame:
    """Ties of images of one series, study or patient; the patient id of one may equal the pattern of another's name."""
    ties = known.melt("sha256", ["patient_id", "patient_pattern", "study", "series"], var_name="kind", value_name="key")
    earlier = absent.loc[:, ["sha256", "patient"]].rename(columns={"patient": "key"}).assign(kind="patient_id")
    ties = pd.concat([ties, earlier])
    return ties.loc[ties["key"] != "", list(TIE_COLUMNS)].drop_duplicates()


def _tie_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    key = pairs["first"] + "/" + pairs["second"]
    ends = [pd.DataFrame({"sha256": pairs[end], "kind": pairs["kind"], "key": key}) for end in ("first", "second")]
    return pd.concat(ends, ignore_index=True).astype("str")


def _add_earlier_patients(known: pd.DataFrame, registry: pd.DataFrame) -> pd.DataFrame:
    """Fill in the patients of earlier runs where the current table and pattern give none."""
    earlier = registry.set_index("sha256")["patient"].reindex(known["sha256"], fill_value="").set_axis(known.index)
    is_unknown = known["patient"] == ""
    return known.assign(**{column: known[column].where(~is_unknown, earlier) for column in ("patient_id", "patient")})


def _find_given_splits(known: pd.DataFrame) -> pd.DataFrame:
    """The split that each image is given, by SHA-256 (column split), and whether its copies are given other splits."""
    order = {split: number for number, split in enumerate((*reversed(SPLITS), *UNDECIDED))}
    given = known.loc[known["split"] != "", ["sha256", "split"]].drop_duplicates()
    given = given.sort_values("split", key=lambda splits: splits.map(order), kind="stable")
    is_given_twice = given["sha256"].duplicated(keep=False)
    return given.assign(is_given_twice=is_given_twice).drop_duplicates("sha256").set_index("sha256")


def _drop_placeholders(known: pd.DataFrame, workspace: Workspace) -> tuple[pd.DataFrame, bool]:
    """Ignore a patient or study that all images have: a placeholder of an export, which would make them one group.

    Ignored ids are stored, so that their images are not related later, when they are in different splits.

    Returns:
        The table without these ids, and whether there are any of patients.
    """
    file, columns = workspace.ignored_patients_file, ["patient_id", "patient_pattern", "study"]
    earlier = set(read_json(file)) if file.exists() else set()
    ignored = earlier | {patient for column in columns if (patient := _find_placeholder(known, column))}
    if ignored > earlier:
        write_json(file, sorted(ignored))
    is_ignored = known[columns].isin(ignored)
    is_patient, is_study = is_ignored[columns[:2]].any(axis="columns"), is_ignored["study"]
    for name, is_affected in {"patient": is_patient, "study": is_study}.items():
        if is_affected.any():
            logger.warning(
                "%d of %d images name one and the same %s, as a placeholder does; it is ignored. Give a table of "
                "patients with --data.patients-file",
                *(known.loc[is_affected, "sha256"].nunique(), known["sha256"].nunique(), name),
            )
    kept = known[columns].mask(is_ignored, "")
    patient = kept["patient_id"].where(kept["patient_id"] != "", kept["patient_pattern"])
    return known.assign(**kept, patient=patient), bool(is_patient.any())


def _find_placeholder(known: pd.DataFrame, column: str) -> str:
    """The patient or study that all images have in a column; empty if they differ, one has none, or for few images.

    An image without id shows that the ids come from single files or rows, so the patient may be real: the images stay
    related, and where that leaves too few groups, the split fails instead of dividing a patient.
    """
    named = known[known[column] != ""]
    num_images = known["sha256"].nunique()
    is_placeholder = named[column].nunique() == 1 and named["sha256"].nunique() == num_images >= MIN_PLACEHOLDER_IMAGES
    return str(named[column].iloc[0]) if is_placeholder else ""
