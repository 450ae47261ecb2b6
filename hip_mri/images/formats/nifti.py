"""Reads the slices of NIfTI volumes with nibabel.

Source: NIfTI-1.1 and NIfTI-2 headers, https://nifti.nimh.nih.gov
"""

import gzip
import io
import zlib
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from hip_mri.errors import ImageError
from hip_mri.images.decoding_results import (
    Picture,
    ReadingOptions,
    check_stack_size,
    explain_decoder_errors,
    select_slices,
)
from hip_mri.images.file_kinds import decompress_start, is_gzip
from hip_mri.images.gray_levels import convert_stack

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

MAX_INFLATED_BYTES: Final = 2**30
"""Largest volume that is decompressed, in bytes."""

_COLORS: Final = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
_COLORS_AND_ALPHA: Final = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])


def is_nifti(content: bytes) -> bool:
    """Whether bytes begin like a NIfTI file, compressed by gzip or not."""
    return _find_version(decompress_start(content)) is not None


def _find_version(head: bytes) -> int | None:
    if head[344:347] in (b"n+1", b"ni1"):
        return 1
    return 2 if head[4:7] in (b"n+2", b"ni2") else None


def read_nifti(content: bytes, options: ReadingOptions) -> list[Picture]:
    """Read the slices of a volume.

    Slices are perpendicular to the slice axis of the header, else to the axis with the largest distance between voxels,
    else to the third axis; later axes (time, diffusion direction) are concatenated. Rows and columns are oriented as in
    radiology. Values are scaled to gray levels by one range for the whole file: that of the header (`cal_min`,
    `cal_max`), else `gray_levels.find_range` of the selected slices.

    Args:
        content: Bytes of a `.nii` or `.nii.gz` file.
        options: Which slices are read.

    Returns:
        One picture per slice.

    Raises:
        ImageError: The file is damaged, too large, or of a kind that is not supported.
    """
    import nibabel  # noqa: PLC0415 - a third of a second

    is_first_version = _find_version(decompress_start(content)) == 1
    image_class = nibabel.Nifti1Image if is_first_version else nibabel.Nifti2Image
    content = _decompress(content) if is_gzip(content) else content
    if content[344:347] == b"ni1" or content[4:7] == b"ni2":
        raise ImageError(
            "no_picture", "the file is the header of a NIfTI pair (.hdr and .img); convert the pair to one .nii file"
        )
    with explain_decoder_errors("the NIfTI file"):
        header = image_class.header_class.from_fileobj(io.BytesIO(content))
        _check_header(header, content)
        image = image_class.from_bytes(content)
        axis = _find_slice_axis(image)
        shape = (*image.shape, 1, 1, 1)[: max(len(image.shape), 3)]
        num_slices = shape[axis] * int(np.prod(shape[3:]))
        selected = select_slices(num_slices, options)
        height, width = (shape[other] for other in range(3) if other != axis)
        check_stack_size(width, height, len(selected))
        slices = _cut(image, shape, axis, selected)
    distance = float(image.header.get_zooms()[axis]) if axis < len(image.shape) else 0.0
    return [
        Picture(levels, slice=number, num_slices=num_slices, position=number % shape[axis] * distance)
        for number, levels in zip(selected, _show(slices, image), strict=True)
    ]


def _decompress(content: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            inflated = stream.read(MAX_INFLATED_BYTES + 1)
    except EOFError as error:
        raise ImageError("truncated", "the compressed NIfTI file is truncated") from error
    except (OSError, zlib.error) as error:
        raise ImageError("damaged", "the compressed NIfTI file is damaged") from error
    if len(inflated) > MAX_INFLATED_BYTES:
        raise ImageError("too_large", f"the NIfTI file decompresses to more than {MAX_INFLATED_BYTES:,} bytes")
    return inflated


def _check_header(header: "object", content: bytes) -> None:
    shape, dtype = header.get_data_shape(), header.get_data_dtype()  # type: ignore[attr-defined]
    if not shape or min(shape) < 1:
        raise ImageError("damaged", "the NIfTI file contains a volume without voxels")
    if dtype not in (_COLORS, _COLORS_AND_ALPHA) and dtype.kind not in "iuf":
        raise ImageError("unsupported_color", f"voxels of the NIfTI type {dtype} are not supported")
    num_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(content) < header.get_data_offset() + num_bytes:  # type: ignore[attr-defined]
        raise ImageError("truncated", "the NIfTI file has fewer voxels than its header says")


def _find_slice_axis(image: "Nifti1Image") -> int:
    named = image.header.get_dim_info()[2]
    if named is not None:
        return int(named)
    distances = [round(float(zoom), 3) for zoom in image.header.get_zooms()[:3]]
    distances += [0.0] * (3 - len(distances))
    largest = max(distances)
    return 2 if distances[2] == largest or len(image.shape) < 3 else distances.index(largest)


def _cut(image: "Nifti1Image", shape: tuple[int, ...], axis: int, selected: range) -> list[NDArray]:
    """Values of slices in radiological orientation: rows from above or the front, columns from the patient's right."""
    from nibabel.orientations import io_orientation  # noqa: PLC0415 - see above

    volume = np.asanyarray(image.dataobj).reshape(shape)
    axes = io_orientation(image.affine)  # axis of the patient and direction of each axis of the file
    volumes = volume.reshape(*shape[:3], -1)
    slices = []
    for number in selected:
        plane = np.take(volumes[..., number // shape[axis]], number % shape[axis], axis=axis)
        first, second = (other for other in range(3) if other != axis)
        if not np.isnan(axes[[first, second]]).any():
            plane = plane[:: -1 if axes[first, 1] > 0 else 1, :: -1 if axes[second, 1] > 0 else 1]
            if axes[first, 0] < axes[second, 0]:  # rows follow the later axis: back to front, feet to head
                plane = plane.T
        slices.append(np.ascontiguousarray(plane))
    return slices


def _show(slices: list[NDArray], image: "Nifti1Image") -> list[NDArray[np.uint8]]:
    if slices[0].dtype.names:
        return convert_stack([np.dstack([plane[name] for name in "BGR"]) for plane in slices])
    low, high = float(image.header["cal_min"]), float(image.header["cal_max"])
    if np.isfinite([low, high]).all() and low < high:
        if any(not np.isfinite(plane).all() for plane in slices):
            raise ImageError("not_finite", "some voxels are not a number or infinite")
        return [np.rint(np.clip((plane - low) / (high - low), 0, 1) * 255).astype(np.uint8) for plane in slices]
    return convert_stack(slices)
