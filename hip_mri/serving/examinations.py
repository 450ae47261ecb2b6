"""Combines the scores of the images of one examination, as the evaluation of a run combines those of a patient.

Patients are named by the table of patients, else by DICOM files (PatientID), else by the pattern of file names. Where
no patient is named, the images of one DICOM study belong together, else those of one file with several. An examination
is named by the smallest image id of its files, which does not identify a patient; identities are held in memory only.
Images without an identity are in no examination: one patient could be counted several times.
"""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from hip_mri.config import LABELS, SourceLimits
from hip_mri.errors import SettingsError
from hip_mri.evaluation.conformal import DecisionRule, decide
from hip_mri.evaluation.metrics.split_metrics import average_scores
from hip_mri.sources.source import is_single_image
from hip_mri.sources.tables.delivered_table import read_patients_table
from hip_mri.sources.tables.patient_table import (
    PatientTable,
    find_in_names,
    has_needed_columns,
    match_rows,
    parse_patient_table,
    read_patient_file,
)

logger = logging.getLogger(__name__)

EXAMINATION_COLUMNS: Final = (
    "examination",  # smallest image id of its files; `names.csv` has their names
    "num_images",  # images that were scored
    "mean_score",  # mean of their scores, 0-1
    "max_score",  # highest of their scores, 0-1
    "label",  # by the mean score at the threshold; empty where the model's run has no threshold for patients
    "threshold",  # of the model for mean scores of patients, chosen on validation patients
    "decision",  # of the mean score: `normal`, `osseous_lesion` or `uncertain`; empty where it is not calibrated
    "num_outside",  # images outside the training distribution, which the scores include
    "num_unreadable",  # files that could not be used
    "model",  # name of the version or the run
    "model_sha256",  # of its file
)
"""Columns of `examinations.csv`, one row per examination."""


def read_prediction_table(source_file: Path, patients_file: Path | None, limits: SourceLimits) -> PatientTable | None:
    """Read the table of patients: the user's if given, else that of the source, if any.

    Raises:
        SettingsError: The user's table cannot be used or names no patient.
        SourceError: The source has several tables.
    """
    if patients_file is not None:
        table = read_patient_file(patients_file)
        if not (table.rows["patient_id"] != "").any():
            raise SettingsError(
                "data.patients_file names no patient. Give a table with the columns source_name and patient_id."
            )
        return table
    content = None if is_single_image(source_file) else read_patients_table(source_file, limits)
    if content is None or not has_needed_columns(content):
        return None
    return parse_patient_table(content, "source: its table of patients")


def find_named_patients(source_names: Collection[str], table: PatientTable | None, pattern: str | None) -> pd.DataFrame:
    """Find the patients that table and pattern name.

    Args:
        source_names: Paths of the files in the source.
        table: See `read_prediction_table`.
        pattern: See `find_in_names`.

    Returns:
        Columns `by_table` and `by_pattern`, empty where a file names none, with the paths as index.

    Raises:
        SettingsError: Table or pattern match no file.
    """
    names = pd.Series(sorted(source_names), index=sorted(source_names), dtype="str")
    empty = pd.Series("", index=names.index, dtype="str")
    by_table = empty if table is None else match_rows(table, names)["patient_id"]
    by_pattern = empty if pattern is None else find_in_names(names, pattern)
    return pd.DataFrame({"by_table": by_table, "by_pattern": by_pattern})


def name_examinations(rows: pd.DataFrame) -> pd.Series:
    """Name the examination of each picture.

    Args:
        rows: Columns image_id, by_table, by_pattern, patient and study (of DICOM files), source_name and num_slices,
            one row per picture or unreadable file; empty texts where nothing is known. Rows with the same image id are
            copies.

    Returns:
        Smallest image id of the examination, empty without an identity; the index is that of `rows`. Copies are in the
        examination of the first of them that has an identity.
    """
    identity = rows["by_table"]
    for found in (_drop_placeholder(rows["patient"], rows["study"]), rows["by_pattern"]):
        identity = identity.mask(identity == "", found)
    identity = identity.mask(identity != "", "patient " + identity)
    stack = rows["source_name"].where(rows["num_slices"] > 1, "")
    for kind, found in {"study": rows["study"], "file": stack}.items():
        identity = identity.mask((identity == "") & (found != ""), f"{kind} " + found)
    named = identity[identity != ""]
    of_image = named.groupby(rows["image_id"]).first().to_dict()
    if num_contradictory := int((named.groupby(rows["image_id"]).nunique() > 1).sum()):
        logger.warning(
            "%d images are of several patients or studies, as copies; the first one counts", num_contradictory
        )
    identity = pd.Series([of_image.get(image_id, "") for image_id in rows["image_id"]], rows.index, dtype="str")
    return rows["image_id"].groupby(identity).transform("min").where(identity != "", "")


def _drop_placeholder(patient: pd.Series, study: pd.Series) -> pd.Series:
    """Ignore a patient whom all DICOM files name although they are of several studies: a placeholder of an export."""
    is_dicom = (patient != "") | (study != "")
    patients, studies = patient[is_dicom].unique(), study[is_dicom].unique()
    if len(patients) != 1 or patients[0] == "" or len(studies) < 2:
        return patient
    logger.warning(
        "All DICOM files name one patient, in %d studies. It may be a placeholder, so each study is an examination; "
        "give a table of patients with --data.patients-file otherwise",
        len(studies),
    )
    return pd.Series("", patient.index, dtype="str")


def tabulate_examinations(predictions: pd.DataFrame, rule: DecisionRule | None) -> pd.DataFrame:
    """Combine the scores of each examination.

    Args:
        predictions: The columns examination, state, score, is_outside, model and model_sha256 of `predictions.csv`.
        rule: Rule for the mean score of a patient; `None` if the model's run has no threshold for patients.

    Returns:
        The columns of `EXAMINATION_COLUMNS`, the highest mean score first. Without images that could be scored, the
        scores are missing and the label is empty.
    """
    known = predictions[predictions["examination"] != ""]
    names, numbers = np.unique(known["examination"], return_inverse=True)
    is_scored = (known["state"] == "scored").to_numpy()
    scores, of = known["score"].to_numpy(np.float64)[is_scored], numbers[is_scored]
    num_images = np.bincount(of, minlength=len(names))
    means, highest = average_scores(scores, of, len(names)), np.full(len(names), -np.inf)
    np.maximum.at(highest, of, scores)
    table = pd.DataFrame(
        {
            "examination": names,
            "num_images": num_images,
            "mean_score": means,
            "max_score": np.where(num_images > 0, highest, np.nan),
            "num_outside": np.bincount(numbers, known["is_outside"].eq(True), len(names)).astype(int),
            "num_unreadable": np.bincount(numbers[~is_scored], minlength=len(names)),
        }
    )
    calls = np.where(means >= rule.threshold, LABELS[1], LABELS[0]) if rule else ""
    table = table.assign(
        label=np.where(num_images > 0, calls, ""),
        threshold=rule.threshold if rule else np.nan,
        decision=decide(means, rule) if rule else "",
        **{name: known[name].iloc[0] if len(known) else "" for name in ("model", "model_sha256")},
    )
    table = table.sort_values(["mean_score", "examination"], ascending=[False, True], ignore_index=True)
    return table.loc[:, list(EXAMINATION_COLUMNS)]
