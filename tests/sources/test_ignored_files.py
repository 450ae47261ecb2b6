"""What is no part of the data: left out at any depth, counted, and in a local folder not even looked into."""

import os
from pathlib import Path

import pytest

from hip_mri.config import ImageSettings
from hip_mri.dataset.deliveries import Delivery, fetch_deliveries
from hip_mri.dataset.entries import read_delivery
from hip_mri.dataset.ingest import ingest_images
from hip_mri.errors import SourceError
from hip_mri.sources.ignored_files import find_workspaces, select_data_files
from hip_mri.sources.source import open_source, open_unlabeled
from hip_mri.workspace import Workspace

SYSTEM_FOLDERS = [
    *("@eaDir", ".AppleDouble", ".thumbnails", "_thumbs", "Thumbnails", ".ipynb_checkpoints", ".git", ".svn", "CVS"),
    *(".Trash-1000", ".Trashes", ".Spotlight-V100", ".fseventsd", "$RECYCLE.BIN", "System Volume Information"),
    *("lost+found", "#recycle", "#snapshot", ".snapshot", "__pycache__", "__MACOSX", "@Recycle", ".@__thumb"),
]

IMAGES = ["normal/a.png", "osseous_lesion/b.png"]


@pytest.mark.parametrize("folder", SYSTEM_FOLDERS)
@pytest.mark.parametrize("place", ["", "normal/", "normal/deep/"])
def test_hidden_and_system_folders_are_ignored_at_any_depth(folder, place):
    assert select_data_files([*IMAGES, f"{place}{folder}/x.png", f"{place}{folder}/deeper/y.png"]) == IMAGES


@pytest.mark.parametrize(
    "name", ["._a.png", ".DS_Store", "Thumbs.db", "ehthumbs.db", "DESKTOP.INI", ".gitignore", ".nomedia", "~$list.xlsx"]
)
def test_system_files_are_ignored(name):
    assert select_data_files([*IMAGES, name, f"normal/{name}"]) == IMAGES


@pytest.mark.parametrize(
    "name", ["normal/.hidden.png", "normal/..slice.png", "normal/a..b/c.png", "thumb.png", "git/a.png"]
)
def test_what_only_looks_like_it_is_kept(name):
    assert select_data_files([name]) == [name]


@pytest.mark.parametrize("make", ["pack", "spread"])
def test_thumbnails_and_checkpoints_are_no_images(entries, request, make):
    dirty = {
        **entries,
        "normal/@eaDir/n0.png/SYNOPHOTO_THUMB_M.jpg": entries["normal/n0.png"],
        ".ipynb_checkpoints/n0-checkpoint.png": entries["normal/n0.png"],
        "osseous_lesion/.AppleDouble/o0.png": b"x",
    }
    for open_it in (open_source, open_unlabeled):
        with open_it(request.getfixturevalue(make)(dirty)) as source:
            assert {entry.name for entry in source.entries} == set(entries)
            assert source.num_ignored == 3


def test_system_folders_of_a_local_folder_are_not_entered(entries, spread, monkeypatch, caplog):
    caplog.set_level("INFO")
    folder = spread({**entries, "lost+found/x": b"x", "normal/.Trash-1000/y.png": b"y"})
    scandir = os.scandir

    def refuse(path):
        if Path(path).name in ("lost+found", ".Trash-1000"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for open_it in (open_source, open_unlabeled):
        with open_it(folder) as source:
            assert (len(source.entries), source.num_ignored) == (len(entries), 2)
    assert "2 hidden folders, system folders" in caplog.text


def test_the_table_of_patients_is_found_beside_folders_that_may_not_be_read(entries, spread, monkeypatch):
    from hip_mri.sources.tables.delivered_table import read_patients_table

    folder = spread({**entries, "lost+found/patients.csv": b"x", "patients.csv": b"source_name,patient_id\n"})
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert read_patients_table(folder) == b"source_name,patient_id\n"


@pytest.mark.parametrize("open_it", [open_source, open_unlabeled])
def test_a_hidden_folder_that_was_meant_is_told_by_the_number_of_files(pack, open_it):
    with (
        pytest.raises(SourceError, match="2 hidden or system files"),
        open_it(pack({f".hips/{name}": b"x" for name in IMAGES})),
    ):
        pass


def test_ignored_files_are_counted_in_the_report(entries, pack, workspace):
    source = pack({**entries, ".git/config": b"x", "normal/@eaDir/a.jpg": b"x", "readme.txt": b"x"})
    assert ingest_images([Delivery("source", source)], workspace, 1).num_ignored == 3


# The workspace


ID, SHA256 = "0123456789abcdef", "ab" * 32


@pytest.mark.parametrize(
    "parts",
    [
        (".gitignore", f"DATA/train/normal/{ID}.png", "cache/x"),
        (f"images/ab/{SHA256}", "sources/a.zip"),
        ("manifest.parquet", "splits.parquet"),
        ("pseudonyms.key", f"DATA/test/osseous_lesion/{ID}-2.png"),
    ],
)
def test_a_workspace_is_known_by_what_it_holds(parts):
    names = [*(f"hips/{name}" for name in IMAGES), *(f"old/workspace/{part}" for part in parts)]
    assert find_workspaces(names) == {"old/workspace"}
    assert select_data_files(names) == [f"hips/{name}" for name in IMAGES]


@pytest.mark.parametrize(
    "names",
    [
        [f"hips/DATA/train/normal/{ID}.png", f"hips/DATA/test/normal/{ID}.png"],
        ["hips/DATA/train/normal/hip0001.png", "hips/images/x.png", "hips/manifest.parquet"],
        [f"DATA/train/normal/{ID}.png", "cache/x"],
    ],
)
def test_data_of_other_programs_and_a_copy_of_data_alone_are_no_workspace(names):
    assert find_workspaces(names) == set()


def test_a_workspace_inside_the_source_is_no_part_of_it(entries, spread):
    folder = spread({f"hips/{name}": content for name, content in entries.items()})
    workspace = Workspace(folder / "work")
    for _ in range(2):
        report = ingest_images([Delivery("source", folder)], workspace, 1)
        assert report.num_images == len(entries)
    assert report.num_taken_over == len(entries)


def test_a_link_to_the_workspace_is_followed_to_it(entries, spread, tmp_path):
    folder = spread(entries)
    (folder / "work").mkdir()
    (folder / "work/manifest.parquet").write_bytes(b"x")
    (tmp_path / "link").symlink_to(folder / "work")
    reading = read_delivery(
        Delivery("source", folder),
        Workspace(tmp_path / "link"),
        1,
        lambda done, total: None,
        ImageSettings(),
        keep_earlier=False,
    )
    assert (len(reading.entries), reading.num_ignored) == (len(entries), 1)


def test_the_workspace_itself_is_no_source(entries, spread):
    folder = spread(entries)
    with pytest.raises(SourceError, match="it is the workspace itself"):
        ingest_images([Delivery("source", folder)], Workspace(folder), 1)


def test_a_workspace_in_a_drop_folder_is_no_delivery(entries, spread):
    folder = spread({f"month/{name}": content for name, content in entries.items()})
    workspace = Workspace(folder / "workspace")
    (folder / "workspace/DATA/train/normal").mkdir(parents=True)
    (folder / f"workspace/DATA/train/normal/{ID}.png").write_bytes(b"x")
    (folder / "lost+found").mkdir()
    assert [delivery.path.name for delivery in fetch_deliveries([str(folder)], workspace)] == ["month"]
