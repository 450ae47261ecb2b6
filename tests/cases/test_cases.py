"""Files as in public bug reports of other programs, drawn anew, with invented names.

Each stands for its kind; further inputs of the kind are in the tests of the modules that read them.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hip_mri.config import DataSettings
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.identities import identify_images
from hip_mri.dataset.ingest import IngestReport, ingest_images
from hip_mri.dataset.pseudonyms import read_named_manifest
from hip_mri.errors import HipMriError, ImageError
from hip_mri.grouping.groups import group_images
from hip_mri.grouping.split import split_manifest
from hip_mri.images.reading import read_pictures
from hip_mri.images.stored_png import hash_pixels
from hip_mri.sources.tables.patient_table import read_patient_file
from hip_mri.workspace import Workspace

CASES = Path(__file__).parent


def read(name: str) -> np.ndarray:
    (picture,) = read_pictures((CASES / name).read_bytes())
    return picture.levels


@pytest.mark.parametrize(
    "name",
    [
        *("preamble_tiff_dual_personality", "no_preamble_no_meta_implicit", "excess_pixel_padding_2_bytes"),
        *("window_width_zero", "bits_stored_12_high_bit_15_left_justified", "jpeg_lossless_sv1", "j2k_lossless"),
    ],
)
def test_dicom_forms_of_one_picture_are_one_image(name):
    assert hash_pixels(read(f"dicom/{name}.dcm")) == hash_pixels(read("dicom/control_plain_ok.dcm"))
    assert hash_pixels(read(f"dicom/{name}.dcm")) == hash_pixels(read("images/control_ok_16bit.png"))


def test_a_window_in_the_groups_of_a_frame_counts():
    enhanced, classic = (
        read("dicom/enhanced_mr_one_frame_window_in_groups.dcm"),
        "dicom/control_classic_mr_same_window.dcm",
    )
    np.testing.assert_array_equal(enhanced, read(classic))


def test_windows_that_are_written_otherwise_are_read():
    comma, narrow = read("dicom/window_with_decimal_comma.dcm"), read("dicom/window_width_below_one_adc_map.dcm")
    plain = read("dicom/control_plain_ok.dcm").astype(float)
    for levels in (comma, narrow):
        assert np.corrcoef(levels.ravel(), plain.ravel())[0, 1] > 0.97
        assert len(np.unique(levels)) > 200


def test_floating_point_pixels_are_read():
    difference = read("dicom/float_pixel_data_parametric_map.dcm").astype(int) - read("dicom/control_plain_ok.dcm")
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("name", ["dicom/burned_in_text_at_65535.dcm", "images/png_16bit_with_marker_at_65535.png"])
def test_a_marker_does_not_squeeze_the_anatomy(name):
    marked, plain = read(name), read("dicom/control_plain_ok.dcm")
    assert len(np.unique(marked)) > 200
    assert np.median(np.abs(marked.astype(int) - plain)) <= 1


@pytest.mark.parametrize(
    ("name", "control"),
    [
        ("png_followed_by_zero_padding.png", "control_ok_8bit.png"),
        ("bmp_file_size_field_zero.bmp", "control_ok.bmp"),
        ("jpeg_two_pictures_mpf_phone.jpg", "jpeg_followed_by_newline.jpg"),
    ],
)
def test_untidy_files_are_read(name, control):
    np.testing.assert_array_equal(read(f"images/{name}"), read(f"images/{control}"))


def test_a_jpeg_with_a_newline_is_read():
    assert (
        np.abs(read("images/jpeg_followed_by_newline.jpg").astype(int) - read("images/control_ok_8bit.png")).mean() < 5
    )


def test_a_git_lfs_pointer_is_named():
    with pytest.raises(ImageError, match="git lfs pull"):
        read("images/git_lfs_pointer.png")


def ingest(name: str, folder: Path) -> tuple[IngestReport, pd.DataFrame]:
    workspace = Workspace(folder / "workspace")
    report = ingest_images([Delivery("source", CASES / "zips" / name)], workspace, num_threads=1)
    return report, read_named_manifest(workspace)


@pytest.mark.parametrize(
    "name",
    [
        "bsdtar_dot_slash_paths.zip",
        "windows_backslash_paths.zip",
        "layout_ipynb_checkpoints_beside_classes.zip",
        "layout_synology_eadir_thumbnails_inside_normal.zip",
        "layout_workspace_inside_source_second_run.zip",
        "wrapper_folder_called_normal.zip",
    ],
)
def test_layouts_hold_the_images_of_the_control(name, tmp_path):
    _, expected = ingest("control_plain_ok.zip", tmp_path / "control")
    _, manifest = ingest(name, tmp_path)
    columns = ["sha256", "label", "state"]
    pd.testing.assert_frame_equal(
        manifest[columns].sort_values(columns, ignore_index=True),
        expected[columns].sort_values(columns, ignore_index=True),
    )


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("deflate64_explorer.zip", "method Deflate"),
        ("split.zip", "one part of several"),
        ("zip_per_patient.zip", "unpack them"),
    ],
)
def test_archives_that_cannot_be_read_say_what_to_do(name, cure, tmp_path):
    with pytest.raises(HipMriError, match=cure):
        ingest(name, tmp_path)


def test_a_given_split_is_kept(tmp_path):
    report, manifest = ingest("presplit.zip", tmp_path)
    assert report.num_images == len(manifest)
    workspace = Workspace(tmp_path / "workspace")
    delivered = [Delivery("source", CASES / "zips/presplit.zip")]
    identify_images(delivered, workspace, DataSettings(group_similar=False))
    group_images(workspace, DataSettings(group_similar=False), num_threads=1)
    split_manifest(workspace, 0.15, 0.15, seed=1)
    for _, row in read_named_manifest(workspace).iterrows():
        assert f"{row['split']}/" in row["source_name"]


def test_columns_without_a_name_and_fields_are_dropped():
    table = read_patient_file(CASES / "tables/trailing_comma.csv")
    assert "" not in table.rows.columns
    assert len(table.rows) > 60


def test_backslashes_in_a_table_are_slashes(tmp_path):
    ingest("control_plain_ok.zip", tmp_path)
    delivered = [Delivery("source", CASES / "zips/control_plain_ok.zip")]
    settings = DataSettings(group_similar=False, patients_file=CASES / "tables/windows_backslashes.csv")
    identify_images(delivered, Workspace(tmp_path / "workspace"), settings)
    assert group_images(Workspace(tmp_path / "workspace"), settings, num_threads=1).num_patients == 2
