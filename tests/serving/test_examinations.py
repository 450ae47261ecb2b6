"""Scores of the images of one patient or study are combined as in the evaluation of a run."""

import zipfile

import numpy as np
import pandas as pd
import pytest

from hip_mri.config import PredictionDataSettings, PreprocessingSettings, SourceLimits
from hip_mri.dataset.manifest import read_manifest
from hip_mri.errors import SettingsError
from hip_mri.evaluation.conformal import DecisionRule
from hip_mri.evaluation.metrics.split_metrics import pool_by_patient
from hip_mri.serving.examinations import (
    EXAMINATION_COLUMNS,
    find_named_patients,
    name_examinations,
    read_prediction_table,
    tabulate_examinations,
)
from hip_mri.serving.prediction_inputs import ingest_inputs
from tests.images.dicom_files import write_dicom

SMALL = PreprocessingSettings(image_size=32)
RULE = DecisionRule(threshold=0.5, error_rate=0.1, min_lesion=0.3, max_normal=0.7, reason="")


def make_rows(**columns):
    rows = pd.DataFrame(columns)
    known = {"by_table": "", "by_pattern": "", "patient": "", "study": "", "num_slices": 1}
    rows = rows.assign(**{name: value for name, value in known.items() if name not in rows})
    return rows.assign(source_name=[f"{number}.png" for number in range(len(rows))])


def make_predictions(examination, score, state="scored"):
    table = pd.DataFrame({"examination": examination, "score": score, "state": state})
    return table.assign(is_outside=False, model="run 0001", model_sha256="ab" * 32)


def test_the_table_comes_before_dicom_files_and_these_before_the_pattern():
    rows = make_rows(
        image_id=list("fedcba"),
        by_table=["p", "p", "", "", "", ""],
        patient=["q", "", "q", "q", "", ""],
        by_pattern=["r", "r", "r", "", "r", ""],
    )
    assert name_examinations(rows).tolist() == ["e", "e", "c", "c", "b", ""]


def test_without_a_patient_a_study_or_a_file_of_slices_is_an_examination():
    rows = make_rows(image_id=list("abcde"), study=["1", "1", "", "", ""], num_slices=[1, 1, 2, 2, 1])
    rows["source_name"] = ["1", "2", "stack", "stack", "single"]
    assert name_examinations(rows).tolist() == ["a", "a", "c", "c", ""]


def test_one_patient_in_all_dicom_files_of_several_studies_is_a_placeholder(caplog):
    rows = make_rows(image_id=list("abc"), patient=["ANON"] * 3, study=["1", "1", "2"])
    assert name_examinations(rows).tolist() == ["a", "a", "c"]
    assert "placeholder" in caplog.text
    assert "ANON" not in caplog.text
    assert name_examinations(rows.assign(study="1")).tolist() == ["a"] * 3


def test_copies_are_in_one_examination(caplog):
    rows = make_rows(image_id=["a", "b", "b", "c"], by_table=["p", "", "q", "q"])
    assert name_examinations(rows).tolist() == ["a", "b", "b", "b"]
    assert not caplog.text
    rows = make_rows(image_id=["a", "b", "b"], by_table=["p", "q", "p"])
    assert name_examinations(rows).tolist() == ["a", "b", "b"]
    assert "1 images are of several patients" in caplog.text


def test_scores_are_combined_as_in_the_evaluation():
    generator = np.random.default_rng(0)
    examination = generator.choice(list("abcdef"), 60)
    scores = generator.random(60)
    table = tabulate_examinations(make_predictions(examination, scores), RULE).set_index("examination")
    _, means = pool_by_patient(np.arange(60) % 2, scores, examination)
    np.testing.assert_array_equal(table.sort_index()["mean_score"], means)
    by_name = pd.Series(scores).groupby(examination)
    np.testing.assert_array_equal(table.sort_index()["max_score"], by_name.max())
    np.testing.assert_array_equal(table.sort_index()["num_images"], by_name.size())
    assert table["mean_score"].is_monotonic_decreasing


def test_label_and_decision_are_those_of_the_mean_score():
    predictions = make_predictions(["a", "a", "b", "c", "d", ""], [0.9, 0.8, 0.6, 0.1, np.nan, 1.0])
    predictions["state"] = ["scored"] * 4 + ["unreadable", "scored"]
    predictions.loc[0, "is_outside"] = True
    table = tabulate_examinations(predictions, RULE)
    assert tuple(table.columns) == EXAMINATION_COLUMNS
    assert table["examination"].tolist() == list("abcd")
    assert table["label"].tolist() == ["osseous_lesion", "osseous_lesion", "normal", ""]
    assert table["decision"].tolist() == ["osseous_lesion", "uncertain", "normal", ""]
    assert table["num_images"].tolist() == [2, 1, 1, 0]
    assert table["num_outside"].tolist() == [1, 0, 0, 0]
    assert table["num_unreadable"].tolist() == [0, 0, 0, 1]
    assert table["max_score"].tolist()[:3] == [0.9, 0.6, 0.1]


def test_without_a_threshold_for_patients_there_is_no_label():
    table = tabulate_examinations(make_predictions(["a", "b"], [0.9, 0.1]), None)
    assert table["label"].tolist() == table["decision"].tolist() == ["", ""]
    assert table["threshold"].isna().all()
    assert table["mean_score"].tolist() == [0.9, 0.1]


def test_no_identity_gives_no_examination():
    assert tabulate_examinations(make_predictions(["", ""], [0.9, 0.1]), RULE).empty


@pytest.mark.parametrize("is_in_source", [True, False])
def test_patients_of_a_table_never_reach_the_disk(is_in_source, draw, encode, pack, workspace, tmp_path):
    table = b"source_name,patient_id\none.png,Muster Erika\ntwo.png,Muster Erika\nthree.png,Other\n"
    images = {name: encode(draw(seed)) for seed, name in enumerate(("one.png", "two.png", "three.png", "four.png"))}
    (tmp_path / "given.csv").write_bytes(table)
    source = pack(images | ({"patients.csv": table} if is_in_source else {}))
    data = PredictionDataSettings(patients_file=None if is_in_source else tmp_path / "given.csv")
    report = ingest_inputs(source, workspace, SMALL, 1, data=data)
    assert (report.num_images, report.num_unreadable, report.num_ignored) == (4, 0, int(is_in_source))
    names = pd.read_csv(workspace.batch_names_file, keep_default_na=False, dtype="str").set_index("source_name")
    ids = names["image_id"]
    smallest = min(ids["one.png"], ids["two.png"])
    expected = {"one.png": smallest, "two.png": smallest, "three.png": ids["three.png"], "four.png": ""}
    assert names["examination"].to_dict() == expected
    manifest = read_manifest(workspace.manifest_file).set_index("image_id")
    assert manifest["patient"].to_dict() == {ids[name]: found for name, found in expected.items()}
    written = [file.read_bytes() for file in workspace.root.rglob("*") if file.is_file() and file != source]
    assert not any(b"Muster" in content for content in written)


def test_patients_and_studies_of_dicom_files(draw, pack, workspace):
    files = {
        f"{number}.dcm": write_dicom(draw(number), PatientID=patient or None, StudyInstanceUID=study or None)
        for number, (patient, study) in enumerate([("p", "1.2"), ("p", "1.3"), ("", "1.4"), ("", "1.4"), ("", "")])
    }
    ingest_inputs(pack(files), workspace, SMALL, 1)
    found = pd.read_csv(workspace.batch_names_file, keep_default_na=False, dtype="str")["examination"]
    assert sorted(found.value_counts().to_dict().values()) == [1, 2, 2]


def test_a_pattern_names_patients_and_must_match():
    found = find_named_patients(["p1/a.png", "p2/b.png", "c.png"], None, r"(p\d)/")
    assert found["by_pattern"].to_dict() == {"p1/a.png": "p1", "p2/b.png": "p2", "c.png": ""}
    with pytest.raises(SettingsError, match="patient_pattern"):
        find_named_patients(["c.png"], None, r"(p\d)/")


def test_a_table_without_patients_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("source_name,label\na.png,normal\n")
    with pytest.raises(SettingsError, match="patients_file names no patient"):
        read_prediction_table(tmp_path, tmp_path / "t.csv", SourceLimits())


def test_a_table_of_another_program_in_the_source_is_ignored(tmp_path):
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("patients.csv", "age,sex\n40,f\n")
    assert read_prediction_table(tmp_path / "s.zip", None, SourceLimits()) is None
