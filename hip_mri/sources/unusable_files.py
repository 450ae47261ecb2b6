"""Advice for the files of a source that cannot be used."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hip_mri.images.file_kinds import LFS_ADVICE

_UNPACK: Final = "These are archives (zip, tar, 7z or RAR) inside the source: unpack them, and give the folder."
_COPY_AGAIN: Final = "These files are damaged or incomplete: copy or export them again."
_EXPORT: Final = "Export them as single pictures in PNG, JPEG, TIFF or DICOM."

_REMEDIES: Final = {
    "nested_archive": _UNPACK,
    "git_lfs_pointer": f"These files are Git LFS pointers, not the images themselves. {LFS_ADVICE}",
    "web_page": "These files are web pages, such as a login, saved as images: download the images themselves.",
    "not_an_image": "The content of these files is no supported image format. "
    "Give images in PNG, JPEG, JPEG 2000, TIFF, BMP, WebP, GIF, DICOM or NIfTI.",
    "empty_file": "These files are empty: copy or export them again.",
    "truncated": _COPY_AGAIN,
    "damaged": _COPY_AGAIN,
    "damaged_entry": "Their checksums in the zip file are wrong: download it again, or pack the folders again.",
    "unreadable_file": "These files cannot be read: check their permissions, and that no other program changes them.",
    "unsupported_transfer_syntax": "Convert the DICOM files to an uncompressed form (`gdcmconv --raw IN OUT` or "
    "`dcmdjpeg IN OUT`).",
    "unsupported_color": _EXPORT,
    "several_pictures": _EXPORT,
    "undecodable": _EXPORT,
    "burned_in_text": "Burned-in text can identify patients, and is not removed: export the files without annotations, "
    "or accept them with --data.accept-burned-in-text true.",
    "secondary_capture": "Secondary captures and screen saves often contain text that can identify patients: give the "
    "original images, or accept them with --data.accept-burned-in-text true.",
    "too_many_slices": "Select fewer slices with --data.slices middle or every:N, or allow more with "
    "--data.max-slices.",
    "no_picture": "These files contain no image, such as DICOM reports: give those with images.",
    "too_large": "Export them smaller.",
    "too_small": "These images are icons or thumbnails: give the original images.",
    "blank": "These images have one gray level: check whether their content was lost by the export.",
    "contradictory_label": "Each of these images is in both classes: keep it in one of them.",
    "unlike_training": "These images were rejected because they differ from the training images; "
    "--retrain.accept-drift true accepts them.",
    "excluded": "The table of corrections excludes these images.",
    "decoder_crashed": _EXPORT,
    "decoder_hung": _EXPORT,
}
"""Advice for each reason code; others have none, or one that depends on the file."""


def count_reasons(reasons: Iterable[str]) -> dict[str, int]:
    """Number of files by reason code, most frequent first; files without a reason are not counted."""
    return dict(Counter(reason for reason in reasons if reason).most_common())


def show_reasons(counts: dict[str, int]) -> str:
    """Reason codes with their numbers, for a message."""
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())


def explain_unusable(counts: dict[str, int], quarantine_file: Path) -> str:
    """Return advice for the most frequent reason, and the file that lists all unusable files.

    Args:
        counts: Number of files by reason code, the most frequent first.
        quarantine_file: The list of all unusable files.

    Returns:
        One or two sentences.
    """
    most_frequent = next(iter(counts), "")
    which = f"Most are {most_frequent}: " if len(counts) > 1 else ""
    remedy = f"{which}{_REMEDIES[most_frequent]} " if most_frequent in _REMEDIES else ""
    return f"{remedy}{quarantine_file} lists all of these files with their reasons."
