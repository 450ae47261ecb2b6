"""The publisher's split is read from a table per split, and files find their row by the end of their path."""

import hashlib
from pathlib import Path

import pandas as pd
import pytest

from hip_mri.config import DataSettings
from hip_mri.dataset.identities import _add_publisher_split
from hip_mri.errors import SettingsError, SplitError
from hip_mri.sources.class_names import ClassNames
from hip_mri.sources.tables.split_tables import match_split_tables, read_split_tables

FOLDER = "radiology_ai/MR/hip"
ROWS = {
    "train": ["normal/a.png", "osseous_lesion/b.png"],
    "val": ["normal/c.png"],
    "test": ["normal/d.png", "osseous_lesion/a.png"],
}


@pytest.fixture
def write(tmp_path):
    """Writes the tables of the splits; further lines, or other content, for some of them."""

    def write(further: dict[str, str] | None = None, **contents: bytes) -> dict[str, Path]:
        files = {}
        for split, names in ROWS.items():
            lines = ["filename,label", *(f"{FOLDER}/{name},{name.split('/')[0]}" for name in names)]
            text = "\n".join([*lines, (further or {}).get(split, "")])
            files[split] = tmp_path / f"{split}.csv"
            files[split].write_bytes(contents.get(split, text.encode()))
        return files

    return write


def match(files, names, labels=None, **class_names):
    source = pd.Series([f"Hip MRI/{name}" for name in names], index=range(10, 10 + len(names)))
    labels = pd.Series(labels or [name.split("/")[0].lower() for name in names], index=source.index)
    found = match_split_tables(read_split_tables(files), source, labels, ClassNames(class_names))
    assert found.index.equals(source.index)
    return list(found)


NAMES = [name for names in ROWS.values() for name in names]


def test_files_find_their_row_by_the_longest_end(write):
    """`a.png` is in both classes; the tables list files of other parts of the collection too."""
    files = write({"test": "radiology_ai/CT/lung/nodule/x.png,nodule\nradiology_ai/MR/knee/normal/k.png,normal"})
    assert match(files, NAMES) == ["train", "train", "val", "test", "test"]
    assert match(files, [name.replace("normal", "Normal") for name in NAMES]) == [
        "train",
        "train",
        "val",
        "test",
        "test",
    ]


@pytest.mark.parametrize(
    "content",
    [
        "\ufefffilename,label\r\n{0}/normal/d.png,normal\r\n{0}/osseous_lesion/a.png,osseous_lesion\r\n",
        'File Name; Label \n"{0}/normal/d.png"; Normal\n{0}/osseous_lesion/a.png;"Osseous Lesion"\n',
        "label,filename\nnormal,{0}\\NORMAL\\D.PNG\nosseous_lesion,./{0}/osseous_lesion/a.png\n\n",
        "filename,label,x\n{0}/normal/d.png,normal,1\n{0}/normal/d.png,normal,1\n{0}/osseous_lesion/a.png,osseous_lesion,1",
    ],
    ids=["byte order mark", "semicolons and quotes", "backslashes and case", "repeated lines"],
)
def test_usual_spellings_are_read(write, content):
    files = write(test=content.format(FOLDER).encode())
    assert match(files, NAMES) == ["train", "train", "val", "test", "test"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", r"test_file.*filename.*label"),
        (b"filename,label\n", r"test_file.*no line"),
        (b"file,label\nx.png,normal\n", r"test_file.*filename"),
        (b"filename\nx.png\n", r"test_file.*label"),
        (b"filename,label\n,normal\nx.png,normal\n,normal\n", r"test_file.*test line 2, test line 4"),
        (f"filename,label\n{FOLDER}/normal/a.png,normal\n".encode(), r"1 files .*splits.*train line 2, test line 2"),
        (b"filename,label\nx.png,normal\nX.png,osseous_lesion", r"1 files .*labels.*test line 2, test line 3"),
    ],
    ids=["empty", "heading alone", "no name", "no label", "blank names", "two splits", "two labels"],
)
def test_unusable_tables_are_named_with_their_lines(write, content, named):
    with pytest.raises(SettingsError, match=named) as caught:
        read_split_tables(write(test=content))
    assert "png" not in str(caught.value)


def test_a_missing_file_is_an_error_without_its_path(tmp_path):
    with pytest.raises(SettingsError, match=r"^data\.test_file: .*No such") as caught:
        read_split_tables({"test": tmp_path / "Smith.csv"})
    assert "Smith" not in str(caught.value)


def test_all_that_does_not_fit_is_told_at_once(write):
    files = write({"train": "radiology_ai/MR/knee/x/z.png,normal\nradiology_ai/MR/foot/x/z.png,normal"})
    with pytest.raises(SplitError) as caught:
        match(files, [*NAMES, "normal/z.png", "normal/new.png", "normal/b.png"])
    text = str(caught.value)
    assert "2 of 8 files are in no table" in text
    assert "1 files of the source match several" in text
    assert "png" not in text


def test_another_label_than_the_folder_is_an_error(write):
    with pytest.raises(SplitError, match=r"1 files have another label.*train line 2"):
        match(write(), NAMES, ["osseous_lesion", "osseous_lesion", "normal", "normal", "osseous_lesion"])


def test_other_names_of_the_classes_are_mapped(write):
    content = f"filename,label\n{FOLDER}/normal/d.png,17\n{FOLDER}/osseous_lesion/a.png,osseous_lesion\n".encode()
    with pytest.raises(SplitError, match="label"):
        match(write(test=content), NAMES)
    assert match(write(test=content), NAMES, **{"17": "normal"})[3] == "test"


def test_a_table_of_the_test_alone_tests_its_images_alone(write):
    files = {"test": write()["test"]}
    assert match(files, NAMES) == ["train+val", "train+val", "train+val", "test", "test"]
    files = {split: file for split, file in write().items() if split != "val"}
    named = [name for name in NAMES if name != "normal/c.png"]
    assert match(files, named) == ["train+val", "train+val", "test", "test"]


def test_a_delivery_that_no_table_names_is_never_tested(write):
    assert match(write(), ["normal/own1.png", "normal/own2.png"]) == ["train+val"] * 2


def test_hashes_of_the_tables_are_kept(write):
    files = write()
    hashes = read_split_tables(files).hashes
    assert hashes == {split: hashlib.sha256(file.read_bytes()).hexdigest() for split, file in files.items()}


@pytest.mark.parametrize("settings", [{"train_file": "a.csv"}, {"test_file": "a.csv", "given_split": "ignore"}])
def test_settings_that_contradict_each_other_are_refused(settings):
    with pytest.raises(ValueError, match="test_file"):
        DataSettings(**settings)


def test_tables_of_another_collection_are_an_error(write):
    names = pd.Series(["normal/1.png", "osseous_lesion/2.png"])
    entries = pd.DataFrame({"delivery": "source", "label": ["normal", "osseous_lesion"]})
    with pytest.raises(SplitError, match=r"data\.test_file.*none of the 2 files"):
        _add_publisher_split(pd.DataFrame(index=names.index), entries, names, read_split_tables(write()), ClassNames())


def test_files_in_other_folders_that_match_by_name_are_counted(write, caplog):
    assert match(write(), ["p77/b.png"], ["osseous_lesion"]) == ["train"]
    assert "1 of the files" in caplog.text
