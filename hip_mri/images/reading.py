"""Decodes image files of all supported formats to gray levels.

The first bytes of a file determine its format, not its name. Only gray levels are returned, so that nothing else of a
file can be stored. Unusable files are quarantined with one of these reasons:

    reason                       what was found
    ---------------------------  ---------------------------------------------------------------------------------
    empty_file                   no bytes
    not_an_image                 none of the supported formats by its first bytes
    git_lfs_pointer              the pointer of a file that Git LFS has not downloaded
    web_page                     an HTML page saved under the name of an image
    truncated                    the file ends early, or has too few data for its size
    damaged                      a header that is damaged, or parts that contradict each other
    several_pictures             an animation
    no_picture                   a DICOM file without an image, such as a DICOMDIR; the header file of a NIfTI pair
    burned_in_text               DICOM that declares text in its pixels; see `--data.accept-burned-in-text`
    secondary_capture            a DICOM secondary capture or screen save; see `--data.accept-burned-in-text`
    too_many_pixels              more than `decoding_results.MAX_NUM_PIXELS`, `MAX_NUM_STACK_PIXELS` in all slices
    too_many_slices              more slices than `--data.max-slices` allows; see `--data.slices`
    too_small                    a side shorter than `gray_levels.MIN_SIDE`
    extreme_aspect               one side more than `gray_levels.MAX_ASPECT` times as long as the other
    unsupported_transfer_syntax  DICOM with an unsupported compression method, such as video
    unsupported_color            unsupported samples or colors
    undecodable                  the decoder rejects the content
    not_finite                   pixels that are not a number or infinite
    transparent                  every pixel is fully transparent
    blank                        one gray level, or fewer than one pixel in a thousand that differs
    not_gray                     no gray levels where they are needed
    decoder_crashed              the decoder process ended, twice
    decoder_hung                 the decoder did not respond within the time limit, twice
    out_of_memory                the decoder needed more than the maximum memory for one image
    too_large                    a file that has or decompresses to more than the maximum number of bytes
    damaged_entry                the checksum or the compressed data of the zip file's entry are wrong
    nested_archive               a zip file inside the source, which is never opened
    unreadable_file              the disk fails, or the permissions do not allow reading
    contradictory_label          the image is in both class folders
    unencodable                  OpenCV cannot encode the image
"""

from dataclasses import replace
from typing import Final

from hip_mri.errors import ImageError
from hip_mri.images.decoding_results import Picture, ReadingOptions
from hip_mri.images.file_kinds import LFS_ADVICE, find_format, is_lfs_pointer
from hip_mri.images.formats import dicom, dicom_parsing, nifti, raster, tiff
from hip_mri.images.gray_levels import check_usable

DECODING_RECIPE: Final = 1
"""Version of the rules by which files become gray levels; raised with every change that alters pixels."""

SUPPORTED: Final = "PNG, JPEG, JPEG 2000, TIFF, BMP, WebP, GIF, DICOM, NIfTI"
"""Formats, for messages."""


def read_pictures(content: bytes, options: ReadingOptions = ReadingOptions()) -> list[Picture]:
    """Decode an image file of unknown origin.

    Args:
        content: Bytes of a file of one of the formats of `SUPPORTED`.
        options: Which slices of a file with several are read, and whether burned-in text is accepted.

    Returns:
        At least one picture. Unusable slices of a file with several have a `reason`.

    Raises:
        ImageError: With one of the reasons above, if no picture of the file can be used.
    """
    pictures = _decode(content, options)
    checked, errors = [], []
    for picture in pictures:
        try:
            check_usable(picture.levels)
            checked.append(picture)
        except ImageError as error:
            checked.append(replace(picture, reason=error.reason))
            errors.append(error)
    if len(errors) == len(checked):
        raise errors[0]
    return checked


def _decode(content: bytes, options: ReadingOptions) -> list[Picture]:
    if not content:
        raise ImageError("empty_file", "the file has no content")
    if is_lfs_pointer(content):
        raise ImageError("git_lfs_pointer", f"the file is a Git LFS pointer, not the image itself. {LFS_ADVICE}")
    kind = find_format(content)
    if kind == "TIFF":
        return tiff.read_tiff(content, options)
    if nifti.is_nifti(content):
        return nifti.read_nifti(content, options)
    if dicom_parsing.is_dicom(content):
        return dicom.read_dicom(content, options)
    if kind is None:
        raise ImageError("not_an_image", f"the content is none of {SUPPORTED}")
    return [Picture(raster.read_raster(content, kind))]
