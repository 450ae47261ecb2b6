"""Names and texts made to cost time: each of these took minutes and more where time grows with the square of length.

No time is measured here. Work that grows with the length takes a moment on all of them.
"""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hip_mri.config import SourceLimits
from hip_mri.errors import ArchiveError, ImageError
from hip_mri.sources.entry_names import (
    compose_accents,
    decode_name,
    escape_name,
    find_name_fault,
    find_path_fault,
    fold_name,
    show_name,
)
from hip_mri.sources.source import open_source
from hip_mri.sources.tables.patient_table import parse_patient_table
from tests.sources.zip_files.zips import Member, build_zip, images

LONG = 1_000_000


@pytest.mark.parametrize("piece", [".", " ", ". ", "a.", "a /", "./", "../"])
def test_fault_11_folding_takes_time_by_length(piece):
    folded = fold_name(piece * LONG + "x")
    assert folded == "/".join(part.rstrip(". ") for part in (piece * LONG + "x").split("/"))


@given(st.text(alphabet="aB. /ä\u0301\n", max_size=12))
def test_folding_is_what_it_was(name):
    lowered = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    assert fold_name(name) == re.sub(r"[. ]+(?=/|\Z)", "", lowered)


ENDLESS = ["a" + "\u0301" * LONG + "\u0316" * LONG, "\u0f73" * LONG, "a" + "\u0301\u0316" * LONG]
"""Accents out of order; the second one is a sign that Unicode takes apart into two, and sorts."""


@pytest.mark.parametrize("text", ENDLESS, ids=["two-runs", "taken-apart", "by-turns"])
def test_fault_11_endless_accents_are_left_as_they_are(text):
    assert compose_accents(text) == text
    assert fold_name(text) == text.casefold()


@pytest.mark.parametrize("text", ["a" + "\u0301" * 30 + "\u0316", "\u0f73" * 30, "é" * LONG, "患" * LONG])
def test_accents_of_any_language_are_composed(text):
    expected = unicodedata.normalize("NFC", text)
    assert compose_accents(text) == (text if len(text) == 32 else expected)


@pytest.mark.parametrize("text", ENDLESS, ids=["two-runs", "taken-apart", "by-turns"])
def test_fault_22_a_table_of_patients_with_endless_accents_is_read(text):
    fields = [text[at : at + 60_000] for at in range(0, 600_000, 60_000)]
    table = "source_name,patient_id\n" + "".join(f"{number}{field},A\u0308\n" for number, field in enumerate(fields))
    rows = parse_patient_table(table.encode(), "the table").rows
    assert rows["source_name"].tolist() == [f"{number}{field}" for number, field in enumerate(fields)]
    assert set(rows["patient_id"]) == {"Ä"}


@pytest.mark.parametrize("raw", [b"\x83" * 60_000, b"a" * 60_000 + b"\xff", b"\xe5\x81" * 30_000, b"\x83\x65" * 30_000])
def test_fault_08_guessing_a_code_page_takes_time_by_length(raw):
    assert decode_name(raw, is_utf8=False)


@pytest.mark.parametrize("piece", ["a", "a/", "a a", "\x1b", "\\", "C:", "\u202e", "ab-", "__MACOSX", "/._"])
def test_fault_04_judging_a_path_takes_time_by_length(piece):
    name = "a" + piece * 60_000
    assert find_path_fault(name) in ("unsafe_path", "too_deep", None)
    assert find_name_fault(name) in ("name_too_long", "control_characters_in_name", None)
    assert escape_name(name).isprintable()
    assert len(show_name(name)) == 63


@pytest.mark.parametrize("text", [text[:30_000] for text in ENDLESS] + ["." * 60_000 + "x"])
def test_fault_13_such_a_name_is_set_aside(text, tmp_path):
    raw = f"normal/{text}.png".encode()[:65_000].decode(errors="ignore").encode()
    members = [Member(raw + b"%d" % number, flags=1 << 11) for number in range(20)]
    (tmp_path / "images.zip").write_bytes(build_zip(images(*members)))
    with open_source(tmp_path / "images.zip") as source:
        for entry in source.entries[2:]:
            if len(entry.name) > 100:
                with pytest.raises(ImageError, match="name"):
                    source.read(entry)


def test_fault_14_a_path_of_dots_and_slashes_is_refused(tmp_path):
    (tmp_path / "images.zip").write_bytes(build_zip(images(Member(b"./" * 32_000 + b"x"))))
    with pytest.raises(ArchiveError, match="contain a drive"), open_source(tmp_path / "images.zip", SourceLimits()):
        pass
