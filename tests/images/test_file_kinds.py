"""Files that are given by mistake are called what they are, with what to do about it."""

import gzip
import io
import tarfile
import zipfile

import h5py
import numpy as np
import pytest

from hip_mri.config import ARCHITECTURES, PreprocessingSettings
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import ingest_images
from hip_mri.errors import ArchiveError, ImageError, SourceError, WeightsError
from hip_mri.models.backbones import weights
from hip_mri.models.backbones.hdf5_checks import named_for_keras
from hip_mri.serving.prediction_inputs import ingest_inputs
from hip_mri.sources.source import open_source, open_unlabeled

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html><html>Sign in</html>"


def write_tar(mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        archive.addfile(tarfile.TarInfo("normal/a.png"))
    return stream.getvalue()


ARCHIVES = {
    "a tar archive": write_tar(),
    "a tar archive in a gzip file": write_tar("w:gz"),
    "a bzip2 file": write_tar("w:bz2"),
    "an xz file": write_tar("w:xz"),
    "a 7z archive": b"7z\xbc\xaf\x27\x1c" + bytes(100),
    "a RAR archive": b"Rar!\x1a\x07\x00" + bytes(100),
}


def refuse(file, content: bytes) -> str:
    file.write_bytes(content)
    with pytest.raises(ArchiveError) as caught, open_source(file):
        pass
    return str(caught.value)


@pytest.mark.parametrize("name", ["images.zip", "images"])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_another_archive_as_source_is_named(tmp_path, name, kind):
    assert f"the file is {kind}, not a zip file. Unpack it" in refuse(tmp_path / name, ARCHIVES[kind])
    with pytest.raises(ArchiveError, match="Unpack it"), open_unlabeled(tmp_path / name):
        pass


def test_a_pointer_and_a_picture_as_source_are_named(tmp_path):
    message = refuse(tmp_path / "images.zip", POINTER)
    assert "a Git LFS pointer" in message
    assert "git lfs pull" in message
    assert "a PNG image, not a zip file. Give the folder" in refuse(
        tmp_path / "a.png", b"\x89PNG\r\n\x1a\n" + bytes(99)
    )


@pytest.mark.parametrize("name", ["hips.zip", "hips.z01", "hips.z02", "hips.zip.001", "hips.002"])
def test_a_part_of_a_zip_in_several_parts_is_named(tmp_path, pack, entries, name):
    whole = pack(entries).read_bytes()
    end = whole.rindex(b"PK\5\6")
    content = {
        "hips.zip": whole[:end] + b"PK\5\6\2\0\2\0" + whole[end + 8 :],
        "hips.z01": b"PK\7\x08" + whole[:500],
        "hips.zip.001": whole[:500],
    }.get(name, whole[500:1000])
    message = refuse(tmp_path / name, content)
    assert "one part of several" in message
    assert "zip -s 0" in message


def test_a_part_of_zip64_is_named(tmp_path, pack, entries):
    whole = pack(entries).read_bytes()
    end = whole.rindex(b"PK\5\6")
    locator = b"PK\6\7" + (2).to_bytes(4, "little") + bytes(8) + (3).to_bytes(4, "little")
    assert "one part of several" in refuse(tmp_path / "a.zip", whole[:end] + locator + whole[end:])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        *(pytest.param(content, "nested_archive", id=kind) for kind, content in ARCHIVES.items()),
        pytest.param(b"PK\3\4" + bytes(30), "nested_archive", id="zip"),
        pytest.param(POINTER, "git_lfs_pointer", id="pointer"),
        pytest.param(PAGE, "web_page", id="page"),
    ],
)
@pytest.mark.parametrize("make", ["pack", "spread"])
def test_entries_of_other_kinds_are_set_aside_as_what_they_are(entries, request, make, content, reason):
    with open_source(request.getfixturevalue(make)({**entries, "normal/x.png": content})) as source:
        entry = next(entry for entry in source.entries if entry.name == "normal/x.png")
        with pytest.raises(ImageError) as caught:
            source.read(entry)
    assert caught.value.reason == reason


def test_a_gzip_file_without_an_archive_is_left_to_the_decoder(entries, pack):
    content = gzip.compress(b"\x5c\1\0\0" + bytes(400))
    with open_source(pack({**entries, "normal/x.nii.gz": content})) as source:
        assert source.read(next(entry for entry in source.entries if entry.name.endswith("gz"))) == content


def zip_of(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.png", content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "suffix", "cure"),
    [
        (zip_of(b"x"), ".zip", "3 nested_archive. .*unpack them"),
        (ARCHIVES["a 7z archive"], ".png", "3 nested_archive. .*unpack them"),
        (POINTER, ".png", "3 git_lfs_pointer. .*git lfs pull"),
        (PAGE, ".png", "3 web_page. .*download the images themselves"),
        (b"", ".png", "3 empty_file. .*copy or export them again"),
        (b"text", ".png", "3 not_an_image. .*NIfTI"),
    ],
)
def test_the_last_message_gives_the_cure_of_the_commonest_reason(pack, spread, workspace, content, suffix, cure):
    names = [f"{folder}{suffix}" for folder in ("normal/P1", "normal/P2", "osseous_lesion/P3")]
    files = dict.fromkeys(names, content) | {"osseous_lesion/other.png": b"" if content else b"something else"}
    with pytest.raises(SourceError, match=cure) as caught:
        ingest_images([Delivery("source", pack(files))], workspace, 1)
    assert str(workspace.quarantine_file) in str(caught.value)
    assert workspace.quarantine_file.exists()
    assert "P1" not in str(caught.value)
    with pytest.raises(SourceError, match=cure):
        ingest_inputs(spread(files), workspace.serving, PreprocessingSettings(image_size=32), num_threads=1)
    assert workspace.serving.quarantine_file.exists()


def test_a_delivery_without_a_usable_image_is_told_beside_sound_ones(entries, pack, workspace, caplog):
    sound = Delivery("sound", pack(entries))
    spoilt = Delivery("spoilt", pack({"normal/a.zip": zip_of(b"x")}, "spoilt.zip"))
    ingest_images([sound, spoilt], workspace, 1, keep_earlier=True)
    assert "None of the 1 files of delivery 2 is a usable image: 1 nested_archive" in caplog.text


# Weights


def write_weights(file, **groups: int):
    with h5py.File(file, "w") as content:
        for name, count in groups.items():
            content[f"{name}/all"] = np.zeros(count, np.uint8)
    return file


def resolve(file) -> str:
    with pytest.raises(WeightsError) as caught:
        weights.resolve_weights(str(file), "ResNet50", fall_back_to_random=False)
    return str(caught.value)


NUM = ARCHITECTURES["ResNet50"].num_parameters


@pytest.mark.parametrize("name", ["w.H5", "w.weights.H5", "W.HDF5", "w.h5"])
def test_weights_are_known_by_their_ending_in_any_case(tmp_path, name):
    file = write_weights(tmp_path / name, layers=NUM)
    assert weights.resolve_weights(str(file), "ResNet50", fall_back_to_random=False).file == file


@pytest.mark.parametrize(
    "groups", [{"layers": NUM, "optimizer": 999}, {"model_weights": NUM, "optimizer_weights": 999}]
)
def test_the_state_of_an_optimizer_beside_fitting_weights_is_not_counted(tmp_path, groups):
    file = write_weights(tmp_path / "w.h5", **groups)
    assert weights.resolve_weights(str(file), "ResNet50", fall_back_to_random=False).file == file


@pytest.mark.parametrize("groups", [{"layers": NUM + 7, "optimizer": 999}, {"model_weights": NUM + 7}])
def test_a_whole_model_is_told(tmp_path, groups):
    message = resolve(write_weights(tmp_path / "w.h5", **groups))
    assert f"holds {NUM + 7:,} parameters" in message
    assert ("beside 999 numbers of an optimizer" in message) == ("optimizer" in groups)
    assert "backbone.save_weights" in message


def test_a_pointer_a_page_and_a_keras_model_as_weights_are_told(tmp_path):
    for name, content, told in (
        ("w.h5", POINTER, "git lfs pull"),
        ("w.h5", PAGE, "a web page"),
        ("w.keras", b"PK\3\4", "a whole model"),
    ):
        (tmp_path / name).write_bytes(content)
        assert told in resolve(tmp_path / name)


@pytest.mark.parametrize(("group", "name", "ending"), [
    ("layers", "w.H5", ".weights.h5"), ("layers", "w.h5", ".weights.h5"), ("layers", "w.weights.h5", "w.weights.h5"),
    ("block", "w.H5", ".h5"), ("block", "w.h5", "w.h5"), ("block", "w.weights.h5", "named.h5"),
])  # fmt: skip
def test_keras_gets_the_ending_by_which_it_reads_the_format(tmp_path, group, name, ending):
    file = write_weights(tmp_path / name, **{group: 3})
    with named_for_keras(file) as named:
        assert named.name.endswith(ending)
        assert named.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", ["w.weights.H5", "w.H5"])
def test_weights_with_the_state_of_an_optimizer_are_loaded_alone(tmp_path, name):
    import keras

    from hip_mri.models.backbones.backbone import load_weights_file

    def build() -> keras.Model:
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])

    keras.utils.set_random_seed(1)  # needed where an earlier test has made operations deterministic
    trained = build()
    trained.compile("adam", "mse")
    trained.optimizer.build(trained.trainable_variables)
    saved = tmp_path / ("saved.weights.h5" if "weights" in name else "saved.h5")
    trained.save_weights(saved) if "weights" in name else trained.save(saved)
    with h5py.File(saved) as content:
        assert {"optimizer", "optimizer_weights"} & set(content)
    loaded = build()
    load_weights_file(loaded, saved.rename(tmp_path / name))
    for ours, theirs in zip(loaded.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
