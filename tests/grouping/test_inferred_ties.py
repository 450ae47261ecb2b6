"""Examinations without a named patient are inferred once, kept for later runs, and given to a person as a draft."""

import stat
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest

from hip_mri.config import DataSettings
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.identities import identify_images
from hip_mri.dataset.ingest import ingest_images
from hip_mri.dataset.manifest import read_manifest
from hip_mri.dataset.pseudonyms import read_named_manifest
from hip_mri.dataset.shards import plan_shards
from hip_mri.dataset.split_registry import HELD_OUT, extend_split_registry, lock_test_set
from hip_mri.grouping.fingerprints import fingerprint_images
from hip_mri.grouping.groups import GroupReport, group_images
from hip_mri.grouping.inferred_ties import read_examinations
from hip_mri.grouping.patients_draft import DRAFT_COLUMNS, list_doubtful_borders, write_patients_draft
from hip_mri.grouping.split import split_manifest
from hip_mri.synthetic.volumes import VolumeImage, draw_volumes
from hip_mri.workspace import Workspace


@pytest.fixture(scope="module")
def volumes() -> list[VolumeImage]:
    return draw_volumes(3, 16, (6,))


@pytest.fixture
def group(encode: Callable, pack: Callable, workspace: Workspace) -> Callable[..., GroupReport]:
    """Ingests images into the workspace and groups them."""

    def group(images: Sequence[VolumeImage], keep_earlier: bool = False, **data) -> GroupReport:
        settings = DataSettings(group_similar=False, **data)
        content = {image.source_name: encode(image.pixels) for image in images}
        delivered = [Delivery(f"source{len(images)}", pack(content, f"{len(images)}.zip"))]
        ingest_images(delivered, workspace, num_threads=2, keep_earlier=keep_earlier)
        for shard in plan_shards(workspace, 2048):
            fingerprint_images(shard, workspace, num_threads=2)
        identify_images(delivered, workspace, settings)
        return group_images(workspace, settings, num_threads=2)

    return group


def compare(workspace: Workspace, volumes: Sequence[VolumeImage]) -> pd.DataFrame:
    """The manifest with the patient of each image (column true)."""
    patients = {image.source_name: image.patient_id for image in volumes}
    named = read_named_manifest(workspace)
    return named.assign(true=named["source_name"].map(patients)).sort_values("source_name", ignore_index=True)


def count_divided(found: pd.DataFrame) -> int:
    return int((found.groupby("true")["group"].nunique() > 1).sum())


def test_unnamed_examinations_are_grouped_and_told(volumes, group, workspace):
    report = group(volumes)
    found = compare(workspace, volumes)
    assert count_divided(found) <= 2
    assert found["group"].nunique() >= 8
    assert not report.is_patient_level
    assert report.inferred is not None
    assert report.inferred.num_ordered == len(volumes)
    assert not report.inferred.has_features
    assert report.inferred.num_images == len(volumes)
    assert report.evidence["order"] > 0.9 * len(volumes)
    order = pd.read_parquet(workspace.order_file)
    assert set(order["sha256"]) == set(found["sha256"])


def test_nothing_is_inferred_if_that_is_switched_off_or_all_patients_are_named(volumes, group, workspace, tmp_path):
    report = group(volumes, infer_examinations=False)
    assert (report.inferred, report.evidence["order"]) == (None, 0)
    table = tmp_path / "patients.csv"
    names = "\n".join(f"{image.source_name},{image.patient_id}" for image in volumes)
    table.write_text(f"source_name,patient_id\n{names}\n")
    report = group(volumes, patients_file=table)
    assert (report.inferred, report.evidence["order"], report.is_patient_level) == (None, 0, True)


def test_later_images_change_no_earlier_decision(volumes, group, workspace):
    """The second delivery doubles the images, from which limits are learned anew."""
    half = [image for image in volumes if image.patient_id <= sorted({it.patient_id for it in volumes})[9]]
    group(half)
    split_manifest(workspace, 0.2, 0.2, seed=1)
    before = read_manifest(workspace.manifest_file).set_index("sha256")
    recorded = read_examinations(workspace).set_index("sha256")["examination"]
    group(volumes)
    split_manifest(workspace, 0.2, 0.2, seed=1)
    after = read_manifest(workspace.manifest_file).set_index("sha256")
    assert (after.loc[before.index, "split"] == before["split"]).all()
    again = read_examinations(workspace).set_index("sha256")["examination"]
    assert (again[recorded.index] == recorded).all()
    assert len(again) == len(volumes)


def test_images_of_earlier_splits_that_turn_out_to_be_related_are_held_out(volumes, group, workspace, caplog):
    """The workspace was split before examinations were inferred: one patient is in two splits."""
    group(volumes, infer_examinations=False)
    found = compare(workspace, volumes)
    both = ("test", "train", "val", "train")  # the first patient of each class is in the test, and so on
    number = found.groupby("label")["true"].transform(lambda patients: pd.factorize(patients)[0])
    split = found.groupby("true")["true"].transform("first").map(dict(zip(found["true"], number.mod(4), strict=False)))
    found["split"] = split.map(dict(enumerate(both)))
    divided = found["true"] == found.loc[found["split"] == "test", "true"].value_counts().index[0]
    found.loc[divided & (np.arange(len(found)) % 2 == 0), "split"] = "train"
    extend_split_registry(found, workspace)
    locked = lock_test_set(workspace)
    group(volumes)
    split_manifest(workspace, 0.2, 0.2, seed=1)
    after = compare(workspace, volumes)
    assert lock_test_set(workspace) == locked
    is_held_out = (after["state"] == HELD_OUT).to_numpy()
    assert (after["split"].to_numpy() == found["split"].to_numpy())[~is_held_out].all()
    assert is_held_out[divided & (found["split"] == "train")].all()
    assert not is_held_out[found["split"] == "test"].any()
    assert "found to be of one examination" in caplog.text


def test_the_draft_is_private_and_can_be_corrected_and_given_back(volumes, group, workspace, tmp_path):
    group(volumes)
    file = tmp_path / "patients_draft.csv"
    write_patients_draft(file, workspace)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    draft = pd.read_csv(file)
    assert tuple(draft.columns) == DRAFT_COLUMNS
    found = compare(workspace, volumes)
    assert sorted(draft["source_name"]) == list(found["source_name"])
    assert draft["certainty"].between(0, 1).all()
    by_name = draft.set_index("source_name")["patient_id"][found["source_name"]].to_numpy()
    assert found.assign(draft=by_name).groupby("draft")["group"].nunique().max() == 1
    patients = {image.source_name: image.patient_id for image in volumes}
    draft.assign(patient_id=draft["source_name"].map(patients)).to_csv(file, index=False)
    report = group(volumes, patients_file=file)
    assert report.is_patient_level
    assert report.attributes is None
    corrected = compare(workspace, volumes)
    assert count_divided(corrected) == 0
    assert corrected["group"].nunique() == len(set(patients.values()))


def test_doubtful_borders_name_images_by_their_ids(volumes, group, workspace):
    group(volumes)
    borders = list_doubtful_borders(workspace)
    ids = set(read_manifest(workspace.manifest_file)["image_id"])
    assert set(borders["first_id"]) | set(borders["second_id"]) <= ids
    cuts = borders[~borders["is_joined"]]
    assert list(cuts["certainty"]) == sorted(cuts["certainty"], reverse=True)
    assert np.isfinite(borders["certainty"]).all()
