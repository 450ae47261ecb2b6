"""Tables as people have them, and labels from a table instead of class folders."""

from collections import Counter

import pandas as pd
import pytest

from hip_mri.config import DataSettings
from hip_mri.dataset.deliveries import Delivery, fetch_deliveries
from hip_mri.dataset.identities import check_patient_tables, identify_images
from hip_mri.dataset.ingest import ingest_images
from hip_mri.dataset.pseudonyms import read_named_manifest
from hip_mri.errors import SettingsError, SourceError
from hip_mri.grouping.groups import group_images
from hip_mri.sources.tables.delivered_table import read_patients_table
from hip_mri.sources.tables.patient_table import find_in_names, find_rows, match_rows, parse_patient_table
from hip_mri.sources.tables.text import read_lines

ROWS = [["source_name", "patient_id", "sex"], ["normal/Müller.png", "007", "f"], ["osseous_lesion/b.png", "8", ""]]


def write(separator: str = ",", end: str = "\n", last: str = "") -> str:
    return "".join(separator.join(row) + last + end for row in ROWS)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_usual_encodings_and_separators_are_read(separator, encoding, end):
    assert read_lines(write(separator, end).encode(encoding), "table") == ROWS


@pytest.mark.parametrize("separator", [",", ";"])
def test_fields_behind_the_last_heading_that_hold_nothing_are_dropped(separator):
    assert read_lines(write(separator, last=separator).encode(), "table") == ROWS
    assert read_lines(write(separator, last=3 * separator).encode(), "table") == ROWS
    assert read_lines(f"\n{write(separator)}{3 * separator}\n".encode(), "table") == ROWS


def test_a_line_that_tells_excel_the_separator_is_read():
    assert read_lines(f"sep=;\r\n{write(';')}".encode(), "table") == ROWS


def test_a_column_without_heading_is_dropped_where_it_holds_nothing():
    assert read_lines(b"a,,b\n1,,2\n", "table") == [["a", "b"], ["1", "2"]]
    for content in (b"a,,b\n1,x,2\n", b"a,b,\n1,2,x\n"):
        with pytest.raises(SettingsError, match=r"column [23]"):
            read_lines(content, "table")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\3\4" + bytes(50), "Excel"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\xff\xfe\x00", "UTF-16"),
        (b'a,b\n"x"y,2\n', "CSV"),
        (b"a,b\n1,2,3\n1\n", "than 2 fields: 2, 3"),
    ],
)
def test_what_is_no_table_is_told(content, message):
    with pytest.raises(SettingsError, match=message):
        read_lines(content, "table")


@pytest.mark.parametrize(
    "heading", ["Source_Name,PATIENT_ID,Split", "source name,Patient-ID,SPLIT", "SourceName,PatientID,split"]
)
def test_headings_are_known_in_any_case(heading):
    rows = parse_patient_table(f"{heading}\na.png,1,Validation\n".encode(), "table").rows
    assert rows[["source_name", "patient_id", "split", "label"]].to_numpy().tolist() == [["a.png", "1", "val", ""]]


@pytest.mark.parametrize("column", ["patient_id", "label", "split"])
def test_one_fact_is_enough(column):
    assert len(parse_patient_table(f"source_name,{column}\na.png,test\n".encode(), "table").rows) == 1


def test_windows_paths_and_a_leading_dot_are_read():
    table = parse_patient_table(b"source_name,patient_id\nnormal\\img00.png,P0\n.\\osseous_lesion\\img00.png,P1\n", "t")
    found = match_rows(
        table, pd.Series(["hips/normal/img00.png", "hips/osseous_lesion/img00.png", "hips\\normal\\x.png"])
    )
    assert list(found["patient_id"]) == ["P0", "P1", ""]


def test_rows_name_files_by_any_number_of_last_parts():
    names = pd.Series(["train/normal/P1/a.png", "train/normal/P1/b.png", "train/normal/P2/a.png", "test/c.png"])
    table = parse_patient_table(b"source_name,patient_id\nP1/a.png,1\nb.png,2\nnormal/P2/a.png,3\ntest/c.png,4\n", "t")
    assert list(match_rows(table, names)["patient_id"]) == ["1", "2", "3", "4"]


def test_vague_and_contradictory_rows_are_refused():
    names = pd.Series(["train/normal/a.png", "test/normal/a.png"])
    with pytest.raises(SettingsError, match="1 of its names"):
        find_rows(parse_patient_table(b"source_name,patient_id\nnormal/a.png,1\n", "t"), names)
    rows = b"source_name,patient_id\nnormal/a.png,1\na.png,2\n"
    with pytest.raises(SettingsError, match="for 1 files"):
        find_rows(parse_patient_table(rows, "t"), pd.Series(["normal/a.png"]))
    assert list(
        find_rows(parse_patient_table(rows.replace(b"2", b"1"), "t"), pd.Series(["x/normal/a.png"]))["patient_id"]
    ) == ["1"]


def test_fault_70_a_patient_in_two_splits_of_one_table_is_refused_before_images_are_read(entries, pack):
    table = b"source_name,patient_id,split\nnormal/n0.png,Smith,train\nnormal/n1.png,Smith,test\nnormal/n2.png,J,val\n"
    delivery = Delivery("source", pack({**entries, "patients.csv": table}))
    with pytest.raises(SettingsError, match=r"1 patients .* rows 1, 2") as caught:
        check_patient_tables([delivery], None)
    assert "Smith" not in str(caught.value)
    check_patient_tables([delivery], None, keep_given_split=False)


# Labels from a table


@pytest.fixture
def flat(entries) -> dict[str, bytes]:
    """Images in folders that say nothing."""
    return {f"images/{name.split('/')[1]}": content for name, content in entries.items()}


def tabulate(names, **labels: str) -> bytes:
    lines = [f"{name.split('/')[-1]},{labels[name.split('/')[-1][0]]}" for name in names]
    return "\n".join(["source_name,label", *lines]).encode()


def take_in(source, workspace, **options):
    report = ingest_images([Delivery("source", source)], workspace, 1, **options)
    manifest = read_named_manifest(workspace).set_index("source_name")
    return report, manifest


@pytest.mark.parametrize("name", ["patients.csv", "labels.csv", "images/hip-labels.csv", "train_labels.csv"])
@pytest.mark.parametrize("make", ["pack", "spread"])
def test_labels_of_a_table_beside_the_images_take_the_place_of_folders(flat, request, make, workspace, name, caplog):
    files = {**flat, "images/other.png": b"x", name: tabulate([*flat, "n99.png"], n="Normal", o="Osseous Lesion")}
    report, manifest = take_in(request.getfixturevalue(make)(files), workspace)
    assert manifest["label"].to_dict() == {name: "normal" if name[7] == "n" else "osseous_lesion" for name in flat}
    assert (report.num_images, report.num_ignored) == (11, 2)
    assert "no label for 2 of 13 files" in caplog.text
    assert "1 of 12 rows of the table match no file" in caplog.text


def test_labels_of_a_given_table_with_other_names(flat, pack, workspace, tmp_path):
    file = tmp_path / "given.csv"
    file.write_bytes(tabulate(flat, n="0", o="1"))
    with pytest.raises(SourceError, match=r"2 values .* 11 files.*--data\.class-names"):
        take_in(pack(flat), workspace, patients_file=file)
    _, manifest = take_in(pack(flat), workspace, patients_file=file, class_names={"0": "normal", "1": "osseous_lesion"})
    assert Counter(manifest["label"]) == {"normal": 6, "osseous_lesion": 5}


def test_patients_and_splits_come_with_the_labels(flat, pack, workspace):
    lines = [
        f"{name},{'normal' if name[7] == 'n' else 'osseous_lesion'},P{number // 2},{'test' if number < 2 else ''}"
        for number, name in enumerate(flat)
    ]
    table = "\n".join(["source_name,label,patient_id,split", *lines]).encode()
    source = [Delivery("source", pack({**flat, "labels.csv": table}))]
    ingest_images(source, workspace, 1)
    identify_images(source, workspace, DataSettings(group_similar=False))
    report = group_images(workspace, DataSettings(group_similar=False), num_threads=1)
    manifest = read_named_manifest(workspace).set_index("source_name")
    assert report.is_patient_level
    assert report.attributes is None, "a label is no subgroup"
    assert list(manifest.loc[list(flat)[:3], "split"]) == ["test", "test", ""]


def test_a_file_without_label_is_left_out_and_another_class_refused(flat, pack, workspace):
    names = list(flat)
    table = tabulate(names[1:], n="normal", o="osseous_lesion") + f"\n{names[0]},\n".encode()
    report, manifest = take_in(pack({**flat, "labels.csv": table}), workspace)
    assert (names[0] in manifest.index, report.num_images) == (False, 10)
    other = tabulate(names[1:], n="normal", o="osseous_lesion") + f"\n{names[0]},Fracture\n".encode()
    with pytest.raises(SourceError, match=r"1 values .* 1 files") as caught:
        take_in(pack({**flat, "labels.csv": other}), workspace)
    assert "Fracture" not in str(caught.value)


def test_a_label_that_contradicts_the_class_folder_is_refused(entries, pack, workspace):
    table = tabulate(entries, n="normal", o="osseous_lesion")
    assert take_in(pack({**entries, "labels.csv": table}), workspace)[0].num_images == 11
    with pytest.raises(SourceError, match="6 files have another label"):
        take_in(pack({**entries, "labels.csv": table.replace(b",normal", b",osseous_lesion")}), workspace)


def test_one_class_alone_is_too_few_unless_images_are_added(flat, pack, workspace):
    table = tabulate(flat, n="normal", o="normal")
    source = pack({**flat, "labels.csv": table})
    with pytest.raises(SourceError, match=r"11 of 12 files .* osseous_lesion"):
        take_in(source, workspace)


def test_a_table_of_labels_for_another_program_is_left_alone_and_told(entries, pack, workspace, caplog):
    source = pack({**entries, "labels.csv": b"id,class\n1,2\n"})
    assert read_patients_table(source) is None
    assert "A file labels.csv is not read as a table of labels" in caplog.text
    assert take_in(source, workspace)[0].num_images == 11


def test_a_table_that_names_no_file_is_told_where_folders_say_nothing(flat, entries, pack, workspace, caplog):
    table = b"source_name,label\nelsewhere.png,normal\n"
    with pytest.raises(SettingsError, match="none of its 1 names"):
        take_in(pack({**flat, "labels.csv": table}), workspace)
    assert take_in(pack({**entries, "labels.csv": table}), workspace)[0].num_images == 11
    assert "no label for any of 12 files; class folders are used" in caplog.text


def test_a_folder_with_a_table_of_labels_is_one_delivery_of_a_retraining(flat, spread, workspace):
    folder = spread({**flat, "labels.csv": tabulate(flat, n="normal", o="osseous_lesion")})
    assert [delivery.path for delivery in fetch_deliveries([str(folder)], workspace)] == [folder]
    unlabeled = spread({f"month/{name}": b"x" for name in flat} | {"patients.csv": b"source_name,patient_id\n"}, "drop")
    assert [delivery.path.name for delivery in fetch_deliveries([str(unlabeled)], workspace)] == ["month"]


def test_class_folders_under_other_names_are_one_delivery_of_a_retraining(spread, workspace):
    folder = spread({"Healthy/a.png": b"x", "Osseous Lesions/b.png": b"x"})
    found = fetch_deliveries([str(folder)], workspace, class_names={"healthy": "normal"})
    assert [delivery.path for delivery in found] == [folder]


# Patients in paths, and patients who are none


def test_the_pattern_sees_folders_above_the_class_folders():
    names = pd.Series(["P001/normal/x1.png", "P001/osseous_lesion/x2.png", "P002/Normal/x3.png"])
    assert list(find_in_names(names, r"(P\d+)")) == ["P001", "P001", "P002"]
    assert list(find_in_names(names, r"^(P\d+)/")) == ["P001", "P001", "P002"]
    below = pd.Series(["study2024/normal/P12_3.png", "study2024/Normal/P7_1.png"])
    assert list(find_in_names(below, r"(\d+)")) == ["12", "7"], "below the class folder comes first"
    assert list(find_in_names(below, r"^P(\d+)")) == ["12", "7"]


def test_images_of_a_patient_above_class_folders_are_one_group(entries, pack, workspace):
    moved = {f"P00{number % 5}/{name}": content for number, (name, content) in enumerate(entries.items())}
    source = [Delivery("source", pack(moved))]
    ingest_images(source, workspace, 1)
    identify_images(source, workspace, DataSettings(group_similar=False, patient_pattern=r"(P\d+)"))
    report = group_images(workspace, DataSettings(group_similar=False, patient_pattern=r"(P\d+)"), num_threads=1)
    assert (report.num_patients, report.is_patient_level) == (5, True)
    manifest = read_named_manifest(workspace)
    assert manifest["group"].nunique() == 5


@pytest.mark.parametrize("column", ["table", "pattern"])
def test_one_constant_patient_is_ignored_and_told(entries, draw, encode, pack, workspace, column, caplog):
    study = {f"STUDY1/{name}": content for name, content in entries.items()}
    table = "\n".join(["source_name,patient_id", *(f"{name},STUDY1" for name in study)]).encode()
    options = {"patient_pattern": "(STUDY.)"} if column == "pattern" else {}
    first = [Delivery("first", pack(study | ({} if options else {"patients.csv": table}), "first.zip"))]
    settings = DataSettings(group_similar=False, **options)
    for _ in range(2):
        ingest_images(first, workspace, 1)
        identify_images(first, workspace, settings)
        report = group_images(workspace, settings, num_threads=1)
        assert (report.has_constant_patient, report.num_patients, report.is_patient_level) == (True, 0, False)
    assert read_named_manifest(workspace)["group"].nunique() == len(entries)
    assert "11 of 11 images name one and the same patient" in caplog.text
    more = {f"STUDY{number}/normal/x.png": encode(draw(700 + number)) for number in range(2, 6)}
    later = Delivery("later", pack(more, "later.zip"))
    ingest_images([*first, later], workspace, 1, keep_earlier=True)
    identify_images([*first, later] if options else first, workspace, settings)
    report = group_images(workspace, settings, num_threads=1)
    assert (report.has_constant_patient, report.num_patients) == (True, 4 if options else 0), "it stays ignored"


def test_two_patients_are_no_constant(entries, pack, workspace):
    table = "\n".join(["source_name,patient_id", *(f"{name},{name[0]}" for name in entries)]).encode()
    source = [Delivery("source", pack({**entries, "patients.csv": table}))]
    ingest_images(source, workspace, 1)
    identify_images(source, workspace, DataSettings(group_similar=False))
    report = group_images(workspace, DataSettings(group_similar=False), num_threads=1)
    assert (report.has_constant_patient, report.num_patients) == (False, 2)
