"""Images without classes are preprocessed and listed, whatever the other files of the source contain."""

import stat
import zipfile

import numpy as np
import pytest

from hip_mri.config import PreprocessingSettings
from hip_mri.dataset.preprocessing import read_images
from hip_mri.errors import ArchiveError, SourceError
from hip_mri.images.clahe_and_resizing import preprocess_image
from hip_mri.serving.prediction_inputs import InputReport, ingest_inputs
from tests.dataset.batches import read_batch
from tests.images.image_files import decode_gray

SMALL = PreprocessingSettings(image_size=32)


@pytest.fixture
def files(draw, encode) -> dict[str, bytes]:
    """Two images in folders of any kind, a copy, and what is no image."""
    first, second = encode(draw(1)), encode(draw(2))
    return {
        "Müller, Anna/2024/slice 1.png": first,
        "deep/er/normal/a.png": second,
        "copy.png": first,
        "notes.txt": b"hello",
        "empty.png": b"",
        "cut.png": first[:200],
        "__MACOSX/._a.png": b"x",
    }


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_every_file_is_accounted_for(kind, files, pack, spread, workspace):
    report = ingest_inputs(pack(files) if kind == "zip" else spread(files), workspace, SMALL, num_threads=2)
    assert report == InputReport(num_images=2, num_copies=1, num_unreadable=3, num_ignored=1)
    batch = read_batch(workspace)
    assert set(batch.index) == set(files) - {"__MACOSX/._a.png"}
    assert batch["reason"].to_dict() == {
        "Müller, Anna/2024/slice 1.png": "",
        "copy.png": "",
        "deep/er/normal/a.png": "",
        "notes.txt": "not_an_image",
        "empty.png": "empty_file",
        "cut.png": batch.loc["cut.png", "reason"],
    }
    assert batch.loc["cut.png", "reason"]
    assert batch.loc["copy.png", "image_id"] == batch.loc["Müller, Anna/2024/slice 1.png", "image_id"]
    assert sorted(batch["state"]) == ["duplicate", "quarantined", "quarantined", "quarantined", "ready", "ready"]
    assert set(batch["label"]) == set(batch["split"]) == {""}


def test_pictures_are_those_of_training(files, pack, workspace):
    ingest_inputs(pack(files), workspace, SMALL, num_threads=1)
    ready = read_batch(workspace).query("state == 'ready'")
    pictures = read_images(list(ready["sha256"]), workspace, SMALL, num_threads=1)
    for name, picture in zip(ready.index, pictures, strict=True):
        np.testing.assert_array_equal(picture, preprocess_image(decode_gray(files[name]), SMALL))


def test_names_are_in_one_private_file_and_source_bytes_are_not_kept(files, pack, workspace):
    ingest_inputs(pack(files), workspace, SMALL, num_threads=1)
    for private in (workspace.manifest_file, workspace.batch_names_file):
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
    written = [file for file in workspace.root.rglob("*") if file.is_file()]
    assert {file.suffix for file in written} == {".png", ".parquet", ".csv"}
    for file in written:
        if file != workspace.batch_names_file:
            assert "Müller".encode() not in file.read_bytes()
            assert file.read_bytes() not in files.values()


def test_a_single_image_is_a_batch(files, spread, workspace):
    folder = spread(files)
    report = ingest_inputs(folder / "deep/er/normal/a.png", workspace, SMALL, num_threads=1)
    assert report == InputReport(1, 0, 0, 0)
    assert list(read_batch(workspace).index) == ["a.png"]


def test_progress_reaches_the_total(files, spread, workspace):
    calls = []
    ingest_inputs(spread(files), workspace, SMALL, 1, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (6, 6)


def test_a_batch_replaces_the_one_before(files, spread, pack, draw, encode, workspace):
    ingest_inputs(pack(files), workspace, SMALL, num_threads=1)
    ingest_inputs(spread({"other.png": encode(draw(9))}, "other"), workspace, SMALL, num_threads=1)
    assert list(read_batch(workspace).index) == ["other.png"]


def test_a_source_without_any_image_is_refused(spread, workspace, tmp_path):
    with pytest.raises(SourceError, match=r"none of its 2 files .*2 not_an_image") as caught:
        ingest_inputs(spread({"a.txt": b"x", "b.txt": b"y"}), workspace, SMALL, num_threads=1)
    assert str(workspace.quarantine_file) in str(caught.value)
    assert workspace.quarantine_file.read_text().count("not_an_image") == 2
    assert not workspace.manifest_file.exists()
    with pytest.raises(SourceError, match=r"it contains no files; 1 hidden .* ignored\. Needed are images"):
        ingest_inputs(spread({".DS_Store": b"x"}, "litter"), workspace, SMALL, num_threads=1)
    with pytest.raises(SourceError, match="no file or folder"):
        ingest_inputs(tmp_path / "nothing", workspace, SMALL, num_threads=1)


def test_unsafe_and_damaged_archives_are_refused(tmp_path, pack, workspace):
    with pytest.raises(ArchiveError, match=r"contain a drive .*\(entry 1\)"):
        ingest_inputs(pack({"../a.png": b"x"}), workspace, SMALL, num_threads=1)
    (tmp_path / "cut.zip").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(
        ArchiveError, match=r"damaged or truncated zip file.* Needed are images, in folders of any kind"
    ):
        ingest_inputs(tmp_path / "cut.zip", workspace, SMALL, num_threads=1)


def test_a_damaged_entry_is_a_row(draw, encode, pack, workspace):
    good, bad = encode(draw(1)), encode(draw(2))
    file = pack({"good.png": good, "bad.png": bad}, compression=zipfile.ZIP_STORED)
    content = bytearray(file.read_bytes())
    content[content.index(bad) + 60] ^= 255
    file.write_bytes(content)
    assert ingest_inputs(file, workspace, SMALL, num_threads=1).num_unreadable == 1
    batch = read_batch(workspace)
    assert (batch.loc["bad.png", "reason"], batch.loc["bad.png", "sha256"]) == ("damaged_entry", "")
    assert batch.loc["bad.png", "image_id"] != ""


def test_a_source_with_a_table_alone_has_no_image(pack, workspace):
    with pytest.raises(SourceError, match="none of its 1 files is a usable image"):
        ingest_inputs(pack({"patients.csv": b"a,b"}), workspace, SMALL, num_threads=1)
