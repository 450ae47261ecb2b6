"""Groups by all kinds of evidence."""

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hip_mri.config import DataSettings
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.identities import identify_images
from hip_mri.dataset.ingest import CONTRADICTORY_LABEL, ingest_images
from hip_mri.dataset.pseudonyms import read_named_manifest
from hip_mri.dataset.shards import plan_shards
from hip_mri.dataset.table_files import write_table
from hip_mri.errors import SourceError, SplitError
from hip_mri.grouping.evidence import connect
from hip_mri.grouping.fingerprints import fingerprint_images
from hip_mri.grouping.groups import group_images
from hip_mri.grouping.split import split_manifest
from hip_mri.synthetic.demo import draw_demo
from tests.images.dicom_files import write_dicom

HASHES = pd.Index([f"{number:064x}" for number in range(12)])
NODE = st.integers(0, len(HASHES) - 1)


def tabulate(ties, pairs) -> pd.DataFrame:
    rows = [(HASHES[node], kind, key) for node, kind, key in ties]
    rows += [(HASHES[node], kind, f"{pair[:2]}") for *pair, kind in pairs for node in pair[:2]]
    return pd.DataFrame(rows, columns=["sha256", "kind", "key"], dtype="str")


@settings(max_examples=80, deadline=None, database=None)
@given(
    st.lists(st.tuples(NODE, st.sampled_from(["patient_id", "patient_pattern"]), st.sampled_from("abc")), max_size=12),
    st.lists(st.tuples(NODE, NODE, st.sampled_from(["series", "similar"])).filter(lambda p: p[0] != p[1]), max_size=6),
)
def test_groups_are_what_any_path_of_evidence_connects(ties, pairs):
    found, evidence = connect(HASHES, tabulate(ties, pairs))
    edges = {frozenset(pair[:2]) for pair in pairs}
    edges |= {frozenset((a[0], b[0])) for a in ties for b in ties if a[2] == b[2] and a[0] != b[0]}
    names = list(range(len(HASHES)))
    for _ in HASHES:
        for first, second in edges:
            names[first] = names[second] = min(names[first], names[second])
    for first in range(len(HASHES)):
        for second in range(len(HASHES)):
            assert (found[first] == found[second]) == (names[first] == names[second])
    tied = {node for edge in edges for node in edge}
    assert {node for node in range(len(HASHES)) if evidence.iloc[node]} == tied


def test_evidence_is_listed_in_its_order():
    patients = [(0, "patient_id", "a"), (1, "patient_pattern", "a"), (2, "patient_id", "b")]
    _, evidence = connect(HASHES, tabulate(patients, [(1, 0, "similar"), (0, 3, "series")]))
    assert list(evidence.iloc[:4]) == ["patient_id+series+similar", "patient_pattern+similar", "", "series"]


@pytest.fixture
def hips(encode) -> dict[str, bytes]:
    """The middle slice of eight synthetic patients, both classes."""
    slices = {image.patient_id: image for image in draw_demo(seed=3, num_patients=8)}
    return {f"{image.label}/{name}.png": encode(image.pixels) for name, image in slices.items()}


def ingest(source, workspace, **data):
    delivered = [Delivery("source", source)]
    ingest_images(delivered, workspace, num_threads=1)
    for shard in plan_shards(workspace, 2048):
        fingerprint_images(shard, workspace, num_threads=1)
    identify_images(delivered, workspace, DataSettings(**data))
    report = group_images(workspace, DataSettings(**data), num_threads=1)
    return report, read_named_manifest(workspace).set_index("source_name")


def test_copies_are_grouped_and_other_images_are_not(hips, pack, workspace, encode):
    name, other = sorted(hips)[:2]
    pixels = np.array(Image.open(io.BytesIO(hips[name])))
    copies = {
        name.replace(".png", "-mirrored.png"): encode(pixels[:, ::-1]),
        name.replace(".png", "-brighter.png"): encode(np.minimum(pixels, 235) + np.uint8(20)),
    }
    report, manifest = ingest(pack(hips | copies), workspace)
    assert manifest.loc[[name, *copies], "group"].nunique() == 1
    assert manifest.loc[name, "group"] == manifest.loc[[name, *copies], "image_id"].min()
    assert set(manifest.loc[[name, *copies], "evidence"]) == {"similar"}
    assert manifest.loc[other, "group"] == manifest.loc[other, "image_id"]
    assert sorted(manifest["group"].value_counts()) == [1] * (len(hips) - 1) + [3]
    assert {kind: count for kind, count in report.evidence.items() if count} == {"similar": 3}
    assert not report.is_patient_level
    _, left_alone = ingest(pack(hips | copies), workspace, group_similar=False)
    assert left_alone["group"].nunique() == len(hips) + 2


def test_a_picture_in_another_file_is_the_same_image(hips, pack, workspace, encode):
    name = next(name for name in hips if name.startswith("normal"))
    pixels = np.array(Image.open(io.BytesIO(hips[name])))
    again = {"normal/same.png": encode(pixels, compress_level=1), "normal/same.bmp": encode(pixels, "BMP")}
    _, manifest = ingest(pack(hips | again), workspace)
    assert sorted(manifest.loc[[name, *again], "state"]) == ["duplicate", "duplicate", "ready"]
    contradiction = {"osseous_lesion/same.png": encode(pixels, compress_level=1)}
    ingest_images([Delivery("source", pack(hips | contradiction))], workspace, num_threads=1)
    both = read_named_manifest(workspace).set_index("source_name").loc[[name, *contradiction]]
    assert set(both["reason"]) == {CONTRADICTORY_LABEL}


def write_stack(encode, *pages: np.ndarray) -> bytes:
    images = [Image.fromarray(page) for page in pages]
    return encode(images[0], "TIFF", save_all=True, append_images=images[1:])


def test_slices_of_one_file_are_one_group(hips, pack, workspace, encode, draw):
    stack = {"normal/stack.tif": write_stack(encode, *(draw(number) for number in range(300, 304)))}
    report, manifest = ingest(pack(hips | stack), workspace)
    slices = manifest.loc["normal/stack.tif"]
    assert list(slices.sort_values("slice")["slice"]) == [0, 1, 2, 3]
    assert slices["group"].nunique() == 1
    assert slices["evidence"].str.startswith("series").all()
    assert report.evidence["series"] == 4
    assert report.num_patients == 0


def test_slices_of_a_file_that_holds_most_images_stay_together(hips, pack, workspace, encode, draw):
    """A single series is no placeholder: torn apart, its slices would be in training and test."""
    stack = {"normal/stack.tif": write_stack(encode, *(draw(number) for number in range(300, 320)))}
    _, manifest = ingest(pack(hips | stack), workspace)
    assert manifest.loc["normal/stack.tif", "group"].nunique() == 1


@pytest.mark.parametrize("num_unnamed", [1, 5])
def test_a_patient_of_most_images_is_no_placeholder(entries, pack, workspace, num_unnamed, caplog):
    """Images without a patient show that the others name a real patient, whose images must stay together."""
    names = sorted(entries)
    table = "\n".join(["source_name,patient_id", *(f"{name},PAT1" for name in names[num_unnamed:])]).encode()
    source = [Delivery("source", pack({**entries, "patients.csv": table}))]
    ingest_images(source, workspace, 1)
    identify_images(source, workspace, DataSettings(group_similar=False))
    report = group_images(workspace, DataSettings(group_similar=False), num_threads=1)
    assert (report.has_constant_patient, report.num_patients, report.num_without_patient) == (False, 1, num_unnamed)
    groups = read_named_manifest(workspace).set_index("source_name")["group"]
    assert groups[names[num_unnamed:]].nunique() == 1
    assert groups.nunique() == 1 + num_unnamed
    assert "placeholder" not in caplog.text
    with pytest.raises(SplitError, match=f" {len(names) - num_unnamed} of {len(names)} images"):
        split_manifest(workspace, 0.2, 0.2, seed=1)


def test_files_of_one_dicom_series_are_one_group(hips, pack, workspace, draw):
    def write(seed: int, series: str) -> bytes:
        return write_dicom(draw(seed).astype(np.uint16) * 16, SeriesInstanceUID=series)

    series = {f"normal/{number}.dcm": write(400 + number, f"1.2.{number % 2}") for number in range(6)}
    _, manifest = ingest(pack(hips | series), workspace)
    groups = [set(manifest.loc[[f"normal/{number}.dcm" for number in range(half, 6, 2)], "group"]) for half in (0, 1)]
    assert [len(group) for group in groups] == [1, 1]
    assert groups[0] != groups[1]
    assert not {"1.2.0", "1.2.1"} & set(manifest["series"])


def write_studies(draw, studies: dict[int, str]) -> dict[str, bytes]:
    """Files of one series each."""
    return {
        f"normal/{number}.dcm": write_dicom(
            draw(400 + number).astype(np.uint16) * 16, SeriesInstanceUID=f"1.3.{number}", StudyInstanceUID=study
        )
        for number, study in studies.items()
    }


def test_images_of_one_dicom_study_are_one_group(hips, pack, workspace, draw):
    files = write_studies(draw, {0: "1.2.1", 1: "1.2.2", 2: "1.2.1"})
    report, manifest = ingest(pack(hips | files), workspace)
    groups = manifest.loc[list(files), "group"].tolist()
    assert groups[0] == groups[2] != groups[1]
    assert list(manifest.loc[list(files), "evidence"]) == ["study", "", "study"]
    assert report.evidence["study"] == 2


def test_a_study_that_an_earlier_version_did_not_read_is_added_to_a_remembered_patient(hips, pack, workspace, draw):
    files = write_studies(draw, {0: "1.2.1", 1: "1.2.1"})
    table = "source_name,patient_id\nnormal/0.dcm,Smith\n"
    ingest(pack(hips | files | {"patients.csv": table.encode()}), workspace)
    for file in workspace.identities_folder.glob("*.parquet"):
        write_table(file, pd.read_parquet(file).drop(columns="study"))
    report, manifest = ingest(pack(hips | files), workspace)
    assert (report.num_patients, report.evidence["study"]) == (1, 2)
    assert manifest.loc[list(files), "group"].nunique() == 1


def test_a_study_of_all_images_is_a_placeholder(pack, workspace, draw, caplog):
    files = write_studies(draw, dict.fromkeys(range(8), "1.2.1"))
    files |= {name.replace("normal", "osseous_lesion"): files.pop(name) for name in list(files)[:4]}
    report, manifest = ingest(pack(files), workspace, group_similar=False)
    assert manifest["group"].nunique() == 8
    assert "8 of 8 images name one and the same study" in caplog.text
    assert (report.has_constant_patient, report.evidence["study"]) == (False, 0)


def test_patients_of_the_table_stay_together_and_unnamed(hips, pack, workspace):
    names = sorted(hips)
    lines = [f"{name},Smith {number // 2},{'fm'[number % 2]}" for number, name in enumerate(names)]
    table = {"patients.csv": "\n".join(["source_name,patient_id,sex", *lines]).encode()}
    report, manifest = ingest(pack(hips | table), workspace)
    assert manifest.loc[names[0], "group"] == manifest.loc[names[1], "group"] != manifest.loc[names[2], "group"]
    assert (report.num_patients, report.num_without_patient, report.is_patient_level) == (4, 0, True)
    attributes = pd.read_parquet(workspace.attributes_folder / f"{report.attributes}.parquet")
    assert set(attributes.columns) == {"sha256", "attribute: sex"}
    for file in workspace.root.rglob("*"):
        if file.is_file() and "images" not in file.relative_to(workspace.root).parts:
            assert b"Smith" not in file.read_bytes(), file


def test_prescribed_splits_come_into_the_manifest(hips, pack, workspace, tmp_path):
    names = sorted(hips)
    file = tmp_path / "official.csv"
    file.write_text("\n".join(["source_name,patient_id,split", f"{names[0]},,test", f"{names[1]},x,"]))
    _, manifest = ingest(pack(hips), workspace, patients_file=file)
    assert list(manifest.loc[names[:3], "split"]) == ["test", "", ""]


def test_patients_of_file_names(hips, pack, workspace):
    pattern = r"(..)\.png$"
    report, manifest = ingest(pack(hips), workspace, patient_pattern=pattern)
    assert report.is_patient_level
    assert set(manifest["evidence"]) <= {"", "patient_pattern"}


def test_patients_are_remembered_when_the_table_is_gone(hips, pack, workspace):
    lines = [f"{name},{max(number, 1)}" for number, name in enumerate(sorted(hips))]
    table = {"patients.csv": "\n".join(["source_name,patient_id", *lines]).encode()}
    _, before = ingest(pack(hips | table), workspace)
    split_manifest(workspace, 0.2, 0.2, seed=1)
    report, after = ingest(pack(hips), workspace)
    assert report.is_patient_level
    assert after["group"].equals(before["group"])


def test_a_patient_known_by_table_and_by_name_is_one(hips, pack, workspace):
    first, second, third, *_ = sorted(hips)
    table = {"patients.csv": f"source_name,patient_id\n{first},{third[-6:-4]}\n{second},x\n".encode()}
    _, manifest = ingest(pack(hips | table), workspace, patient_pattern=r"(..)\.png$")
    assert manifest.loc[first, "group"] == manifest.loc[third, "group"] != manifest.loc[second, "group"]


def test_copies_of_remembered_images_are_tied_to_them(hips, pack, workspace, encode):
    ingest(pack(hips), workspace)
    split_manifest(workspace, 0.2, 0.2, seed=1)
    manifest = read_named_manifest(workspace)
    gone = manifest[manifest["split"] == "val"].iloc[0]
    content = hips[gone["source_name"]]
    copy = gone["source_name"].replace(".png", "-again.png")
    replaced = {name: image for name, image in hips.items() if name != gone["source_name"]}
    again = encode(np.array(Image.open(io.BytesIO(content)))[:, ::-1])
    ingest(pack(replaced | {copy: again}), workspace)
    split_manifest(workspace, 0.2, 0.2, seed=1)
    after = read_named_manifest(workspace).set_index("source_name")
    assert after.loc[copy, "sha256"] != gone["sha256"]
    assert after.loc[copy, "split"] == "val"


def test_nothing_left_is_an_error(workspace, pack, encode, hips):
    pixels = [np.array(Image.open(io.BytesIO(content))) for content in list(hips.values())[:3]]
    both = {
        f"{label}/{number}.png": encode(image, compress_level=level)
        for level, label in ((1, "normal"), (9, "osseous_lesion"))
        for number, image in enumerate(pixels)
    }
    with pytest.raises(SourceError, match="6 contradictory_label"):
        ingest(pack(both), workspace)
