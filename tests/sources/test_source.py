import contextlib
import os
import random
import zipfile
from pathlib import Path

import pytest

from hip_mri.errors import ArchiveError, HipMriError, ImageError, SourceError
from hip_mri.sources.source import open_source, open_unlabeled

NEEDED = "Needed are two class folders with images, normal and osseous_lesion, at the same depth, and no third."

LITTER = [
    "__MACOSX/normal/._n0.png",
    "normal/._n0.png",
    "normal/.DS_Store",
    "osseous_lesion/Thumbs.db",
    "osseous_lesion/deeper/desktop.ini",
    "normal/THUMBS.DB",
]
ABOVE = ["readme.txt", "LICENSE"]


def list_entries(path) -> list[tuple[str, str, int]]:
    with open_source(path) as source:
        return [(entry.name, entry.label, entry.num_bytes) for entry in source.entries]


def refuse(path) -> str:
    with pytest.raises(SourceError) as caught, open_source(path):
        pass
    return str(caught.value)


# Finding the class folders


@pytest.mark.parametrize("prefix", ["", "Hip MRI/", "a/b/c/"])
def test_class_folders_are_found_at_any_depth(entries, pack, spread, prefix):
    moved = {prefix + name: content for name, content in entries.items()}
    expected = sorted((prefix + name, name.split("/")[0], len(content)) for name, content in entries.items())
    assert list_entries(pack(moved)) == expected
    assert list_entries(spread(moved)) == expected


def test_images_may_lie_in_folders_below_the_class_folders(entries, pack):
    nested = {f"normal/patient {number}/a/slice.png": b"x" for number in range(3)} | dict(entries)
    assert {label for name, label, _ in list_entries(pack(nested)) if "patient" in name} == {"normal"}


def test_a_path_that_names_both_classes_is_refused(pack):
    names = {"normal/osseous_lesion/a.png": b"x", "osseous_lesion/normal/b.png": b"x", "normal/c.png": b"x"}
    assert "2 files are in folders of both classes" in refuse(pack(names))


@pytest.mark.parametrize("make", ["pack", "spread"])
def test_litter_and_files_above_are_ignored_and_counted(entries, request, make):
    dirty = dict(entries) | dict.fromkeys(LITTER + ABOVE, b"litter")
    with open_source(request.getfixturevalue(make)(dirty)) as source:
        assert {entry.name for entry in source.entries} == set(entries)
        assert source.num_ignored == len(LITTER) + len(ABOVE)


def test_a_file_beside_deeper_class_folders_is_above_them(entries, pack):
    moved = {f"Data/{name}": content for name, content in entries.items()} | {
        "docs/readme.txt": b"x",
        "Data/x.txt": b"x",
    }
    with open_source(pack(moved)) as source:
        assert (len(source.entries), source.num_ignored) == (len(entries), 2)


def test_folder_entries_in_a_zip_are_no_files(entries, pack):
    with open_source(pack({"normal/": b"", "osseous_lesion/": b"", "third/": b"", **entries})) as source:
        assert (len(source.entries), source.num_ignored) == (len(entries), 0)


def test_the_order_in_a_zip_does_not_matter(entries, pack):
    names = list(entries)
    random.Random(1).shuffle(names)
    with (
        open_source(pack(entries, "a.zip")) as first,
        open_source(pack({name: entries[name] for name in names})) as second,
    ):
        assert first.entries == second.entries


def test_a_folder_is_read_like_the_zip_of_it(entries, pack, spread):
    with open_source(pack(entries)) as zipped, open_source(spread(entries)) as folder:
        assert zipped.num_ignored == folder.num_ignored == 0
        for packed, spread_out in zip(zipped.entries, folder.entries, strict=True):
            assert (packed.name, packed.label, packed.num_bytes) == (
                spread_out.name,
                spread_out.label,
                spread_out.num_bytes,
            )
            assert zipped.read(packed) == folder.read(spread_out) == entries[packed.name]


# Files that are no usable source


def test_a_missing_path_is_named(tmp_path):
    assert "no file or folder at the given path" in refuse(tmp_path / "nothing.zip")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            b"<!DOCTYPE html><html>Sign in</html>",
            "a web page (a download page or an error page was saved instead of the file)",
        ),
        (b"\r\n  <HTML><body>", "a web page (a download page or an error page was saved instead of the file)"),
        (b"PK\x03\x04 and no more", "a damaged or truncated zip file"),
        (b"", "no zip file"),
        (b"anything", "no zip file"),
    ],
)
def test_what_is_no_zip_file_is_named_as_what_it_is(tmp_path, content, found):
    (tmp_path / "images.zip").write_bytes(content)
    with pytest.raises(ArchiveError) as caught, open_source(tmp_path / "images.zip"):
        pass
    assert f"source: the file is {found}" in str(caught.value)


def test_every_early_end_of_a_zip_is_found(source_file):
    content = source_file.read_bytes()
    for length in range(4, len(content), 97):
        source_file.write_bytes(content[:length])
        with pytest.raises(ArchiveError, match="truncated"), open_source(source_file):
            pass


def test_an_empty_zip_and_an_empty_folder_are_refused(pack, tmp_path):
    (tmp_path / "empty").mkdir()
    assert refuse(pack({})) == refuse(tmp_path / "empty") == f"source: it contains no images. {NEEDED}"


def test_dots_that_climb_nowhere_are_fine(entries, pack):
    assert (
        len(list_entries(pack({**entries, "normal/..slice.png": b"x", "normal/a..b/c.png": b"x"}))) == len(entries) + 2
    )


# Entries that are damaged alone


def read_entry(path, name: str) -> bytes:
    with open_source(path) as source:
        return source.read(next(entry for entry in source.entries if entry.name == name))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_fault_19_a_damaged_entry_spoils_only_itself(entries, pack, compression):
    file = pack(entries, compression=compression)
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo("normal/n1.png")
        start = info.header_offset + 30 + len(info.filename)
    content[start + 12 : start + info.compress_size - 12] = bytes(info.compress_size - 24)
    file.write_bytes(content)
    with pytest.raises(ImageError, match="checksum") as caught:
        read_entry(file, "normal/n1.png")
    assert caught.value.reason == "damaged_entry"
    assert read_entry(file, "normal/n0.png") == entries["normal/n0.png"]


def test_flipped_bits_in_a_zip_are_the_inputs_fault(entries, pack):
    """Whatever is flipped, a `HipMriError` says so, or the source can still be read."""
    file = pack(dict.fromkeys(("normal/ä.png", "osseous_lesion/ö.png"), entries["normal/n0.png"]))
    content = file.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        file.write_bytes(damaged)
        with contextlib.suppress(HipMriError), open_source(file) as source:
            for entry in source.entries:
                with contextlib.suppress(ImageError):
                    source.read(entry)


def test_a_file_that_goes_away_spoils_only_itself(entries, spread):
    folder = spread(entries)
    with open_source(folder) as source:
        (folder / "normal/n0.png").unlink()
        gone, there = source.entries[:2]
        with pytest.raises(ImageError, match="No such file") as caught:
            source.read(gone)
        assert caught.value.reason == "unreadable_file"
        assert source.read(there) == entries[there.name]


@pytest.mark.parametrize("make", ["pack", "spread"])
def test_another_content_is_another_version(entries, request, make):
    write = request.getfixturevalue(make)
    changed = {**entries, "normal/n0.png": entries["normal/n0.png"] + b"."}
    with open_source(write(entries, "same")) as source:
        before = {entry.name: entry.version for entry in source.entries}
    file = write({"normal/n0.png": changed["normal/n0.png"]} if make == "spread" else changed, "same")
    with open_source(file) as source:
        after = {entry.name: entry.version for entry in source.entries}
    assert {name for name in entries if before[name] != after[name]} == {"normal/n0.png"}


def test_in_a_folder_another_time_is_another_version(entries, spread):
    folder = spread(entries)
    with open_source(folder) as source:
        before = {entry.name: entry.version for entry in source.entries}
    os.utime(folder / "normal/n0.png", ns=(1, 1))
    with open_source(folder) as source:
        assert {entry.name for entry in source.entries if entry.version != before[entry.name]} == {"normal/n0.png"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_zip_that_may_not_be_read_is_refused(source_file):
    source_file.chmod(0)
    assert "(Permission denied)" in refuse(source_file)


def test_a_zip_on_a_broken_disk_is_refused(source_file, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", fail)
    assert "(Input/output error)" in refuse(source_file)


def test_folders_that_cannot_be_read_are_counted(entries, spread, monkeypatch):
    """Left out in silence, they would change what is trained on."""
    folder = spread({**entries, "normal/a/1.png": b"x", "normal/b/1.png": b"x"})
    scandir = os.scandir

    def refuse_some(path):
        if Path(path).name in ("a", "b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_some)
    assert "2 of its folders cannot be read (Permission denied)" in refuse(folder)


# What no message repeats


def test_fault_53_files_that_go_away_are_counted_and_not_named(entries, spread, monkeypatch):
    folder, lstat = spread(entries), Path.lstat

    def fail(path: Path) -> os.stat_result:
        if path.parent.name == "normal":
            raise FileNotFoundError(2, "No such file", str(path))
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", fail)
    num_normal = sum(name.startswith("normal/") for name in entries)
    assert refuse(folder).startswith(f"source: the folder contains {num_normal} files")


# Single files


def test_a_single_file_on_a_broken_disk_is_refused_and_not_named(tmp_path, monkeypatch):
    file = tmp_path / "Smith.png"
    file.write_bytes(b"x")

    def fail(*arguments, **options):
        raise OSError(5, "Input/output error", str(file))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(SourceError) as caught, open_unlabeled(file):
        pass
    assert "(Input/output error)" in str(caught.value)


@pytest.mark.parametrize("open_it", [open_source, open_unlabeled])
def test_fault_5_a_pipe_is_no_source(tmp_path, open_it):
    os.mkfifo(tmp_path / "pipe.zip")
    with (
        pytest.raises(SourceError, match="no file or folder"),
        open_it(tmp_path / "pipe.zip"),
    ):
        pass
