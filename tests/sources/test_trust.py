"""What is known of images after they were taken in: whose they are, that they are whole, and no word beside."""

import logging

import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from hip_mri.config import DataSettings, PreprocessingSettings
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.entries import list_entries
from hip_mri.dataset.identities import identify_images
from hip_mri.dataset.ingest import ingest_images
from hip_mri.dataset.manifest import read_manifest
from hip_mri.dataset.preprocessing import preprocess_images, read_stored_image
from hip_mri.dataset.pseudonyms import read_named_manifest
from hip_mri.dataset.shards import plan_shards
from hip_mri.errors import WorkspaceError
from hip_mri.grouping.groups import group_images
from hip_mri.grouping.split import split_manifest
from hip_mri.serving.prediction_inputs import ingest_inputs
from tests.dataset.batches import read_batch
from tests.images.dicom_files import write_dicom
from tests.images.image_files import decode_gray, draw_noise, encode_image, insert_segment

SMALL = PreprocessingSettings(image_size=32)
CANARY = "Canary"


def dress(seed: int) -> dict[str, bytes]:
    """One picture in each kind of file, with a name wherever the format has a place for one."""
    picture = draw_noise(seed)
    words = PngImagePlugin.PngInfo()
    words.add_text("Patient", f"{CANARY}^Jane")
    words.add_itxt("Patient", f"{CANARY}^Jane", zip=False)
    exif = Image.Exif()
    exif[315] = exif[270] = f"{CANARY}^Jane"  # artist and description
    exif[274] = 1
    tags = {270: f"{CANARY}^Jane", 315: f"{CANARY}^Jane"}
    jpeg = insert_segment(encode_image(draw_noise(seed + 1000), "JPEG", exif=exif), 0xED, CANARY.encode())
    values = draw_noise(seed + 3000).astype(np.uint16) * 16
    return {
        "png": encode_image(picture, pnginfo=words, exif=exif),
        "jpg": insert_segment(jpeg, 0xFE, CANARY.encode()),
        "tif": encode_image(draw_noise(seed + 2000), "TIFF", tiffinfo=tags),
        "dcm": write_dicom(
            values, PatientName=f"{CANARY}^Jane", PatientID=f"{CANARY}{seed % 2}", InstitutionName=f"{CANARY} hospital"
        ),
    }


def make_source() -> dict[str, bytes]:
    source = {}
    for seed in range(6):
        label = "normal" if seed < 3 else "osseous_lesion"
        for ending, content in dress(seed).items():
            source[f"{label}/{CANARY}_Jane_{seed}.{ending}"] = content
    return source


def find_canaries(folder) -> set[str]:
    """Files that hold the name, or have it in their own."""
    found = set()
    for file in folder.rglob("*"):
        if file.is_file() and (CANARY.encode() in file.read_bytes() or CANARY in file.name):
            found.add(file.relative_to(folder).parts[0])
    return found


def test_fault_53_words_of_files_are_found_nowhere(pack, workspace, caplog):
    delivery = Delivery("source", pack(make_source()))
    caplog.set_level(logging.DEBUG)  # from here on: Pillow tells what it writes
    ingest_images([delivery], workspace, num_threads=2)
    identify_images([delivery], workspace, DataSettings(group_similar=False))
    group_images(workspace, DataSettings(group_similar=False), num_threads=1)
    for shard in plan_shards(workspace, shard_size=1000):
        preprocess_images(shard, workspace, SMALL, num_threads=1)
    assert find_canaries(workspace.root) <= {"names.parquet"}  # where names of files stand
    assert CANARY not in caplog.text
    manifest = read_manifest(workspace.manifest_file)
    assert not manifest.astype(str).apply(lambda column: column.str.contains(CANARY)).any().any()
    kept = list_entries(["source"], workspace).astype(str)
    assert not kept.apply(lambda column: column.str.contains(CANARY)).any().any()


def test_fault_53_words_of_new_images_are_found_nowhere(pack, workspace, caplog):
    source = pack(make_source())
    caplog.set_level(logging.DEBUG)
    report = ingest_inputs(source, workspace, SMALL, num_threads=2)
    assert report.num_images == 24
    assert find_canaries(workspace.root) <= {"names.csv"}
    assert CANARY not in caplog.text


def test_new_images_have_the_names_that_they_have_in_training(pack, workspace):
    source = pack(make_source())
    ingest_images([Delivery("source", source)], workspace, num_threads=1)
    trained = read_named_manifest(workspace).set_index("source_name")["sha256"].sort_index()
    ingest_inputs(source, workspace.serving, SMALL, num_threads=1)
    assert read_batch(workspace.serving)["sha256"].sort_index().equals(trained)


def group(workspace, source) -> pd.DataFrame:
    delivery = Delivery("source", source)
    ingest_images([delivery], workspace, num_threads=1)
    identify_images([delivery], workspace, DataSettings(group_similar=False))
    group_images(workspace, DataSettings(group_similar=False), num_threads=1)
    return read_named_manifest(workspace).set_index("source_name")


def make_study(patients: str) -> dict[str, bytes]:
    """A DICOM file of each patient, named by a letter; a dot has no name."""
    source = {}
    for number, patient in enumerate(patients):
        label = ("normal", "osseous_lesion")[number % 2]
        values = draw_noise(number).astype(np.uint16) * 16
        source[f"{label}/{number}.dcm"] = write_dicom(values, PatientID="" if patient == "." else f"id {patient}")
    return source


def test_the_patient_in_dicom_files_ties_images(pack, workspace):
    images = group(workspace, pack(make_study("ABCABC....")))
    assert images["group"].nunique() == 3 + 4
    by_patient = images[images["patient"] != ""]
    assert (by_patient.groupby("patient")["group"].nunique() == 1).all()
    assert set(by_patient["evidence"]) == {"patient_id"}
    assert by_patient["patient"].str.fullmatch("[0-9a-f]{16}").all()
    split_manifest(workspace, val_fraction=0.3, test_fraction=0.3, seed=1)
    splits = read_manifest(workspace.manifest_file).query("patient != ''").groupby("patient")["split"].nunique()
    assert (splits == 1).all()


def test_a_table_overrules_the_files(pack, workspace):
    study = make_study("AAAAAAAA")
    rows = [f"{name},{'id A' if number == 1 else number}" for number, name in enumerate(study) if number < 7]
    table = "source_name,patient_id\n" + "\n".join(rows)
    images = group(workspace, pack({**study, "patients.csv": table.encode()}))
    named = images["group"]
    assert named.nunique() == 7
    assert named["osseous_lesion/7.dcm"] == named["osseous_lesion/1.dcm"]  # one identity, in table and file


def test_unchanged_entries_keep_their_patients(pack, workspace):
    source = pack(make_study("ABCABC"))
    first = group(workspace, source)
    report = ingest_images([Delivery("source", source)], workspace, num_threads=1)
    assert report.num_taken_over == 6
    pd.testing.assert_frame_equal(group(workspace, source), first)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "dcm"])
def test_fault_38_every_flipped_bit_of_a_stored_image_is_found(ending, pack, workspace):
    source = {f"{'normal' if seed < 3 else 'osseous_lesion'}/{seed}.{ending}": dress(seed)[ending] for seed in range(6)}
    ingest_images([Delivery("source", pack(source))], workspace, num_threads=1)
    sha256 = read_manifest(workspace.manifest_file)["sha256"][0]
    file = workspace.image_file(sha256)
    content = file.read_bytes()
    np.testing.assert_array_equal(read_stored_image(sha256, workspace), decode_gray(content))
    for position in range(0, len(content), 5):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        file.write_bytes(damaged)
        with pytest.raises(WorkspaceError, match="was damaged"):
            read_stored_image(sha256, workspace)
