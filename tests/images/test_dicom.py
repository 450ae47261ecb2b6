import contextlib
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from hip_mri.errors import ImageError
from hip_mri.images.reading import read_pictures
from hip_mri.images.stored_png import encode_png
from tests.images.dicom_files import SYNTAXES, draw_levels, write_dataset, write_dicom, write_rle
from tests.images.image_files import decode_gray


def find_reason(content: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_gray(content)
    assert str(caught.value)
    return caught.value.reason


def stretch(values: np.ndarray) -> np.ndarray:
    values = values.astype(float)
    return (values - values.min()) / (values.max() - values.min()) * 255


# What is shown


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("depth", [np.uint16, np.int16, np.uint32])
def test_deep_values_are_stretched(syntax, depth):
    values = draw_levels(depth) - depth(100) if depth == np.int16 else draw_levels(depth)
    decoded = decode_gray(write_dicom(values, syntax))
    assert decoded.dtype == np.uint8
    assert np.abs(decoded - stretch(values)).max() <= 0.51


def test_eight_bit_levels_stay():
    values = draw_levels(np.uint8, 200)
    np.testing.assert_array_equal(decode_gray(write_dicom(values)), values)
    odd = np.vstack([values, values])[:33, :23]
    np.testing.assert_array_equal(decode_gray(write_dicom(odd)), odd)  # an odd number of bytes is padded


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_run_lengths_are_read(depth):
    values = draw_levels(depth, 200)
    np.testing.assert_array_equal(decode_gray(write_rle(values)), decode_gray(write_dicom(values)))


def test_monochrome1_is_inverted():
    values = draw_levels()
    np.testing.assert_array_equal(
        decode_gray(write_dicom(values, PhotometricInterpretation="MONOCHROME1")),
        255 - decode_gray(write_dicom(values)),
    )


def test_color_becomes_luma():
    red, green, blue = (draw_levels(np.uint8, high) for high in (250, 120, 30))
    decoded = decode_gray(write_dicom(np.dstack([red, green, blue])))
    assert np.abs(decoded - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 0.51


def test_the_first_window_is_black_to_white():
    values = draw_levels()
    decoded = decode_gray(write_dicom(values, WindowCenter=[1000, 40], WindowWidth=[500, 400]))
    # PS3.3 C.11.2.1.2.1, with its half-value offsets
    exact = np.clip(((values - (1000 - 0.5)) / (500 - 1) + 0.5) * 255, 0, 255)
    assert np.abs(decoded - exact).max() <= 0.51
    assert set(decoded[values <= 749]) == {0}
    assert set(decoded[values >= 1250]) == {255}


def test_a_window_stands_on_rescaled_values():
    values = draw_levels()
    plain = decode_gray(write_dicom(values, WindowCenter=1000, WindowWidth=500))
    scaled = decode_gray(
        write_dicom(values, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=1899.5, WindowWidth=999)
    )
    assert np.abs(plain.astype(int) - scaled).max() <= 1


@pytest.mark.parametrize(
    ("function", "form"),
    [
        ("LINEAR_EXACT", lambda values: np.clip((values - 1000) / 500 + 0.5, 0, 1)),
        ("SIGMOID", lambda values: 1 / (1 + np.exp(-4 * (values - 1000) / 500))),
    ],
)
def test_other_shapes_of_windows(function, form):
    values = draw_levels()
    decoded = decode_gray(write_dicom(values, WindowCenter=1000, WindowWidth=500, VOILUTFunction=function))
    assert np.abs(decoded - form(values.astype(float)) * 255).max() <= 0.51


def test_a_table_of_levels_is_looked_up():
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [256, 0, 16])
    table.add_new("LUTData", "US", list(range(65535, -1, -257)))
    values = draw_levels(np.uint16, 255)
    decoded = decode_gray(write_dicom(values, VOILUTSequence=Sequence([table])))
    np.testing.assert_array_equal(decoded, 255 - decode_gray(write_dicom(values)))


def test_eight_bit_levels_stay_under_a_rescale_that_changes_nothing():
    values = draw_levels(np.uint8, 200)
    np.testing.assert_array_equal(decode_gray(write_dicom(values, RescaleSlope=1, RescaleIntercept=0)), values)
    changed = decode_gray(write_dicom(values, RescaleSlope=1, RescaleIntercept=-7))
    assert np.abs(changed - stretch(values)).max() <= 0.51


def test_empty_elements_count_as_missing():
    """What stands for taken-away values in many anonymized files: an element without content."""
    values = draw_levels()
    empty: dict[str, Any] = dict.fromkeys(
        (
            *("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "VOILUTFunction", "NumberOfFrames"),
            *("PixelPaddingValue", "PixelPaddingRangeLimit", "PatientID"),
        ),
        "",
    )
    empty |= {"VOILUTSequence": Sequence(), "ModalityLUTSequence": Sequence()}
    (picture,) = read_pictures(write_dicom(values, **empty))
    np.testing.assert_array_equal(picture.levels, decode_gray(write_dicom(values)))
    assert picture.patient == ""


@pytest.mark.parametrize("name", ["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_half_of_a_pair_counts_as_none(name, syntax):
    pair = ("WindowCenter", "WindowWidth") if name.startswith("Window") else ("RescaleSlope", "RescaleIntercept")
    values = draw_levels()
    tags: dict[str, Any] = dict.fromkeys(pair, 500) | {name: ""}
    content = write_dicom(values, syntax, **tags)
    np.testing.assert_array_equal(decode_gray(content), decode_gray(write_dicom(values, syntax)))


def test_an_empty_table_does_not_hide_the_window():
    window: dict[str, Any] = {"WindowCenter": 1000, "WindowWidth": 500}
    content = write_dicom(draw_levels(), VOILUTSequence=Sequence(), **window)
    np.testing.assert_array_equal(decode_gray(content), decode_gray(write_dicom(draw_levels(), **window)))


def test_the_first_window_with_numbers_counts():
    content = write_dicom(draw_levels(), WindowCenter=["", "1000"], WindowWidth=["40", "500"])
    expected = decode_gray(write_dicom(draw_levels(), WindowCenter=1000, WindowWidth=500))
    np.testing.assert_array_equal(decode_gray(content), expected)


# Pixels that only fill the rectangle


def pad(values: np.ndarray, padding: int) -> np.ndarray:
    """The upper tenth is no picture."""
    padded = values.copy()
    padded[:3] = padding
    return padded


def pad_levels(levels: np.ndarray) -> np.ndarray:
    return np.vstack([np.zeros_like(levels[:3]), levels[3:]])


@pytest.mark.parametrize(
    ("depth", "padding"), [(np.uint16, 65535), (np.uint16, 0), (np.int16, -2000), (np.int16, 32767), (np.uint32, 65535)]
)
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_padding_is_black_and_outside_the_range(syntax, depth, padding):
    values = draw_levels(depth) + depth(5)
    decoded = decode_gray(write_dicom(pad(values, padding), syntax, PixelPaddingValue=padding))
    assert (decoded[:3] == 0).all()
    assert np.abs(decoded[3:] - stretch(values[3:])).max() <= 0.51


@pytest.mark.parametrize(
    "shown",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"RescaleSlope": 2, "RescaleIntercept": -100},
        {"RescaleSlope": -1, "RescaleIntercept": 0},
        {"WindowCenter": 1000, "WindowWidth": 500},
        {"WindowCenter": 1000, "WindowWidth": 500, "PhotometricInterpretation": "MONOCHROME1"},
    ],
)
def test_padding_is_black_however_values_are_shown(shown):
    values = draw_levels()
    bare = decode_gray(write_dicom(values[3:], **shown))
    decoded = decode_gray(write_dicom(pad(values, 65535), PixelPaddingValue=65535, **shown))
    np.testing.assert_array_equal(decoded, np.vstack([np.zeros_like(decoded[:3]), bare]))


def test_padding_under_a_table_of_levels_is_black():
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [256, 0, 16])
    table.add_new("LUTData", "US", list(range(65535, -1, -257)))
    values = draw_levels(np.uint16, 255)
    shown: dict[str, Any] = {"VOILUTSequence": Sequence([table])}
    bare = decode_gray(write_dicom(values[3:], **shown))
    decoded = decode_gray(write_dicom(pad(values, 65535), PixelPaddingValue=65535, **shown))
    np.testing.assert_array_equal(decoded, np.vstack([np.zeros_like(decoded[:3]), bare]))


def test_a_range_of_padding_counts_either_way_round():
    values = draw_levels(np.int16)
    padded = pad(values, -1024)
    padded[0], padded[1, :5] = -2000, -1500
    for limits in ((-2000, -1024), (-1024, -2000)):
        tags: dict[str, Any] = dict(zip(("PixelPaddingValue", "PixelPaddingRangeLimit"), limits, strict=True))
        decoded = decode_gray(write_dicom(padded, **tags))
        assert (decoded[:3] == 0).all()
        assert np.abs(decoded[3:] - stretch(values[3:])).max() <= 0.51


@pytest.mark.parametrize("write", [write_dicom, write_rle])
def test_padding_may_stand_outside_the_stored_bits(write):
    """The bits above the stored ones are cut off, and the padding would be a gray level."""
    values = draw_levels(np.uint16, 4095)
    decoded = decode_gray(write(pad(values, 65535), BitsStored=12, HighBit=11, PixelPaddingValue=65535))
    assert (decoded[:3] == 0).all()
    assert decoded[-1, -1] == 255, "a level of 4095 is none"


@pytest.mark.parametrize(
    ("depth", "padding", "kind", "written"),
    [(np.int16, -2000, "US", 63536), (np.uint16, 63536, "SS", -2000)],
)
def test_padding_of_the_wrong_sign_means_the_same_bits(depth, padding, kind, written):
    values = draw_levels(depth)
    content = bytearray(write_dicom(pad(values, padding), PixelPaddingValue=padding))
    place = content.index(b"\x28\0\x20\1")
    content[place + 4 : place + 6] = kind.encode()
    decoded = decode_gray(bytes(content))
    assert int.from_bytes(content[place + 8 : place + 10], "little", signed=kind == "SS") == written
    assert (decoded[:3] == 0).all()
    assert np.abs(decoded[3:] - stretch(values[3:])).max() <= 0.51


def test_padding_of_eight_bits_is_black_and_the_rest_stays():
    values = draw_levels(np.uint8, 200)
    decoded = decode_gray(write_dicom(pad(values, 255), PixelPaddingValue=255))
    np.testing.assert_array_equal(decoded, pad_levels(values))
    none = decode_gray(write_dicom(values, PixelPaddingValue=63536))
    np.testing.assert_array_equal(none, values)  # deeper than any pixel of the file: none is padding


def test_nothing_but_padding_is_blank():
    assert find_reason(write_dicom(np.full((32, 24), 65535, np.uint16), PixelPaddingValue=65535)) == "blank"


# What is kept


def test_fault_52_nothing_but_pixels_is_kept():
    values = draw_levels()
    content = write_dicom(values, PatientName="Canary^Jane", PatientID="4711", StudyDescription="canary hip")
    (picture,) = read_pictures(content)
    assert picture.patient == "4711"
    origin, order = {"patient", "study", "series"}, {"series_number", "instance_number", "acquired", "position"}
    assert vars(picture).keys() - {"levels"} == {*origin, *order, "slice", "num_slices", "reason"}
    assert decode_gray(encode_png(picture.levels)).tolist() == picture.levels.tolist()


@pytest.mark.parametrize(
    "name",
    [
        *("", "  ", "0", "0000", "XXXX", "n/a", "None", "Unknown", "REMOVED", "Patient", "test", "De-Identified"),
        *("anon", "anonym", "ANONYMOUS", "anonymized", "Anonymised", "anonymisiert", "anonymous_patient"),
    ],
)
def test_what_stands_for_a_removed_identity_is_nobody(name):
    assert read_pictures(write_dicom(draw_levels(), PatientID=name))[0].patient == ""


@pytest.mark.parametrize(
    "name", ["ANON0017", "anon_12", "anonym17", "Anonymous 3", "anon_a", "anonymized0", "patient7", "X1", "0017", "00x"]
)
def test_a_pseudonym_that_tells_patients_apart_is_kept(name):
    assert read_pictures(write_dicom(draw_levels(), PatientID=name))[0].patient == name


def test_without_a_patient_there_is_none():
    assert read_pictures(write_dicom(draw_levels()))[0].patient == ""


# What is refused

DATA = draw_levels().tobytes()


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"PixelData": DATA[:-2]}, "truncated"),
        ({"PixelData": DATA + DATA}, "damaged"),
        ({"Rows": 64}, "truncated"),
        ({"Rows": 16}, "damaged"),
        ({"Rows": 0}, "damaged"),
        ({"Rows": 65_535, "Columns": 65_535}, "too_many_pixels"),
        ({"Rows": None}, "undecodable"),
        ({"BitsAllocated": 8}, "damaged"),
        ({"BitsAllocated": 12}, "unsupported_color"),
        ({"BitsStored": 40}, "undecodable"),
        ({"SamplesPerPixel": 3}, "unsupported_color"),
        ({"PhotometricInterpretation": "YBR_FULL"}, "unsupported_color"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "undecodable"),
        ({"PhotometricInterpretation": "HSV"}, "unsupported_color"),
        ({"NumberOfFrames": 2}, "truncated"),
        ({"NumberOfFrames": -1}, "damaged"),
        ({"PixelData": None}, "no_picture"),
        ({"PixelData": b""}, "no_picture"),
        ({"RescaleSlope": 0, "RescaleIntercept": 5}, "blank"),
    ],
)
def test_fault_52_contradictions_are_refused(tags, reason):
    assert find_reason(write_dicom(draw_levels(), **tags)) == reason


@pytest.mark.parametrize(
    "preamble", [b"MZ\x90\0", b"\x7fELF", b"#!/bin/sh\n", b"II*\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]
)
def test_fault_52_any_preamble_is_read_past(preamble):
    """It is neither stored nor run; many scanners write a TIFF header there (PS3.10 7.1)."""
    expected = decode_gray(write_dicom(draw_levels()))
    np.testing.assert_array_equal(decode_gray(write_dicom(draw_levels(), preamble=preamble)), expected)


def test_fault_52_a_directory_is_refused():
    listing = Dataset()
    listing.FileSetID = "STUDIES"
    content = write_dataset(listing, SYNTAXES["explicit"], sop_class="1.2.840.10008.1.3.10")
    assert find_reason(content) == "no_picture"


@pytest.mark.parametrize(
    ("syntax", "name"),
    [("1.2.840.10008.1.2.4.102", "MPEG-4"), ("1.2.840.10008.1.2.4.110", "JPEG XL"), ("1.2.3", "1.2.3")],
)
def test_a_syntax_that_is_not_supported_is_named_with_a_way_out(syntax, name):
    with pytest.raises(ImageError, match=f"{name}.*gdcmconv") as caught:
        decode_gray(replace_syntax(write_dicom(draw_levels()), syntax))
    assert caught.value.reason == "unsupported_transfer_syntax"


def replace_syntax(content: bytes, syntax: str) -> bytes:
    """The same file with another transfer syntax in its file meta information."""
    old, new = b"1.2.840.10008.1.2.1\0", syntax.encode()
    place = content.index(old)
    new += b"\0" * (len(new) % 2)
    return content[: place - 2] + len(new).to_bytes(2, "little") + new + content[place + len(old) :]


def test_every_early_end_is_refused():
    content = write_dicom(draw_levels())
    for length in [*range(132), *range(132, len(content), 7)]:
        assert find_reason(content[:length])


def test_flipped_bits_never_stop_a_batch():
    content = write_dicom(draw_levels(), WindowCenter=1000, WindowWidth=500, PatientID="4711")
    for bit in range(128 * 8, 8 * (len(content) - len(DATA)), 3):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        with contextlib.suppress(ImageError):
            assert decode_gray(bytes(damaged)).dtype == np.uint8


def test_deep_nesting_is_refused():
    # sequences of undefined length, one in another: the header of each is 12 bytes, that of its item 8
    head = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    content = write_dicom(draw_levels())
    place = content.index(b"\x08\x00\x16\x00")
    assert find_reason(content[:place] + head * 50_000 + content[place:]) == "undecodable"
