"""NIfTI volumes: slices, their order and orientation, their range, and what is refused."""

import gzip
import io

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from hip_mri.errors import ImageError
from hip_mri.images.decoding_results import ReadingOptions
from hip_mri.images.formats import nifti
from hip_mri.images.reading import read_pictures
from tests.images.image_files import draw_noise

SPACING = (0.8, 0.8, 4.0)


def draw_volume(num_slices: int = 5, depth: type = np.int16) -> NDArray:
    """Shape (24, 20, num_slices), each slice another picture."""
    return np.stack([draw_noise(seed, 24, 20) for seed in range(num_slices)], axis=-1).astype(depth)


def write_nifti(
    volume: NDArray, affine: NDArray | None = None, *, is_packed: bool = False, version: int = 1, **fields: float
) -> bytes:
    image_class = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    image = image_class(volume, np.diag([*SPACING, 1.0]) if affine is None else affine)
    for name, value in fields.items():
        image.header[name] = value
    stream = io.BytesIO()
    image.to_stream(stream)
    return gzip.compress(stream.getvalue()) if is_packed else stream.getvalue()


def find_reason(content: bytes, options: ReadingOptions = ReadingOptions()) -> str:
    with pytest.raises(ImageError) as caught:
        read_pictures(content, options)
    assert str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("version", [1, 2])
def test_a_volume_is_taken_apart(is_packed, version):
    pictures = read_pictures(write_nifti(draw_volume(), is_packed=is_packed, version=version))
    assert [(it.slice, it.num_slices) for it in pictures] == [(number, 5) for number in range(5)]
    assert [it.position for it in pictures] == pytest.approx([0, 4, 8, 12, 16])
    low, high = draw_volume().min(), draw_volume().max()
    for number, picture in enumerate(pictures):
        plane = draw_volume()[..., number]
        expected = (plane[::-1, ::-1].T - low) / (high - low) * 255  # right to left, anterior to posterior
        assert np.abs(picture.levels - expected).max() <= 0.51


@pytest.mark.parametrize(("slices", "expected"), [("middle", [3]), ("every:2", [0, 2, 4, 6])])
def test_some_slices_are_taken(slices, expected):
    pictures = read_pictures(write_nifti(draw_volume(7)), ReadingOptions(slices=slices))
    assert [it.slice for it in pictures] == expected


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_lie_across_the_thickest_axis(axis):
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 5.0
    volume = np.moveaxis(draw_volume(6), -1, axis)
    pictures = read_pictures(write_nifti(volume, np.diag([*spacing, 1.0])))
    assert len(pictures) == 6
    assert [it.position for it in pictures] == pytest.approx([0, 5, 10, 15, 20, 25])


def test_the_header_names_the_axis_of_the_slices():
    image = nibabel.Nifti1Image(np.moveaxis(draw_volume(6), -1, 0), np.eye(4))
    image.header.set_dim_info(freq=1, phase=2, slice=0)
    assert len(read_pictures(image.to_bytes())) == 6


@pytest.mark.parametrize("code", ["RAS", "LPS", "LAS", "PSR", "SRA", "ASL", "RPI"])
def test_the_picture_does_not_depend_on_the_order_of_axes(code):
    """The same voxels stored along other axes, in other directions: every picture looks the same."""
    image = nibabel.Nifti1Image(draw_volume(), np.diag([*SPACING, 1.0]))
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(code)
    )
    turned = image.as_reoriented(turn)
    expected = {it.levels.tobytes() for it in read_pictures(image.to_bytes())}
    assert {it.levels.tobytes() for it in read_pictures(turned.to_bytes())} == expected


def test_a_series_of_volumes_is_taken_apart_one_after_the_other():
    volumes = np.stack([draw_volume(3), draw_volume(3) + 50], axis=-1)
    pictures = read_pictures(write_nifti(volumes))
    assert [(it.slice, it.position) for it in pictures] == [(0, 0), (1, 4), (2, 8), (3, 0), (4, 4), (5, 8)]
    assert pictures[3].levels.mean() > pictures[0].levels.mean()


def test_the_range_is_that_of_the_volume_and_robust():
    volume = draw_volume(4, np.uint16)
    volume[..., 0] //= 8
    volume[0, :4, 2] = 65535
    pictures = read_pictures(write_nifti(volume))
    assert pictures[0].levels.max() < 40
    assert len(np.unique(pictures[3].levels)) > 100


def test_the_range_of_the_header_counts():
    pictures = read_pictures(write_nifti(draw_volume(), cal_min=50.0, cal_max=150.0))
    volume = draw_volume()
    assert (pictures[0].levels[volume[::-1, ::-1, 0].T >= 150] == 255).all()
    assert (pictures[0].levels[volume[::-1, ::-1, 0].T <= 50] == 0).all()


@pytest.mark.parametrize("depth", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_every_type_of_numbers_is_read(depth):
    volume = (draw_volume(2).astype(float) / 2 - (60 if np.dtype(depth).kind in "if" else 0)).astype(depth)
    assert len(read_pictures(write_nifti(volume))) == 2


def test_scaled_values_are_read():
    image = nibabel.Nifti1Image(draw_volume().astype(np.float32) / 7, np.eye(4))
    image.set_data_dtype(np.int16)  # stored with slope and intercept
    assert len(read_pictures(image.to_bytes())) == 5


def test_colors_become_luma():
    colors = np.zeros((24, 20, 2), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    for seed, name in enumerate("RGB"):
        colors[name] = np.stack([draw_noise(seed, 24, 20)] * 2, axis=-1)
    levels = read_pictures(write_nifti(colors))[0].levels
    red, green, blue = (draw_noise(seed, 24, 20) for seed in range(3))
    luma = (0.299 * red + 0.587 * green + 0.114 * blue)[::-1, ::-1].T
    assert np.abs(levels - luma).max() <= 1


def test_a_single_slice_is_read():
    (picture,) = read_pictures(write_nifti(draw_noise(1, 24, 20).astype(np.int16)))
    assert picture.num_slices == 1


def test_blank_slices_are_named_and_the_others_used():
    volume = draw_volume()
    volume[..., 0] = 0
    assert [it.reason for it in read_pictures(write_nifti(volume))] == ["blank", "", "", "", ""]


@pytest.mark.parametrize("is_packed", [False, True])
def test_every_early_end_is_refused(is_packed):
    content = write_nifti(draw_volume(), is_packed=is_packed)
    for length in range(0, len(content), 37):
        assert find_reason(content[:length])


def test_broken_volumes_are_refused():
    volume = draw_volume(depth=np.float32)
    volume[3, 3, 3] = np.nan
    assert find_reason(write_nifti(volume)) == "not_finite"
    assert find_reason(write_nifti(draw_volume().astype(np.complex64))) == "unsupported_color"
    assert find_reason(write_nifti(draw_volume(9)), ReadingOptions(max_slices=8)) == "too_many_slices"
    pair = bytearray(write_nifti(draw_volume()))
    pair[344:348] = b"ni1\0"
    assert find_reason(bytes(pair)) == "no_picture"
    assert find_reason(gzip.compress(b"not a volume" * 100)) == "not_an_image"


def test_a_decompression_bomb_is_rejected(monkeypatch):
    """More zeros than the limit, and a header with 10^13 voxels."""
    monkeypatch.setattr(nifti, "MAX_INFLATED_BYTES", 2**22)
    header = write_nifti(draw_volume())[:352]
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1) as packed:
        packed.write(header)
        packed.write(bytes(2**22))
    assert find_reason(stream.getvalue()) == "too_large"
    promise = bytearray(write_nifti(draw_volume()))
    promise[40:48] = np.array([3, 30_000, 30_000, 10_000], "<i2").tobytes()
    assert find_reason(bytes(promise)) == "truncated"


def test_flipped_bits_never_stop_a_batch():
    content = write_nifti(draw_volume(2))
    for bit in range(0, 8 * 352, 5):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        try:
            assert all(it.levels.ndim == 2 for it in read_pictures(bytes(damaged)))
        except ImageError:
            continue
