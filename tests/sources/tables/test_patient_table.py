"""Who is in the images: read from a table or from names, and never repeated."""

from pathlib import Path

import pandas as pd
import pytest

from hip_mri.config import DataSettings
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.identities import read_delivered_table
from hip_mri.dataset.pseudonyms import hash_identities
from hip_mri.errors import SettingsError, SourceError, WorkspaceError
from hip_mri.sources.tables.patient_table import (
    find_in_names,
    match_rows,
    parse_patient_table,
    read_patient_file,
)
from hip_mri.workspace import Workspace

TABLE = "source_name,patient_id,sex\nnormal/a.png,Smith,f\nosseous_lesion/b.png,Jones,m\n"
NAMES = pd.Series(["hips/normal/a.png", "hips/osseous_lesion/b.png", "hips/normal/c.png"], index=[5, 6, 7])


def test_names_fit_in_full_or_from_the_class_folder_on():
    for prefix in ("", "hips/"):
        table = parse_patient_table(TABLE.replace("\nn", f"\n{prefix}n").replace("\no", f"\n{prefix}o").encode(), "x")
        matched = match_rows(table, NAMES)
        assert list(matched.index) == [5, 6, 7]
        assert list(matched["patient_id"]) == ["Smith", "Jones", ""]
        assert list(matched["sex"]) == ["f", "m", ""]
    assert table.attributes == ("sex",)


def test_spreadsheets_are_read(tmp_path):
    """A byte order mark, blanks around values and numbers with leading zeros."""
    file = tmp_path / "patients.csv"
    file.write_bytes("\ufeffsource_name, patient_id\n normal/a.png , 007\n".encode())
    table = read_patient_file(file)
    assert table is not None
    assert table.rows[["source_name", "patient_id", "split"]].to_numpy().tolist() == [["normal/a.png", "007", ""]]


def test_semicolons_and_decomposed_letters_are_read():
    """As a German spreadsheet and a Mac write them."""
    table = parse_patient_table("source_name;patient_id\nnormal/Mu\u0308ller.png;1".encode(), "x")
    assert list(match_rows(table, pd.Series(["normal/M\u00fcller.png"]))["patient_id"]) == ["1"]


def test_the_table_beside_the_class_folders_is_found(entries, pack, spread):
    beside = {f"hips/{name}": content for name, content in entries.items()} | {
        "hips/SYNTHETIC-patients.csv": TABLE.encode()
    }
    for source in (pack(beside), spread(beside)):
        table = read_delivered_table(Delivery("source", source))
        assert table is not None
        assert list(table.rows["patient_id"]) == ["Smith", "Jones"]
    assert read_delivered_table(Delivery("source", pack(entries, "none.zip"))) is None
    with pytest.raises(SourceError, match="2 tables of patients"):
        read_delivered_table(Delivery("source", pack(beside | {"patients.csv": TABLE.encode()}, "two.zip")))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\xff\xfe\x00", "UTF-16"),
        (b"normal/a.png,Smith\n", r"source_name and .* patient_id or label or split among its 2 columns"),
        (b"source_name,patient_id\nx,Smith,y\n", r"than 2 fields: 2\."),
        (b"source_name,patient_id,patient_id \n", "two columns"),
        (b"a,b\n", "source_name and .* patient_id"),
        (b"source_name,patient_id,split\nx,y,holdout\n", "train, val, test in line 2"),
        (b"source_name,patient_id\n,Smith\n", "1 lines without source_name"),
        (b"source_name,patient_id\nx,Smith\nx,Jones\nx,Smith\n", r"lines 3\."),
    ],
)
def test_bad_tables_are_refused_without_a_name(content, text):
    with pytest.raises(SettingsError, match=text) as caught:
        parse_patient_table(content, "table")
    assert "Smith" not in str(caught.value)


def test_a_name_that_fits_two_files_is_refused():
    twice = pd.Series(["site1/normal/a.png", "site2/normal/a.png"])
    with pytest.raises(SettingsError, match="1 of its names"):
        match_rows(parse_patient_table(TABLE.encode(), "x"), twice)


def test_a_table_of_other_images_is_refused():
    with pytest.raises(SettingsError, match="none of its 2 names"):
        match_rows(parse_patient_table(TABLE.encode(), "x"), pd.Series(["normal/z.png"]))


def test_a_home_that_nobody_has_is_told_without_the_name():
    with pytest.raises(SettingsError, match=r"^data\.patients_file: ") as caught:
        read_patient_file(Path("~no-such-user/patients.csv"))
    assert "no-such-user" not in str(caught.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"^data\.patients_file: .*No such"):
        read_patient_file(tmp_path / "gone.csv")


def test_patients_are_found_in_file_names():
    names = pd.Series(["normal/P12_3.png", "normal/P7_1.png", "normal/other.png"])
    assert list(find_in_names(names, r"^P(\d+)_")) == ["12", "7", ""]
    assert list(find_in_names("study2024/" + names, r"(\d+)_")) == ["12", "7", ""]
    assert list(find_in_names(names, r"(P|Q)(?P<patient>\d+)_")) == ["12", "7", ""]
    with pytest.raises(SettingsError, match=r"patient_pattern: .* 3 file names"):
        find_in_names(names, r"hip(\d+)")


@pytest.mark.parametrize("pattern", ["P[0-9", "P[0-9]+"])
def test_patterns_are_checked_as_settings(pattern):
    with pytest.raises(ValueError, match="patient_pattern"):
        DataSettings(patient_pattern=pattern)


def test_hashes_need_the_key_and_stay_the_same(workspace, tmp_path):
    identities = pd.Series(["Smith", "", "Jones", "Smith"])
    hashes = hash_identities(identities, workspace)
    assert list(hashes) == list(hash_identities(identities, workspace))
    assert hashes[0] == hashes[3] != hashes[2]
    assert hashes[1] == ""
    assert workspace.pseudonym_key_file.stat().st_mode & 0o777 == 0o600
    assert hash_identities(identities, Workspace(tmp_path / "other"))[0] != hashes[0]
    workspace.names_file.touch()
    workspace.pseudonym_key_file.unlink()
    with pytest.raises(WorkspaceError, match="backup"):
        hash_identities(identities, workspace)
