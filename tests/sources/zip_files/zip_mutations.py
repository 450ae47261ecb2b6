"""Damage for zip files, and what must hold of every file however damaged."""

import contextlib
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hip_mri.config import SourceLimits
from hip_mri.errors import ArchiveError, HipMriError, ImageError, LimitError
from hip_mri.sources.source import open_source, open_unlabeled
from hip_mri.sources.tables.delivered_table import read_patients_table
from hip_mri.sources.zip_files.archive import open_archive
from tests.sources.zip_files.zips import DEFLATED, UNKNOWN, Member, build_zip, build_zip64_end, images

Kind = Literal["flip", "16 bits", "32 bits", "64 bits", "cut", "remove", "repeat", "insert"]
KINDS: tuple[Kind, ...] = ("flip", "16 bits", "32 bits", "64 bits", "cut", "remove", "repeat", "insert")
TELLING = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
"""Numbers at which programs go wrong."""

LIMITS = SourceLimits(max_entries=1000, max_bytes=10_000_000)


@dataclass(frozen=True)
class Mutation:
    """One change to a file.

    Attributes:
        kind: Which.
        place: Where, as a share of the file's length, so that it fits any file.
        value: What is written, or how many bytes it concerns.
    """

    kind: Kind
    place: float
    value: int

    def apply(self, content: bytes) -> bytes:
        at, few = int(self.place * len(content)), self.value % 64
        match self.kind:
            case "flip":
                changed = bytearray(content or b"\0")
                changed[min(at, len(changed) - 1)] ^= 1 << self.value % 8
                return bytes(changed)
            case "16 bits" | "32 bits" | "64 bits":
                width = int(self.kind.split()[0]) // 8
                return content[:at] + (self.value % 2 ** (8 * width)).to_bytes(width, "little") + content[at + width :]
            case "cut":
                return content[:at]
            case "remove":
                return content[:at] + content[at + few :]
            case "repeat":
                return content[: at + few] + content[at:]
            case "insert":
                return content[:at] + self.value.to_bytes(8, "little") + content[at:]


def build_samples() -> list[bytes]:
    """Sound zip files of every kind that is accepted."""
    picture = bytes(range(100)) * 4
    plain = images(Member(b"patients.csv", b"source_name,patient_id\n"), Member(b"normal/b.png", picture, DEFLATED))
    names = [
        Member("normal/ä.png".encode("cp437"), b"x"),
        Member("normal/患者.png".encode("cp932"), b"y"),
        Member("osseous_lesion/ü.png".encode(), b"z", flags=1 << 11),
        Member(b"normal/deep/er/", b"", mode=0),
    ]
    packed = Member(b"", picture, DEFLATED).pack()
    follow = Member(
        b"normal/c.png",
        picture,
        DEFLATED,
        flags=1 << 3,
        trailer=struct.pack("<4s3L", b"PK\7\x08", zlib.crc32(picture), len(packed), len(picture)),
        in_local={"checksum": 0, "size": 0, "packed_size": 0},
    )
    long_sizes = struct.pack("<2H2Q", 1, 16, len(picture), len(picture))
    long = Member(b"normal/d.png", picture, size=UNKNOWN, packed_size=UNKNOWN, extra=long_sizes)
    members = images(long)
    content = b"".join(member.write_local() for member in members)
    directory, offset = b"", 0
    for member in members:
        directory += member.write_central(offset)
        offset += len(member.write_local())
    zip64 = content + directory + build_zip64_end(len(content), len(directory), len(members))
    return [build_zip(plain, b"comment"), build_zip(names), build_zip(images(follow)), zip64, build_zip([])]


SAMPLES = build_samples()


def damage(sample: int, mutations: Sequence[Mutation]) -> bytes:
    """A sample after mutations, one after the other."""
    content = SAMPLES[sample]
    for mutation in mutations:
        content = mutation.apply(content)
    return content


def check(content: bytes, file: Path) -> bool:
    """Hold a file against what must hold of every file; returns whether it is accepted.

    Only errors for the user are raised, a file of any other name appears nowhere, and what is accepted reads as the
    standard library reads it: two programs agree on it.
    """
    file.write_bytes(content)
    for open_it in (open_source, open_unlabeled):
        with contextlib.suppress(HipMriError), open_it(file, LIMITS) as source:
            for entry in source.entries:
                with contextlib.suppress(ImageError):
                    source.read(entry)
    with contextlib.suppress(HipMriError):
        read_patients_table(file, LIMITS)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    return compare_with_zipfile(file)


def compare_with_zipfile(file: Path) -> bool:
    """Whether a file is accepted; if so, its entries are those that `zipfile` finds, byte for byte."""
    try:
        with open_archive(file, file.name, LIMITS, "") as archive:
            found = {}
            for name in archive.entries:
                with contextlib.suppress(ImageError):
                    found[name] = archive.read(name)
    except (ArchiveError, LimitError):
        return False
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file) as oracle:
        infos = [info for info in oracle.infolist() if not info.filename.endswith("/")]
        assert len(infos) == len(archive.entries)
        for name, info in zip(archive.entries, infos, strict=True):
            if name in found:
                assert oracle.read(info) == found[name]
    return True
