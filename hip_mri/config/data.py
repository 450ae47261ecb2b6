"""Settings of sources, image files, splits and preprocessing."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from hip_mri.addresses import LocalPath
from hip_mri.config.base import CollectionName, Settings
from hip_mri.config.classes import Label, check_class_names


def _check_pattern(pattern: str) -> str:
    try:
        has_group = re.compile(pattern).groups > 0
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression ({error})") from error
    if not has_group:
        raise ValueError(f"{pattern!r} has no group; put brackets around the patient id, such as '(p[0-9]+)_'")
    return pattern


PatientPattern = Annotated[str, AfterValidator(_check_pattern)]
"""Regular expression with a group, which finds the patient id."""


class SourceLimits(Settings):
    """Limits on the size of a source and on the time to fetch it, against damaged or malicious sources."""

    max_entries: int = Field(default=2_000_000, ge=1, le=100_000_000)
    """Maximum number of files and folders in a source."""

    max_bytes: int = Field(default=2**40, ge=1, le=2**50)
    """Maximum size of a fetched file, and of all unpacked files of a source together, in bytes. The default is
    1 TiB."""

    max_compression_ratio: float = Field(default=100, ge=1, le=2000)
    """Maximum ratio of unpacked to packed size: of each entry of a zip file that unpacks to more than 1 MiB, and of
    all entries together."""

    fetch_timeout_seconds: float = Field(default=86_400, gt=0, le=604_800)
    """Maximum duration of one attempt to fetch a source. The next attempt resumes the download if the server supports
    it."""

    stall_timeout_seconds: float = Field(default=60, gt=0, le=3600)
    """Time without received data after which a connection is closed."""


class ImageSettings(Settings):
    """Settings of reading image files."""

    slices: str = Field(default="all", pattern=r"^(all|middle|every:[1-9][0-9]{0,5})$")
    """Slices that are used of a file with several (DICOM, NIfTI, TIFF): `all`, `middle`, or `every:N` for every N-th
    slice from the first."""

    max_slices: int = Field(default=4096, ge=1, le=100_000)
    """Maximum number of slices that are used of one file. A file with more is quarantined."""

    accept_burned_in_text: bool = False
    """Whether DICOM files are used that declare text in their pixels (BurnedInAnnotation), or that are secondary
    captures or screen saves. Text in pixels can contain patient names and is not removed."""


class PredictionDataSettings(ImageSettings):
    """Settings of reading the image files to score, and of naming their patients."""

    patients_file: LocalPath | None = None
    """CSV file with the columns source_name and patient_id. The scores of each patient are combined in
    `examinations.csv`. By default a file `patients.csv` in the source is used if there is one, then the PatientID and
    StudyInstanceUID of DICOM files."""

    patient_pattern: PatientPattern | None = None
    """Regular expression that finds the patient id in a file's path: its group `patient`, or else its first group. It
    is used for files whose patient neither table nor DICOM file names."""


class DataSettings(ImageSettings):
    """Settings of reading image files, grouping related images and splitting them."""

    collection: CollectionName | None = None
    """Collection that the images come from, such as `RadImageNet`, or the name of your own; compared with
    `model.pretrained_on`."""

    patients_file: LocalPath | None = None
    """CSV file with the column source_name and at least one of patient_id, label and split (train, val or test);
    further columns define subgroups. With a column label, labels come from the table instead of class folders. By
    default a file `patients.csv` or `labels.csv` in the source is used if there is one."""

    corrections_file: LocalPath | None = None
    """CSV file with corrected labels: the column label (`normal`, `osseous_lesion`, `exclude`, or `unsure`, which
    changes nothing) and the column image_id or source_name. Without the file, the labels of the source are used."""

    test_file: LocalPath | None = None
    """CSV file with the columns filename and label: the test images of the split that the publisher of a collection
    gives, such as RadImageNet's. Only these are tested. Names are compared from the end of the path on; the table may
    list more than the source."""

    val_file: LocalPath | None = None
    """The same for the validation images; without it they are drawn from the training images."""

    train_file: LocalPath | None = None
    """The same for the training images; without it all other images are used for training and validation."""

    patient_pattern: PatientPattern | None = None
    """Regular expression that finds the patient id in a file's path: its group `patient`, or else its first group. It
    is matched to the path below the class folder and to the whole path; the one with more matching files is used."""

    class_names: dict[str, Label] = Field(default={})
    """Further names of the classes, as folder names or in the column label, such as `{"healthy": "normal", "lesion":
    "osseous_lesion"}`. Case, blanks, dashes and underscores make no difference, also in the class labels."""

    given_split: Literal["keep", "ignore"] = "keep"
    """Use of a split that the source defines, by folders named train, val and test or by the column split of the table:
    `keep` uses it, and holds out training and validation images that are related to images of another split; `ignore`
    creates a new split."""

    group_similar: bool = True
    """Whether identical and similar images (copies; scaled, mirrored or cropped images) are assigned to the same
    split."""

    infer_examinations: bool = True
    """Whether images whose patient is not named are grouped by examination, which is inferred from the order of files
    and from features. Needs at least 60 images."""

    find_text: bool = False
    """Whether images are searched for text in their pixels, such as names. `text_in_images.csv` in the workspace lists
    the images with text. Takes 0.1 to 0.2 s per image and needs the extra `ocr`."""

    val_fraction: float = Field(default=0.15, gt=0, lt=0.5)
    """Fraction of each class that is used for validation."""

    test_fraction: float = Field(default=0.15, gt=0, lt=0.5)
    """Fraction of each class that is used for the test set. The rest is used for training."""

    @property
    def split_files(self) -> dict[str, Path]:
        """The tables of the publisher's split, by split."""
        files = {"train": self.train_file, "val": self.val_file, "test": self.test_file}
        return {split: file for split, file in files.items() if file is not None}

    @model_validator(mode="after")
    def _check_split_files(self) -> "DataSettings":
        if self.split_files and self.test_file is None:
            raise ValueError("train_file and val_file need test_file; give the table of the test images too")
        if self.split_files and self.given_split == "ignore":
            raise ValueError("test_file gives a split that given_split ignores; leave out one of them")
        return self

    @field_validator("class_names")
    @classmethod
    def _check_class_names(cls, class_names: dict[str, Label]) -> dict[str, Label]:
        check_class_names(class_names)
        return class_names


class PreprocessingSettings(Settings):
    """Settings of the conversion from decoded images to network input."""

    clahe_clip_limit: float = Field(default=2.0, ge=0, le=40)
    """Clip limit of CLAHE: maximum histogram bin of a tile, in multiples of the mean bin. 0 disables CLAHE."""

    clahe_num_tiles: int = Field(default=8, ge=1, le=64)
    """Number of CLAHE tiles along each axis."""

    image_size: int = Field(default=224, ge=32, le=1024)
    """Height and width after resizing, in pixels."""

    interpolation: Literal["linear", "area"] = "linear"
    """Interpolation of resizing: `linear` as in the original recipe, or `area`, which averages when an image is made
    smaller."""
