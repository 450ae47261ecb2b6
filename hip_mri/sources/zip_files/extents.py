"""Where the entries of a zip file lie, held against what its directory says of them."""

import struct
from typing import Final

import numpy as np

from hip_mri.sources.zip_files.end_record import DirectoryPlace, OpenFile
from hip_mri.sources.zip_files.faults import ZipFaults
from hip_mri.sources.zip_files.records import ENCRYPTED, SIZES_FOLLOW, UNKNOWN, UTF8, Directory, read_zip64, split_extra

_FLAGS_THAT_MATTER: Final = ENCRYPTED | SIZES_FOLLOW | UTF8

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_SIZES_AFTER_DATA: Final = (12, 16, 20, 24)
"""Lengths of the sizes behind the data: of 4 or 8 bytes each, with a signature or without."""

_USUAL_EXTRA_BYTES: Final = 64
"""Read along with a local header, so that it is mostly read in one go."""


def check_extents(file: OpenFile, place: DirectoryPlace, directory: Directory, faults: ZipFaults) -> None:
    """Hold each local header against the directory, and see that the entries fill the file without gap or overlap."""
    order = np.argsort(np.array(directory.starts), kind="stable").tolist()
    expected, may_follow, is_known = 0, False, True
    for position in order:
        start = directory.starts[position]
        gap = start - expected
        if gap < 0:
            faults.add("overlapping", position + 1)
        elif gap and is_known and not (may_follow and gap in _SIZES_AFTER_DATA):
            faults.add("gap", position + 1)
        data_start = _check_local(file, directory, position, place.offset)
        is_known = data_start is not None
        if data_start is None:
            faults.add("headers_differ", position + 1)
            continue
        directory.starts[position] = data_start
        expected = max(expected, data_start + directory.packed_sizes[position])
        may_follow = bool(directory.flags[position] & SIZES_FOLLOW)
    gap = place.offset - expected
    if gap < 0:
        faults.add("overlapping", order[-1] + 1)
    elif gap and is_known and not (may_follow and gap in _SIZES_AFTER_DATA):
        faults.add("gap", len(order) + 1)


def _check_local(file: OpenFile, directory: Directory, position: int, end: int) -> int | None:
    """Where the data of an entry begin; `None` where its local header tells something else than the directory."""
    start = directory.starts[position]
    if start + _LOCAL.size > end:
        return None
    likely = _LOCAL.size + len(directory.names[position]) + _USUAL_EXTRA_BYTES
    content = file.read(start, min(likely, end - start))
    if len(content) < _LOCAL.size or not content.startswith(b"PK\3\4"):
        return None
    _, _, flags, method, _, _, checksum, packed, size, name_length, extra_length = _LOCAL.unpack_from(content)
    data_start = start + _LOCAL.size + name_length + extra_length
    if data_start > end:
        return None
    if len(content) < data_start - start:
        content = file.read(start, data_start - start)
    extra_at = _LOCAL.size + name_length
    try:
        fields = split_extra(content[extra_at : extra_at + extra_length])
        size, packed = read_zip64(fields.get(1, b""), size, packed)
    except (ValueError, struct.error):
        return None
    told = (checksum, packed, size)
    known = (directory.checksums[position], directory.packed_sizes[position], directory.sizes[position])
    follow = bool(flags & SIZES_FOLLOW)
    agrees = told == known or (follow and all(a in (b, 0, UNKNOWN) for a, b in zip(told, known, strict=True)))
    agrees &= hash(content[_LOCAL.size : extra_at]) == directory.raw_names[position]
    agrees &= method == directory.methods[position]
    agrees &= not (flags ^ directory.flags[position]) & _FLAGS_THAT_MATTER
    return data_start if agrees else None
