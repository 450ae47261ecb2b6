"""DICOM as scanners, archives and anonymizers write it: compressed, of several frames, and not quite to the letter."""

from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless

from hip_mri.errors import ImageError
from hip_mri.images.decoding_results import ReadingOptions
from hip_mri.images.formats import dicom_parsing
from hip_mri.images.reading import read_pictures
from hip_mri.images.stored_png import hash_pixels
from tests.images.dicom_files import (
    compress_frames,
    compress_lossily,
    compress_losslessly,
    describe,
    write_dataset,
    write_deflated,
    write_dicom,
    write_enhanced,
    write_rle,
)
from tests.images.image_files import decode_gray, draw_noise, encode_image, hash_picture

TWELVE: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
VALUES = draw_noise(1, 32, 24).astype(np.uint16) * 16 + 5


def find_reason(content: bytes, options: ReadingOptions = ReadingOptions()) -> str:
    with pytest.raises(ImageError) as caught:
        read_pictures(content, options)
    assert str(caught.value)
    return caught.value.reason


# Compressed


@pytest.mark.parametrize("name", compress_losslessly(VALUES))
def test_lossless_forms_of_one_picture_are_one_image(name):
    assert hash_picture(compress_losslessly(VALUES)[name]) == hash_picture(write_dicom(VALUES, **TWELVE))


@pytest.mark.parametrize("name", compress_lossily(VALUES))
def test_lossy_forms_look_alike(name):
    plain = decode_gray(write_dicom(VALUES, **TWELVE)).astype(float)
    found = decode_gray(compress_lossily(VALUES)[name]).astype(float)
    assert np.corrcoef(plain.ravel(), found.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("name", [*compress_losslessly(VALUES), *compress_lossily(VALUES)])
def test_every_early_end_of_a_compressed_file_is_refused(name):
    content = (compress_losslessly(VALUES) | compress_lossily(VALUES))[name]
    for length in range(0, len(content) - 20, 13):
        assert find_reason(content[:length])


def test_a_deflated_bomb_is_rejected(monkeypatch):
    monkeypatch.setattr(dicom_parsing, "MAX_INFLATED_BYTES", 2**22)
    bomb = write_deflated(np.zeros((32, 24), np.uint16), PixelData=bytes(2**22))
    assert len(bomb) < 2**16
    assert find_reason(bomb) == "too_large"


def test_compressed_colors_become_luma():
    import imagecodecs

    color = np.dstack([draw_noise(seed, 32, 24) for seed in (1, 2, 3)])
    content = compress_frames(
        [imagecodecs.jpeg8_encode(color, level=98, subsampling="444")],
        color,
        "1.2.840.10008.1.2.4.50",
        PhotometricInterpretation="YBR_FULL",
    )
    luma = color @ [0.299, 0.587, 0.114]
    assert np.abs(decode_gray(content) - luma).mean() < 4


# Not quite to the letter


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big endian"])
def test_without_preamble_and_file_meta_information(syntax):
    content = write_dicom(VALUES, syntax, **TWELVE)
    first_tag = b"\0\x08\0\x16" if syntax == "big endian" else b"\x08\0\x16\0"  # SOPClassUID
    assert hash_picture(content[content.index(first_tag, 144) :]) == hash_picture(content)


def test_without_preamble():
    content = write_dicom(VALUES, **TWELVE)
    assert hash_picture(content[128:]) == hash_picture(content)  # begins with DICM
    assert hash_picture(content[132:]) == hash_picture(content)  # begins with group 2


@pytest.mark.parametrize("num_bytes", [1, 2, 7, 512])
def test_padding_behind_the_pixels_is_dropped(num_bytes):
    content = write_dicom(VALUES, PixelData=VALUES.tobytes() + bytes(num_bytes + num_bytes % 2), **TWELVE)
    assert hash_picture(content) == hash_picture(write_dicom(VALUES, **TWELVE))


@pytest.mark.parametrize(
    "missing", ["PhotometricInterpretation", "PixelRepresentation", "SamplesPerPixel", "HighBit", "BitsStored"]
)
def test_elements_with_one_sensible_default_may_be_missing(missing):
    assert hash_picture(write_dicom(VALUES, **{missing: None})) == hash_picture(write_dicom(VALUES))


@pytest.mark.parametrize("missing", ["Rows", "Columns", "BitsAllocated"])
def test_an_element_without_a_default_is_named(missing):
    with pytest.raises(ImageError, match=missing):
        decode_gray(write_dicom(VALUES, **{missing: None}))


@pytest.mark.parametrize(("center", "width"), [(600, 0), (600, -5), ("", 400)])
def test_a_window_without_a_usable_width_is_left_out(center, width):
    content = write_dicom(VALUES, WindowCenter=1, WindowWidth=1)
    dataset = dcmread_bytes(content)
    dataset.WindowCenter, dataset.WindowWidth = center, width
    assert hash_picture(write_again(dataset)) == hash_picture(write_dicom(VALUES))


def dcmread_bytes(content: bytes):
    import io

    return dcmread(io.BytesIO(content))


def write_again(dataset) -> bytes:
    return write_dataset(dataset, dataset.file_meta.TransferSyntaxUID)


def test_a_decimal_comma_is_a_decimal_point():
    content = write_dicom(VALUES, WindowCenter="600.5", WindowWidth="900.5")
    assert hash_picture(content.replace(b"600.5", b"600,5").replace(b"900.5", b"900,5")) == hash_picture(content)


def test_a_window_narrower_than_one_unit_shows_physical_values():
    """As of maps of diffusion coefficients, in mm²/s."""
    content = write_dicom(
        VALUES, RescaleSlope="0.001", RescaleIntercept="0", WindowCenter="2.0", WindowWidth="0.8", **TWELVE
    )
    exact = np.clip((VALUES * 0.001 - 2.0) / 0.8 + 0.5, 0, 1) * 255
    assert np.abs(decode_gray(content) - exact).max() <= 0.51


@pytest.mark.parametrize("write", [write_dicom, write_rle])
@pytest.mark.parametrize("depth", [np.uint16, np.int16])
def test_left_justified_values_are_shifted_down(write, depth):
    right = VALUES.astype(depth) - depth(2000 if depth == np.int16 else 0)
    content = write(right << 4, BitsStored=12, HighBit=15)
    assert hash_picture(content) == hash_picture(write(right, **TWELVE))


def test_other_bits_below_left_justified_values_are_dropped():
    overlay = (VALUES << 4) | 0b0101
    assert hash_picture(write_dicom(overlay, BitsStored=12, HighBit=15)) == hash_picture(write_dicom(VALUES, **TWELVE))


def test_a_high_bit_that_contradicts_the_values_is_ignored():
    """Right-justified all the same: nothing lies in the upper bits."""
    assert hash_picture(write_dicom(VALUES, BitsStored=12, HighBit=15)) == hash_picture(write_dicom(VALUES, **TWELVE))


@pytest.mark.parametrize(("element", "depth"), [("FloatPixelData", np.float32), ("DoubleFloatPixelData", np.float64)])
def test_floating_point_pixels_are_read(element, depth):
    values = VALUES.astype(depth) / 1000
    dataset = describe(values, BitsStored=None, HighBit=None, PixelRepresentation=None)
    setattr(dataset, element, values.tobytes())
    found = decode_gray(write_dataset(dataset, "1.2.840.10008.1.2.1"))
    assert np.abs(found.astype(int) - decode_gray(write_dicom(VALUES))).max() <= 1
    values[3, 3] = np.nan
    setattr(dataset, element, values.tobytes())
    assert find_reason(write_dataset(dataset, "1.2.840.10008.1.2.1")) == "not_finite"


def test_a_palette_is_looked_up():
    levels = draw_noise(1, 32, 24)
    table = np.arange(65535, -1, -257).astype(np.uint16)
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for color in ("Red", "Green", "Blue"):
        tags[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{color}PaletteColorLookupTableData"] = table.tobytes()
    dataset = describe(levels, PixelData=levels.tobytes(), **tags)
    dataset["PixelData"].VR = "OB"
    found = decode_gray(write_dataset(dataset, "1.2.840.10008.1.2.1"))
    assert np.abs(found.astype(int) - (255 - levels.astype(int))).max() <= 1


# Several frames

WINDOWS = [(600, 300), (1200, 900), (2000, 1500)]


def make_frames(num_frames: int) -> list[np.ndarray]:
    return [draw_noise(seed, 32, 24).astype(np.uint16) * 16 for seed in range(num_frames)]


def test_frames_have_windows_of_their_own():
    groups = [{"FrameVOILUTSequence": {"WindowCenter": center, "WindowWidth": width}} for center, width in WINDOWS]
    pictures = read_pictures(write_enhanced(make_frames(3), groups, **TWELVE))
    assert [(it.slice, it.num_slices) for it in pictures] == [(0, 3), (1, 3), (2, 3)]
    for picture, values, (center, width) in zip(pictures, make_frames(3), WINDOWS, strict=True):
        expected = decode_gray(write_dicom(values, WindowCenter=center, WindowWidth=width, **TWELVE))
        np.testing.assert_array_equal(picture.levels, expected)


def test_frames_have_scales_and_positions_of_their_own():
    plane = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}  # sagittal
    groups = [
        {
            "PixelValueTransformationSequence": {"RescaleSlope": number + 1, "RescaleIntercept": 0},
            "FrameVOILUTSequence": {"WindowCenter": 2000, "WindowWidth": 4000},
            "PlaneOrientationSequence": plane,
            "PlanePositionSequence": {"ImagePositionPatient": [number * 3.5, 10, 20]},
        }
        for number in range(3)
    ]
    pictures = read_pictures(write_enhanced([VALUES] * 3, groups, **TWELVE))
    assert pictures[0].levels.mean() < pictures[1].levels.mean() < pictures[2].levels.mean()
    assert np.abs(np.diff([it.position for it in pictures])) == pytest.approx(3.5)


def test_frames_without_a_window_share_a_range():
    dark, bright = VALUES // 8, VALUES
    first, second = read_pictures(write_enhanced([dark, bright], [{}, {}], **TWELVE))
    assert first.levels.max() < 64 < second.levels.max() == 255


def test_a_shared_window_counts_for_all_frames():
    content = write_enhanced(make_frames(2), [{}, {}], **TWELVE)
    dataset = dcmread_bytes(content)
    shared = dcmread_bytes(
        write_enhanced(make_frames(1), [{"FrameVOILUTSequence": {"WindowCenter": 900, "WindowWidth": 500}}], **TWELVE)
    )
    dataset.SharedFunctionalGroupsSequence = Sequence([shared.PerFrameFunctionalGroupsSequence[0]])
    for picture, values in zip(read_pictures(write_again(dataset)), make_frames(2), strict=True):
        expected = decode_gray(write_dicom(values, WindowCenter=900, WindowWidth=500, **TWELVE))
        np.testing.assert_array_equal(picture.levels, expected)


def test_compressed_frames_are_taken_apart():
    import imagecodecs

    frames = [imagecodecs.jpegls_encode(values) for values in make_frames(4)]
    content = compress_frames(frames, make_frames(1)[0], "1.2.840.10008.1.2.4.80", **TWELVE)
    plain = write_enhanced(make_frames(4), [{}] * 4, **TWELVE)
    hashes = [[hash_pixels(it.levels) for it in read_pictures(file)] for file in (content, plain)]
    assert hashes[0] == hashes[1]
    assert [it.slice for it in read_pictures(content, ReadingOptions(slices="every:2"))] == [0, 2]


def test_run_length_frames_are_taken_apart():
    dataset = describe(VALUES, NumberOfFrames=3, PixelData=np.stack(make_frames(3)).tobytes(), **TWELVE)
    dataset["PixelData"].VR = "OW"
    plain = write_dataset(dataset, "1.2.840.10008.1.2.1")
    compressed = dcmread_bytes(plain)
    compressed.compress(RLELossless, generate_instance_uid=False)
    assert [hash_pixels(it.levels) for it in read_pictures(write_dataset(compressed, RLELossless))] == [
        hash_pixels(it.levels) for it in read_pictures(plain)
    ]


def test_what_the_file_says_of_its_origin_and_order_comes_with_every_frame():
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.9"}
    numbers = {"SeriesNumber": "4", "InstanceNumber": "17"}
    content = write_enhanced(make_frames(3), [{}] * 3, PatientID="4711", **uids, **numbers, **TWELVE)
    facts = {(it.patient, it.study, it.series, it.series_number, it.instance_number) for it in read_pictures(content)}
    assert facts == {("4711", "1.2.3", "1.2.3.9", 4, 17)}


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"AcquisitionDateTime": "20240229101530.25+0100"}, "2024-02-29T10:15:30.25"),
        ({"AcquisitionDate": "20240229", "AcquisitionTime": "1015", "ContentTime": "11"}, "2024-02-29T10:15"),
        ({"ContentDate": "2024.02.29", "ContentTime": "10:15:30.5"}, "2024-02-29T10:15:30.5"),
        ({"SeriesDate": "20240229", "SeriesTime": "10", "AcquisitionTime": "11"}, "2024-02-29T10"),
        ({"AcquisitionDate": "", "AcquisitionTime": "", "StudyDate": "20240229", "StudyTime": "00"}, "2024-02-29T00"),
        ({"AcquisitionDate": "19000101", "AcquisitionTime": "101530"}, None),
        ({"AcquisitionTime": "101530"}, None),
        ({"AcquisitionDate": "20240229"}, None),
        ({"AcquisitionDate": "20249999", "AcquisitionTime": "xx", "InstanceNumber": ""}, None),
    ],
)
def test_the_time_of_acquisition_needs_a_date_and_a_time(tags, expected):
    (picture,) = read_pictures(write_dicom(VALUES, **tags))
    time = None if expected is None else np.datetime64(expected, "us").astype(int) / 1e6
    assert (picture.acquired, picture.series_number, picture.instance_number) == (time, None, None)


# Text in the pixels

CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned_in_text"),
        ({"SOPClassUID": CAPTURE}, "secondary_capture"),
        ({"SOPClassUID": f"{CAPTURE}.2"}, "secondary_capture"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "secondary_capture"),
        ({"ImageType": ["DERIVED", "SECONDARY", "OTHER", "SCREEN_SAVE"]}, "secondary_capture"),
    ],
)
def test_pictures_that_can_name_patients_are_set_aside_unless_they_are_wanted(tags, reason):
    content = write_dicom(VALUES, **tags)
    assert find_reason(content) == reason
    (picture,) = read_pictures(content, ReadingOptions(accept_burned_in_text=True))
    assert hash_pixels(picture.levels) == hash_picture(write_dicom(VALUES))


@pytest.mark.parametrize(
    "tags",
    [{"BurnedInAnnotation": "NO"}, {"BurnedInAnnotation": ""}, {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED"]}],
)
def test_pictures_without_text_are_used(tags):
    assert hash_picture(write_dicom(VALUES, **tags)) == hash_picture(write_dicom(VALUES))


def test_a_segmentation_is_no_picture():
    assert find_reason(write_dicom(VALUES, SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")) == "no_picture"


def test_one_picture_has_one_id_across_formats():
    """A 12-bit picture as DICOM, PNG, TIFF and JPEG 2000."""
    files = [write_dicom(VALUES, **TWELVE), *(encode_image(VALUES, kind) for kind in ("PNG", "TIFF", "JPEG2000"))]
    assert len({hash_picture(content) for content in files}) == 1
