"""The table of patients that lies in a delivery: found where it may lie, and read as strictly as the images."""

import os
import threading
import traceback
from pathlib import Path

import pytest

from hip_mri.config import SourceLimits
from hip_mri.errors import SourceError
from hip_mri.sources.tables import delivered_table
from hip_mri.sources.tables.delivered_table import read_patients_table

TABLE = b"source_name,patient_id\n"


@pytest.mark.parametrize(
    "name", ["patients.csv", "Hip/patients.csv", "hip-patients.csv", "hip_patients.csv", "Hip/Patients.CSV"]
)
def test_a_table_is_found_beside_the_class_folders_and_one_folder_above(entries, pack, spread, name):
    for path in (pack({**entries, name: TABLE}), spread({**entries, name: TABLE})):
        assert read_patients_table(path) == TABLE


@pytest.mark.parametrize("name", ["a/b/patients.csv", "impatients.csv", "patients.csv.bak"])
def test_what_is_called_otherwise_or_lies_deeper_is_no_table(entries, pack, spread, name):
    for path in (pack({**entries, name: TABLE}), spread({**entries, name: TABLE})):
        assert read_patients_table(path) is None


def test_fault_53_tables_of_patients_are_counted_and_not_named(entries, pack, spread):
    tables = dict.fromkeys(("Smith-patients.csv", "Jones-patients.csv"), b"x")
    for path in (pack(entries | tables), spread(entries | tables)):
        with pytest.raises(SourceError, match="2 tables of patients") as caught:
            read_patients_table(path)
        assert "Smith" not in str(caught.value)


# Fault 5: what stands in the place of a file


def refuse(folder) -> str:
    """The message of a refusal that comes at once; a reader of a pipe would hang."""
    told: list[str] = []

    def read() -> None:
        with pytest.raises(SourceError) as caught:
            read_patients_table(folder)
        assert "Smith" not in "".join(traceback.format_exception(caught.value, chain=True))
        told.append(str(caught.value))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(30)
    return told[0]


@pytest.mark.parametrize("target", ["/dev/zero", "{outside}/table.csv", "{outside}/none.csv", "Smith-patients.csv"])
def test_fault_5_a_table_that_is_a_link_out_or_to_nowhere_is_not_read(entries, spread, tmp_path, target):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/table.csv").write_bytes(b"what nobody delivered")
    folder = spread(entries)
    (folder / "Smith-patients.csv").symlink_to(target.format(outside=tmp_path / "outside"))
    assert "1 links" in refuse(folder)


def test_fault_5_a_table_behind_a_linked_folder_is_not_read(entries, spread, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/patients.csv").write_bytes(TABLE)
    folder = spread(entries)
    (folder / "more").symlink_to(tmp_path / "outside")
    assert read_patients_table(folder) is None


def test_fault_5_a_link_that_stays_inside_is_read(entries, spread):
    folder = spread({**entries, "lists/all.csv": TABLE})
    (folder / "patients.csv").symlink_to("lists/all.csv")
    assert read_patients_table(folder) == TABLE


def test_fault_5_a_pipe_in_the_place_of_the_table_does_not_hang(entries, spread):
    folder = spread(entries)
    os.mkfifo(folder / "Smith-patients.csv")
    assert "1 pipes" in refuse(folder)


def test_fault_5_a_folder_in_the_place_of_the_table_is_refused(entries, spread):
    folder = spread(entries)
    (folder / "Smith-patients.csv").mkdir()
    assert "1 folders" in refuse(folder)


def test_fault_53_a_table_on_a_broken_disk_is_not_named(entries, spread, monkeypatch):
    folder = spread({**entries, "Smith-patients.csv": TABLE})

    def fail(path, *arguments, **options):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(type(folder), "open", fail)
    assert "(Input/output error)" in refuse(folder)


# Its size


def test_a_table_above_the_limit_is_not_read(entries, spread, monkeypatch):
    monkeypatch.setattr(delivered_table, "_MAX_BYTES", 10)
    assert "has 23 bytes, above 10" in refuse(spread({**entries, "patients.csv": TABLE}))
    with pytest.raises(SourceError, match="more than 5 bytes"):
        read_patients_table(spread({"patients.csv": TABLE}, "small"), SourceLimits(max_bytes=5))


def test_a_table_that_grows_meanwhile_is_refused(entries, spread, monkeypatch):
    folder = spread({**entries, "patients.csv": TABLE})
    read = delivered_table.read_file

    def grow(file: Path, num_bytes: int) -> bytes:
        file.write_bytes(TABLE * 2)
        return read(file, num_bytes)

    monkeypatch.setattr(delivered_table, "read_file", grow)
    assert "has changed" in refuse(folder)
