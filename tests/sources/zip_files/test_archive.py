"""Faults 1 to 30: zip files and folders that lie, that are damaged, or that only look strange."""

import io
import os
import socket
import stat
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest

from hip_mri.config import SourceLimits
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import ingest_images
from hip_mri.dataset.pseudonyms import read_named_manifest
from hip_mri.errors import ArchiveError, ImageError, LimitError, SourceError
from hip_mri.sources.source import Entry, Source, open_source, open_unlabeled
from hip_mri.sources.tables.delivered_table import read_patients_table
from hip_mri.sources.zip_files import archive as archive_module
from hip_mri.sources.zip_files.archive import open_archive
from hip_mri.sources.zip_files.directory import find_clashes
from hip_mri.sources.zip_files.faults import ZipFaults
from tests.images.image_files import hash_picture
from tests.sources.zip_files.zips import DEFLATED, STORED, UNKNOWN, Member, build_zip, build_zip64_end, images

COUNTED = "Entries are counted in the order in which `zipinfo -1` lists them."
NORMAL, UTF8, SIZES_FOLLOW = b"normal/", 1 << 11, 1 << 3


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "images.zip"


def refuse(file: Path, content: bytes, limits: SourceLimits = SourceLimits()) -> str:
    """The message with which both ways to open a source refuse a zip file."""
    file.write_bytes(content)
    messages = []
    for open_it in (open_source, open_unlabeled):
        with pytest.raises((ArchiveError, LimitError)) as caught, open_it(file, limits) as source:
            read_all(source)
        messages.append(str(caught.value).partition(" Needed are ")[0])
    assert messages[0] == messages[1]
    return messages[0]


def take(file: Path, content: bytes) -> dict[str, str | bytes]:
    """Every entry of a zip file: its content, or the reason why it is quarantined."""
    file.write_bytes(content)
    with open_source(file) as source:
        return read_all(source)


def read_all(source: Source) -> dict[str, str | bytes]:
    found: dict[str, str | bytes] = {}
    for entry in source.entries:
        try:
            found[entry.name] = source.read(entry)
        except ImageError as error:
            found[entry.name] = error.reason
    return found


def deflate(content: bytes) -> bytes:
    return Member(b"", content, DEFLATED).pack()


# Names


UNSAFE = "paths that are absolute, contain a drive or contain '.' or '..'"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(b"../a.png", id="fault-01"),
        pytest.param(b"normal/../../a.png", id="fault-01-deep"),
        pytest.param(b"../folder/", id="fault-01-folder"),
        pytest.param(b"normal/.. /a.png", id="fault-01-with-a-space"),
        pytest.param(b"/etc/a.png", id="fault-02"),
        pytest.param(b"//server/share/a.png", id="fault-02-slashes"),
        pytest.param(b"C:a.png", id="fault-03-drive"),
        pytest.param(b"C:/a.png", id="fault-03-drive-root"),
        pytest.param(b"C:\\a.png", id="fault-03-drive-backslash"),
        pytest.param(b"\\\\server\\share\\a.png", id="fault-03-unc"),
        pytest.param(b"..\\..\\evil.png", id="fault-03-backslash"),
        pytest.param(b"normal\\..\\osseous_lesion\\x.png", id="fault-03-backslash-climbing"),
        pytest.param(b"\\normal\\a.png", id="fault-03-backslash-root"),
        pytest.param(b"normal\\.\\a.png", id="fault-03-backslash-dot"),
        pytest.param(b"normal/../osseous_lesion/x.png", id="fault-04"),
        pytest.param(b"normal/./x.png", id="fault-04-dot"),
        pytest.param(b"././x.png", id="fault-04-two-dots"),
        pytest.param(b"./../x.png", id="fault-04-dot-and-climbing"),
        pytest.param(b"normal//x.png", id="fault-04-nothing"),
        pytest.param(b"", id="fault-04-no-name"),
    ],
)
def test_unsafe_paths(file, name):
    content = b"" if name.endswith(b"/") else b"x"
    assert f"{UNSAFE} (entry 3)" in refuse(file, build_zip(images(Member(name, content))))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR])
def test_fault_05_links_pipes_and_devices(file, kind):
    member = Member(b"normal/link.png", b"/etc/passwd", mode=kind | 0o777)
    assert "links, pipes or devices (entry 3)" in refuse(file, build_zip(images(member)))


def test_fault_05_a_folder_is_no_file_and_holds_nothing(file):
    member = Member(b"normal/folder/", b"", mode=stat.S_IFREG)
    assert "links, pipes or devices (entry 3)" in refuse(file, build_zip(images(member)))
    member = Member(b"normal/folder/", b"hidden", mode=stat.S_IFDIR)
    assert "folders with content (entry 3)" in refuse(file, build_zip(images(member)))


@pytest.mark.parametrize("name", [b"normal/a.png\0.exe", b"\0", b"normal/\0a.png"])
def test_fault_06_nul(file, name):
    assert "names with a NUL (entry 3)" in refuse(file, build_zip(images(Member(name))))


@pytest.mark.parametrize("raw", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xe2\x82"])
def test_fault_07_utf8_that_is_none(file, raw):
    member = Member(b"normal/" + raw + b".png", flags=UTF8)
    assert "UTF-8 and are not (entry 3)" in refuse(file, build_zip(images(member)))


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Müller.png", "cp437"),
        ("Köln Größe äöü é.png", "cp437"),
        ("患者ソ表.png", "cp932"),  # the second byte of the third letter is a backslash
        ("テスト画像 1.png", "cp932"),
        ("Müller 患者.png", "utf-8"),
    ],
)
def test_fault_08_names_without_the_flag(file, text, encoding):
    found = take(file, build_zip(images(Member(b"normal/" + text.encode(encoding), b"content"))))
    assert found[f"normal/{text}"] == b"content"


def test_fault_08_a_name_in_the_extra_field_of_info_zip_counts(file):
    raw = b"normal/M?ller.png"
    content = b"\1" + struct.pack("<L", zlib.crc32(raw)) + "normal/Müller.png".encode()
    extra = struct.pack("<2H", 0x7075, len(content)) + content
    assert "normal/Müller.png" in take(file, build_zip(images(Member(raw, extra=extra))))
    stale = struct.pack("<2H", 0x7075, len(content)) + content[:1] + b"----" + content[5:]
    assert "normal/M?ller.png" in take(file, build_zip(images(Member(raw, extra=stale))))
    climbing = content.replace("Müller".encode(), b"../../x")
    extra = struct.pack("<2H", 0x7075, len(climbing)) + climbing
    assert UNSAFE in refuse(file, build_zip(images(Member(raw, extra=extra))))


@pytest.mark.parametrize(
    "text", ["a\x1b[2Jb", "a\nb", "a\rb", "a\x7fb", "a\u202egnp.b", "a\u2066b", "a\x9b31mb", "a\u2028b"]
)
def test_fault_09_control_characters(file, text, tmp_path, entries, capfd, caplog):
    caplog.set_level("DEBUG")
    member = Member(f"normal/{text}.png".encode(), flags=UTF8)
    assert take(file, build_zip(images(member)))[f"normal/{text}.png"] == "control_characters_in_name"
    assert Entry(f"normal/{text}", "normal", 1, "").storable_name.isprintable()
    message = refuse_labels(file, build_zip([Member(f"{text}/x.png".encode(), flags=UTF8)]))
    assert "but files in 1 folder at level 1. " in message
    assert message.isprintable()
    assert text not in capfd.readouterr().out + caplog.text


def refuse_labels(file: Path, content: bytes) -> str:
    file.write_bytes(content)
    with pytest.raises(SourceError) as caught, open_source(file):
        pass
    return str(caught.value)


def test_fault_10_two_entries_of_one_name(file):
    twice = [Member(b"normal/a.png", b"one"), Member(b"normal/a.png", b"two")]
    assert "duplicate names (entry 4)" in refuse(file, build_zip(images(*twice)))
    twice = [Member(b"normal/", b"", mode=stat.S_IFDIR), Member(b"normal/", b"", mode=stat.S_IFDIR)]
    assert "duplicate names (entry 4)" in refuse(file, build_zip(images(*twice)))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.png", "A.PNG"),
        ("ä.png", "A\u0308.png"),
        ("ä.png", "a\u0308.png"),
        ("ß.png", "SS.png"),
        ("a.png", "a.png."),  # Windows drops the dot
        ("a", "a "),
    ],
)
def test_fault_11_names_that_some_system_takes_for_one(file, first, second):
    names = [f"normal/{name}".encode() for name in (first, second)]
    message = refuse(file, build_zip(images(*(Member(name, flags=UTF8) for name in names))))
    assert "names that differ only in case, in the encoding of accents or in trailing dots (entry 4)" in message


@pytest.mark.parametrize(
    "names",
    [
        [b"normal/a", b"normal/a/b.png"],
        [b"normal/a/b.png", b"normal/a"],
        [b"normal/a", b"normal/a/"],
        [b"normal/a/", b"normal/a"],
        [b"normal/A", b"normal/a/b.png"],
    ],
)
def test_fault_12_a_file_that_is_a_folder(file, names):
    members = [Member(name, b"" if name.endswith(b"/") else b"x", mode=0) for name in names]
    assert "files with the name of a folder (entry " in refuse(file, build_zip(images(*members)))


@pytest.mark.parametrize("name", ["a" * 256, "ä" * 128, "a" * 252 + ".png"])
def test_fault_13_long_names(file, name):
    found = take(file, build_zip(images(Member(f"normal/{name}".encode(), flags=UTF8))))
    assert found[f"normal/{name}"] == "name_too_long"


def test_fault_13_the_longest_name_is_fine(file):
    name = "normal/" + "a" * 251 + ".png"
    assert take(file, build_zip(images(Member(name.encode()))))[name] == b"x"


@pytest.mark.parametrize("levels", [17, 1200, 20_000])
def test_fault_14_deep_paths(file, levels):
    name = b"normal/" + b"d/" * (levels - 2) + b"x.png"
    assert "paths of more than 16 parts (entry 3)" in refuse(file, build_zip(images(Member(name))))


def test_fault_14_sixteen_levels_are_fine(file):
    assert len(take(file, build_zip(images(Member(b"normal/" + b"d/" * 14 + b"x.png"))))) == 3


@pytest.mark.parametrize("name", ["CON.png", "aux", "NUL", "COM1.png", "trailing.", "trailing "])
def test_fault_15_names_that_windows_reserves_never_become_paths(file, name, workspace, entries):
    """The manifest keeps the name as it is, which patients' tables refer to; the file goes by its hash."""
    members = [Member(entry.encode(), content) for entry, content in entries.items()]
    picture = members.pop(0).content
    file.write_bytes(build_zip([Member(f"normal/{name}".encode(), picture), *members]))
    ingest_images([Delivery("source", file)], workspace, num_threads=1)
    row = read_named_manifest(workspace).set_index("source_name").loc[f"normal/{name}"]
    assert row["state"] == "ready"
    assert row["sha256"] == hash_picture(picture)
    assert workspace.image_file(str(row["sha256"])).exists()


# Packing


@pytest.mark.parametrize("flags", [1, 1 << 6, 1 << 13])
def test_fault_16_encryption(file, flags):
    members = [Member(b"normal/a.png", flags=flags), Member(b"normal/b.png", flags=flags)]
    assert "encrypted entries (entry 3, 4)" in refuse(file, build_zip(images(*members)))


@pytest.mark.parametrize(
    ("method", "shown"), [(9, "9 (Deflate64)"), (12, "12 (bzip2)"), (93, "93 (Zstandard)"), (77, "77")]
)
def test_fault_17_other_methods_are_named_with_fitting_advice(file, method, shown):
    message = refuse(file, build_zip(images(Member(b"normal/a.png", method=method))))
    assert f": method {shown} (entry 3)" in message
    assert "Deflate, such as by" in message
    assert "plain names" not in message


def test_fault_17_later_versions(file):
    for fields in ({"version": 64}, {"flags": 1 << 5}):
        message = refuse(file, build_zip(images(Member(b"normal/a.png", **fields))))
        assert "a later version of the zip format, or with patch data (entry 3)" in message


def test_fault_16_encryption_by_aes(file):
    message = refuse(file, build_zip(images(Member(b"normal/a.png", method=99))))
    assert "encrypted entries (entry 3)" in message
    assert "with the password" in message


def test_backslashes_and_a_leading_dot_are_read(file):
    members = [
        Member(b"./", b"", mode=stat.S_IFDIR),
        Member(b"./normal/", b"", mode=stat.S_IFDIR),
        Member(b"./normal/a.png", b"1"),
        Member(b"normal\\deep\\b.png", b"2", mode=0),
        Member(b".\\osseous_lesion\\c.png", b"3", mode=0),
        Member(b"osseous_lesion\\", b"", mode=0),
    ]
    found = take(file, build_zip(members))
    assert found == {"normal/a.png": b"1", "normal/deep/b.png": b"2", "osseous_lesion/c.png": b"3"}


@pytest.mark.parametrize("name", [b"normal\\good.png", b"./normal/good.png", b"Normal\\good.png"])
def test_fault_10_names_that_become_equal_are_refused(file, name):
    message = refuse(file, build_zip(images(Member(name))))
    assert "duplicate names (entry 3)" in message or "names that differ only in case" in message


def test_fault_18_every_early_end(file):
    content = build_zip(images(Member(b"normal/a.png", b"a" * 100, DEFLATED)), comment=b"comment")
    for length in range(len(content)):
        assert "source: the file is " in refuse(file, content[:length])


def test_fault_18_a_file_that_lost_its_middle(file):
    content = build_zip(images(Member(b"normal/a.png", b"a" * 100)))
    assert "is a damaged zip file, or one after or inside another file" in refuse(file, content[:40] + content[60:])


def test_fault_19_one_wrong_checksum(file):
    found = take(file, build_zip(images(Member(b"normal/a.png", checksum=1))))
    assert found == {
        "normal/a.png": "damaged_entry",
        "normal/good.png": b"good",
        "osseous_lesion/good.png": b"good",
    }


@pytest.mark.parametrize(("num_damaged", "is_refused"), [(2, False), (3, True)])
def test_fault_19_more_than_one_in_a_hundred(file, num_damaged, is_refused):
    members = [Member(b"normal/%d.png" % number, checksum=1 if number < num_damaged else None) for number in range(198)]
    content = build_zip(images(*members))
    if is_refused:
        assert "3 of its 200 files" in refuse(file, content)
    else:
        assert list(take(file, content).values()).count("damaged_entry") == num_damaged


def test_fault_19_an_entry_that_is_tried_twice_counts_once(file):
    file.write_bytes(build_zip(images(Member(b"normal/a.png", checksum=1))))
    with open_archive(file, "images.zip", SourceLimits(), "") as archive:
        for _ in range(3):
            with pytest.raises(ImageError):
                archive.read("normal/a.png")


def test_fault_19_nothing_is_changed_by_a_refused_archive(file, workspace, entries, snapshot):
    members = [Member(name.encode(), content) for name, content in entries.items()]
    file.write_bytes(build_zip(members))
    ingest_images([Delivery("source", file)], workspace, num_threads=2)
    before = snapshot(workspace.root)
    bad = [Member(member.name, member.content + b"?", checksum=number) for number, member in enumerate(members)]
    file.write_bytes(build_zip(bad))
    with pytest.raises(ArchiveError, match="one in a hundred"):
        ingest_images([Delivery("source", file)], workspace, num_threads=2)
    assert snapshot(workspace.root) == before


@pytest.mark.parametrize(
    "lie",
    [
        {"name": b"normal/b.png"},
        {"name": b"normal/longer.png"},
        {"method": DEFLATED},
        {"flags": 1},
        {"flags": UTF8},
        {"checksum": 7},
        {"size": 7},
        {"packed_size": 7},
        {"extra": b"\1\0\xff\0"},
    ],
    ids=str,
)
def test_fault_20_headers_that_differ(file, lie):
    message = refuse(file, build_zip(images(Member(b"normal/a.png", in_local=lie))))
    assert "entries that differ between the directory and their local header (entry 3" in message


@pytest.mark.parametrize("offset", [1, 2**31, UNKNOWN])
def test_fault_20_an_offset_that_leads_nowhere(file, offset):
    message = refuse(file, build_zip(images(Member(b"normal/a.png", offset=offset))))
    assert "entries that differ between the directory and their local header (entry 3" in message


def test_fault_20_an_offset_beyond_any_file(file):
    extra = struct.pack("<2HQ", 1, 8, 2**64 - 1)
    member = Member(b"normal/a.png", extra=extra, offset=UNKNOWN, in_local={"extra": b""})
    assert "their local header (entry 3" in refuse(file, build_zip(images(member)))


@pytest.mark.parametrize("size", [0, 50, 99, 101, 150, 5000])
@pytest.mark.parametrize("checks", ["whole", "prefix"])
def test_fault_21_a_size_that_lies(file, size, checks):
    content = bytes(range(100))
    checksum = zlib.crc32(content if checks == "whole" else content[:size])
    member = Member(b"normal/a.png", content, DEFLATED, size=size, checksum=checksum)
    message = refuse(file, build_zip(images(member)))
    assert "entry 3 of the file" in message
    assert f" {size:,} bytes" in message


def test_fault_21_a_stored_size_that_lies(file):
    message = refuse(file, build_zip(images(Member(b"normal/a.png", b"abc", size=2))))
    assert "two different sizes (entry 3)" in message


def test_fault_21_a_bomb_that_tells_a_small_size_takes_little_memory(file):
    member = Member(b"normal/a.png", bytes(50_000_000), DEFLATED, size=1000)
    content = build_zip(images(member))
    del member
    file.write_bytes(content)
    tracemalloc.start()
    with open_archive(file, "images.zip", SourceLimits(), "") as archive:
        with pytest.raises(ArchiveError, match="1,000 bytes"):
            archive.read("normal/a.png")
        _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize("packed", [deflate(b"x" * 100)[:-2], deflate(b"x" * 100) + b"more", b"\xff\xff", b""])
def test_fault_21_a_stream_that_is_damaged_is_no_lie(file, packed):
    member = Member(b"normal/a.png", b"x" * 100, DEFLATED, packed=packed)
    assert take(file, build_zip(images(member)))["normal/a.png"] == "damaged_entry"


def test_fault_21_bytes_after_the_end_of_a_stream_are_fed_once(file, monkeypatch):
    """zlib keeps them, and copies all that it keeps in each further call: 18 s for 128 MB, in the main process."""
    packed, fed = deflate(b"content"), []

    class Stream:
        def __init__(self, stream):
            self._stream = stream

        def __getattr__(self, name):
            return getattr(self._stream, name)

        def decompress(self, piece, max_size):
            fed.append(len(piece))
            return self._stream.decompress(piece, max_size)

    make = zlib.decompressobj
    monkeypatch.setattr(archive_module.zlib, "decompressobj", lambda *arguments: Stream(make(*arguments)))
    member = Member(b"normal/a.png", b"content", DEFLATED, packed=packed + bytes(1000))
    assert take(file, build_zip(images(member)))["normal/a.png"] == "damaged_entry"
    assert fed == [len(packed) + 1000]


def test_fault_21_an_entry_that_takes_more_room_packed_than_any_program_makes_it(file):
    member = Member(b"normal/a.png", b"x", DEFLATED, packed=deflate(b"x") + bytes(2**16))
    message = refuse(file, build_zip(images(member)))
    assert "larger compressed than uncompressed (entry 3)" in message


@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY])
@pytest.mark.parametrize("num_bytes", [0, 1, 100, 300_000])
def test_fault_21_noise_that_grows_by_packing_is_taken(file, strategy, num_bytes):
    content = os.urandom(num_bytes // 2) + b"\xff" * (num_bytes - num_bytes // 2)
    stream = zlib.compressobj(0, wbits=-15, memLevel=1, strategy=strategy)
    packed = b"".join(
        stream.compress(content[at : at + 9]) + stream.flush(zlib.Z_SYNC_FLUSH) for at in range(0, num_bytes, 9)
    )
    member = Member(b"normal/a.png", content, DEFLATED, packed=packed + stream.flush())
    assert take(file, build_zip(images(member)))["normal/a.png"] == content


# Bombs, and what hides in a file


def test_fault_22_an_entry_packed_too_tightly(file):
    member = Member(b"normal/a.png", bytes(3_000_000), DEFLATED)
    filler = Member(b"normal/b.png", os.urandom(60_000))
    message = refuse(file, build_zip(images(member, filler)))
    assert "--limits.max-compression-ratio times their size (entry 3)" in message


def test_fault_22_an_archive_packed_too_tightly(file):
    members = [Member(b"normal/%d.png" % number, bytes(2**20), DEFLATED) for number in range(3)]
    assert "more than 100 times its size" in refuse(file, build_zip(images(*members)))
    file.write_bytes(build_zip(images(*members)))
    with open_source(file, SourceLimits(max_compression_ratio=1100)) as source:
        assert len(source.read(source.entries[0])) == 2**20


def test_fault_22_an_empty_picture_is_no_bomb(file):
    content = bytes(512 * 512)
    assert take(file, build_zip(images(Member(b"normal/a.tif", content, DEFLATED))))["normal/a.tif"] == content


def test_fault_22_too_many_bytes(file):
    members = images(Member(b"normal/a.png", bytes(1000)))
    assert "more than 1,007 bytes" in refuse(file, build_zip(members), SourceLimits(max_bytes=1007))
    with open_source(file, SourceLimits(max_bytes=1008)) as source:
        assert len(source.entries) == 3


def test_fault_22_a_petabyte_that_is_only_told(file):
    told = Member(b"normal/a.png", b"", DEFLATED, extra=struct.pack("<2HQ", 1, 8, 2**50), size=UNKNOWN)
    message = refuse(file, build_zip(images(told)))
    assert message.startswith("source: the file decompresses to more than ")


def test_fault_22_too_many_entries(file):
    assert "2 entries, above 1" in refuse(file, build_zip(images()), SourceLimits(max_entries=1))


def test_fault_22_too_many_folders(file):
    members = [Member(b"normal/%d/a/b/c/d/x.png" % number) for number in range(5)]
    message = refuse(file, build_zip(images(*members)), SourceLimits(max_entries=10))
    assert "more folders than entries are allowed (entry " in message


def test_fault_22_a_path_of_endless_depth_takes_little_memory(file):
    """Each of its 32,000 levels is a folder of its own, and the longest of their names have 64 KB."""
    content = build_zip(images(Member(b"a/" * 32_000 + b"x.png")))
    file.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ArchiveError, match="more than 16 parts"), open_source(file):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def test_fault_22_folders_are_counted_one_by_one():
    names = ["a/" * 15 + "x.png", "b/" * 15 + "x.png"]
    faults = ZipFaults("the file")
    find_clashes(names, 14, faults)
    with pytest.raises(ArchiveError, match="entry 1"):
        faults.raise_error()
    for max_folders, position in ((15, 2), (29, 2), (30, None)):
        faults = ZipFaults("the file")
        find_clashes(names, max_folders, faults)
        if position:
            with pytest.raises(ArchiveError, match=f"entry {position}"):
                faults.raise_error()
        else:
            faults.raise_error()


def overlap(num_entries: int) -> bytes:
    """Entries whose data are one and the same kernel, which the first header hands over to all."""
    kernel = Member(b"normal/0.png", bytes(10_000))
    local = kernel.write_local()
    members = [Member(b"normal/%d.png" % number, bytes(10_000), offset=0) for number in range(num_entries)]
    directory = b"".join(member.write_central(0) for member in members)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, num_entries, num_entries, len(directory), len(local), 0)
    return local + directory + end


def test_fault_23_entries_that_share_their_bytes(file):
    assert "overlapping entries (entry 2, 3, 4" in refuse(file, overlap(50))


def test_fault_23_entries_inside_an_entry(file):
    """Quoted headers: each entry holds the next one, with sound headers everywhere."""
    inner = Member(b"normal/b.png", b"inner")
    outer = Member(b"normal/a.png", inner.write_local())
    head = len(outer.write_local()) - len(inner.write_local())
    directory = outer.write_central(0) + inner.write_central(head)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(directory), len(outer.write_local()), 0)
    message = refuse(file, outer.write_local() + directory + end)
    assert "overlapping entries (entry 2)" in message


def test_fault_23_an_entry_that_reaches_into_the_directory(file):
    content = build_zip(images(Member(b"normal/a.png", b"abc", packed_size=60, size=60)))
    assert "overlapping entries (entry 3)" in refuse(file, content)


@pytest.mark.parametrize("name", [b"normal/inner.zip", b"normal/inner.ZIP", b"normal/inner.png"])
def test_fault_24_a_zip_inside(file, name):
    inner = build_zip([Member(b"../evil.png")])
    assert take(file, build_zip(images(Member(name, inner))))[name.decode()] == "nested_archive"


def test_fault_24_a_zip_in_a_folder(spread, entries):
    folder = spread({**entries, "normal/inner.png": build_zip(images())})
    with open_source(folder) as source:
        entry = next(entry for entry in source.entries if entry.name == "normal/inner.png")
        with pytest.raises(ImageError) as caught:
            source.read(entry)
        assert caught.value.reason == "nested_archive"


ZIP = build_zip(images())


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"prefix" + ZIP, "is no zip file|is a damaged zip file, or one after or inside another file"),
        (b"\x89PNG" + build_zip(images(), base=4), "bytes of no entry before the entry.*entry 1"),
        (ZIP + b"more", "is a zip file with other bytes after its end"),
        (ZIP + ZIP, "is a damaged zip file, or one after or inside another file"),
        (ZIP + build_zip(images(Member(b"normal/b.png")), base=len(ZIP)), "bytes of no entry before the entry"),
        (build_zip(images(Member(b"normal/a.png", trailer=b"hidden"))), "bytes of no entry before the entry"),
        (build_zip(images(Member(b"normal/a.png", trailer=bytes(16)))), "bytes of no entry before the entry"),
        (build_zip(images(), comment=build_zip([])), "two end records"),
        (build_zip(images(), num_entries=1), "its directory ends after entry 1"),
        (build_zip(images(), num_entries=3), "its directory ends after entry 2"),
        (build_zip(images(Member(b"normal/a.png", disk=1))), r"damaged records in the directory \(entry 3\)"),
        (build_zip(images(Member(b"normal/a.png", extra=b"\1\0\xff\0"))), r"damaged records in the directory"),
    ],
    ids=lambda value: "fault-25" if isinstance(value, bytes) else value[:30],
)
def test_fault_25_something_else_around_or_between(file, content, found):
    file.write_bytes(content)
    with pytest.raises(ArchiveError, match=found), open_source(file):
        pass


def test_fault_25_a_picture_with_a_zip_behind_it_is_a_single_picture(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + ZIP)
    with open_unlabeled(tmp_path / "picture.png") as source:
        assert [entry.name for entry in source.entries] == ["picture.png"]


def test_a_comment_is_fine(file):
    assert len(take(file, build_zip(images(), comment=b"made by " * 100))) == 2


def test_sizes_behind_the_data_are_fine(file):
    """As programs write that do not know the sizes yet."""
    unknown = {"checksum": 0, "size": 0, "packed_size": 0}
    sizes = struct.pack("<4s3L", b"PK\7\x08", zlib.crc32(b"abc"), 3, 3)
    for trailer in (sizes, sizes[4:], sizes[:8] + struct.pack("<2Q", 3, 3)):
        member = Member(b"normal/a.png", b"abc", flags=SIZES_FOLLOW, trailer=trailer, in_local=unknown)
        for members in ([member, *images()], images(member)):
            assert take(file, build_zip(members))["normal/a.png"] == b"abc"


# Strange and sound


def test_fault_26_more_than_four_gigabytes(file):
    """A real file, with a hole in the place of the zeros."""
    size = 2**32 + 10
    big, small = Member(b"normal/big.raw"), Member(b"osseous_lesion/a.png", b"abc")
    extra = struct.pack("<2H2Q", 1, 16, size, size)
    head = struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, STORED, 0, 33, 5, UNKNOWN, UNKNOWN, len(big.name), len(extra))
    head += big.name + extra
    at = len(head) + size
    central = Member(big.name, extra=extra, checksum=5, size=UNKNOWN, packed_size=UNKNOWN).write_central(0)
    far = struct.pack("<2HQ", 1, 8, at)
    central += Member(small.name, b"abc", extra=far).write_central(UNKNOWN)
    with file.open("wb") as stream:
        stream.write(head)
        stream.seek(at)
        stream.write(small.write_local())
        place = stream.tell()
        stream.write(central + build_zip64_end(place, len(central), 2))
    with open_source(file) as source:
        assert {entry.name: entry.num_bytes for entry in source.entries} == {
            big.name.decode(): size,
            small.name.decode(): 3,
        }
        assert source.read(source.entries[1]) == b"abc"


def test_fault_26_more_than_65535_entries(file):
    number = 65_600
    with zipfile.ZipFile(file, "w") as archive:
        for label in ("normal", "osseous_lesion"):
            for at in range(number // 2):
                archive.writestr(zipfile.ZipInfo(f"{label}/{at}.png"), b"%d" % at)
    with open_source(file) as source:
        assert len(source.entries) == number
        assert source.read(source.entries[-1]) == source.entries[-1].name.split("/")[1].removesuffix(".png").encode()


@pytest.mark.parametrize("at", [4, 8, 20, 24, 28, 32, 40, 48, 56, 60, 64, 72])
def test_fault_26_long_records_that_contradict_themselves(file, at):
    members = images()
    content = b"".join(member.write_local() for member in members)
    offset = len(members[0].write_local())
    central = members[0].write_central(0) + members[1].write_central(offset)
    end = bytearray(build_zip64_end(len(content), len(central), 2))
    file.write_bytes(content + central + bytes(end))
    assert len(take(file, content + central + bytes(end))) == 2
    end[at] ^= 0x11
    refuse(file, content + central + bytes(end))


@pytest.mark.parametrize("members", [[], [Member(b"normal/", b"", mode=stat.S_IFDIR)]])
def test_fault_27_nothing_inside(file, members):
    assert refuse_labels(file, build_zip(members)).startswith("source: it contains no images. Needed are")


def test_fault_28_litter(file):
    litter = [b"__MACOSX/normal/._a.png", b"normal/._a.png", b".DS_Store", b"normal/Thumbs.db", b"normal/desktop.ini"]
    file.write_bytes(build_zip(images(*(Member(name) for name in litter))))
    with open_source(file) as source:
        assert (len(source.entries), source.num_ignored) == (2, 5)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\n  "])
def test_fault_29_a_web_page(file, start):
    page = start + b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title>"
    assert "a web page" in refuse(file, page)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([b"normal/a.png", b"tumor/a.png"], "unknown: 1 of another name; missing or empty: osseous_lesion"),
        ([b"normal/a.png"], "missing or empty: osseous_lesion"),
        ([b"normal/a.png", b"osseous_lesion/a.png", b"other/a.png"], "unknown: 1 of another name"),
        ([b"normal/a.png", b"x" * 500 + b"/a.png"], "unknown: 1 of another name;"),
    ],
)
def test_fault_30_wrong_class_folders(file, names, told):
    message = refuse_labels(file, build_zip([Member(name) for name in names]))
    assert told in message
    assert "Needed are two class folders with images, normal and osseous_lesion, at the same depth, and no" in message
    assert not any(name in message for name in ("tumor", "other/", "xxx"))


# All together


def test_every_offender_is_told_at_once_and_nobody_is_named(file):
    members = [Member(b"normal/Mueller Anna/../%d.png" % number) for number in range(14)]
    message = refuse(file, build_zip(images(*members, Member(b"/Mueller.png"), Member(b"normal/Mueller", flags=1))))
    assert f"{UNSAFE} (entry 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 5 more); encrypted entries (entry 18)" in message
    assert "Mueller" not in message


def test_what_zipfile_writes_is_read_alike(tmp_path, entries):
    """The standard library as an independent oracle, to a file and to a pipe that cannot be rewound."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.content = b""

        def writable(self) -> bool:
            return True

        def write(self, part) -> int:
            self.content += bytes(part)
            return len(part)

    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        for number, target in enumerate((io.BytesIO(), Pipe())):
            with zipfile.ZipFile(target, "w", method) as archive:
                archive.comment = b"a comment"
                for name, content in entries.items():
                    archive.writestr(name, content)
                with archive.open("normal/ä.png", "w", force_zip64=True) as stream:
                    stream.write(b"streamed" * 1000)
                archive.mkdir("normal/empty")
            content = target.content if isinstance(target, Pipe) else target.getvalue()
            expected = {**entries, "normal/ä.png": b"streamed" * 1000}
            assert take(tmp_path / f"{method}-{number}.zip", content) == expected


def test_a_disk_that_fails_ends_the_run(file, monkeypatch):
    file.write_bytes(build_zip(images()))
    with open_source(file) as source:

        def fail(*arguments):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "pread", fail)
        with pytest.raises(ArchiveError, match="Input/output error"):
            source.read(source.entries[0])


def test_a_table_of_patients_is_read_within_bounds(file, monkeypatch):
    file.write_bytes(build_zip(images(Member(b"patients.csv", b"source_name,patient_id\n", checksum=1))))
    with pytest.raises(SourceError, match=r"table of patients.*checksum"):
        read_patients_table(file)
    file.write_bytes(build_zip(images(Member(b"patients.csv", b"source_name,patient_id\n"))))
    assert read_patients_table(file) == b"source_name,patient_id\n"
    monkeypatch.setattr("hip_mri.sources.tables.delivered_table._MAX_BYTES", 10)
    with pytest.raises(SourceError, match="23 bytes, above 10"):
        read_patients_table(file)


def test_fault_22_a_bomb_of_shared_bytes_is_known_by_its_directory(file):
    file.write_bytes(overlap(20_000))
    with pytest.raises(LimitError, match="more than 100 times its size"), open_source(file):
        pass


# Folders


def refuse_folder(folder: Path, limits: SourceLimits = SourceLimits()) -> str:
    with pytest.raises(SourceError) as caught, open_source(folder, limits):
        pass
    return str(caught.value)


def test_fault_05_links_out_of_a_folder(spread, entries, tmp_path):
    folder = spread(entries)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "normal/out.png").symlink_to(tmp_path / "secret.png")
    (folder / "normal/gone.png").symlink_to(tmp_path / "nothing.png")
    (folder / "normal/up").symlink_to(tmp_path)
    (folder / "normal/loop.png").symlink_to(folder / "normal/loop.png")
    assert "4 links" in refuse_folder(folder)


def test_fault_05_a_link_inside_a_folder_is_fine(spread, entries, tmp_path):
    folder = spread(entries)
    (folder / "normal/again.png").symlink_to(folder / "normal/n0.png")
    (tmp_path / "linked").symlink_to(folder)
    with open_source(tmp_path / "linked") as source:
        found = {entry.name: source.read(entry) for entry in source.entries}
    assert found == {**entries, "normal/again.png": entries["normal/n0.png"]}


def test_fault_05_pipes_and_sockets_in_a_folder(spread, entries, monkeypatch):
    folder = spread(entries)
    os.mkfifo(folder / "normal/pipe.png")
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("normal/s.png")
    assert refuse_folder(folder).startswith("source: the folder contains 2 pipes")


def test_fault_09_control_characters_in_a_folder(spread, entries):
    name = "normal/a\x1b[2Jb.png"
    with open_source(spread({**entries, name: b"x"})) as source:
        with pytest.raises(ImageError) as caught:
            source.read(next(entry for entry in source.entries if entry.name == name))
        assert caught.value.reason == "control_characters_in_name"


def test_fault_14_a_deep_folder(spread, entries):
    deep = "normal/" + "d/" * 15 + "x.png"
    assert refuse_folder(spread({**entries, deep: b"x", deep[:-5] + "e/" * 40 + "y.png": b"y"})).startswith(
        "source: the folder contains 2 files or folders below more than 15 others"
    )


def test_fault_22_a_folder_has_limits_too(spread, entries):
    folder = spread(entries)
    assert "more than 10 files" in refuse_folder(folder, SourceLimits(max_entries=10))
    assert "more than 99 bytes" in refuse_folder(folder, SourceLimits(max_bytes=99))


def test_a_file_that_grows_while_a_folder_is_read_is_quarantined(spread, entries):
    folder = spread(entries)
    with open_source(folder) as source:
        (folder / "normal/n0.png").write_bytes(b"another")
        with pytest.raises(ImageError, match="has changed"):
            source.read(source.entries[0])
