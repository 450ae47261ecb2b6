"""Splits that folders give: kept from the source to the manifest, and never taken from folders that give none."""

import io
import logging

import numpy as np
import pytest
from PIL import Image

from hip_mri.config import DataSettings
from hip_mri.dataset.deliveries import Delivery, fetch_deliveries
from hip_mri.dataset.identities import identify_images
from hip_mri.dataset.ingest import ingest_images
from hip_mri.dataset.pseudonyms import read_named_manifest
from hip_mri.dataset.shards import plan_shards
from hip_mri.dataset.split_registry import HELD_OUT, lock_test_set
from hip_mri.errors import SourceError, SplitError
from hip_mri.grouping.fingerprints import fingerprint_images
from hip_mri.grouping.groups import group_images
from hip_mri.grouping.split import split_manifest
from hip_mri.hashes import digest_file
from hip_mri.sources.split_folders import find_given_splits, find_split_name

PARTS = {"train": 6, "val": 3, "test": 3}


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ("train", "Training", "TRAIN_SET", "train data", "training-images", "TrainSplit")),
        ("val", ("val", "VALID", "validation", "Validation Set", "val_images")),
        ("test", ("test", "Testing", "TEST", "test-set", "testing_data")),
    ],
)
def test_names_of_splits_are_known_in_any_spelling(split, names):
    assert [find_split_name(name) for name in names] == [split] * len(names)


@pytest.mark.parametrize(
    "name",
    ["trained", "latest", "tests", "value", "valley", "valing", "testid", "trainidation", "test1", "contest", ""],
)
def test_other_names_are_no_splits(name):
    assert find_split_name(name) is None


@pytest.mark.parametrize(
    "layout",
    [
        "{split}/{label}/{n}.png",
        "DATA/{split}/{label}/{n}.png",
        "a/b/{split}/{label}/deep/{n}.png",
        "{label}/{split}/{n}.png",
        "hips/{label}/{split}/{n}.png",
        "{split}/P{n}/{label}/x.png",
        "test/{split}/{label}/{n}.png",
        "{split}/{n}.png",
    ],
)
def test_a_split_is_found_above_and_below_the_class_folders(layout):
    rows = [
        (layout.format(split=spelled, label=label, n=number), split)
        for split, spelled in (("train", "Training"), ("val", "valid"), ("test", "TEST"))
        for label in ("normal", "osseous_lesion")
        for number in range(PARTS[split])
    ]
    names, expected = zip(*rows, strict=True)
    assert find_given_splits(names) == list(expected)


@pytest.mark.parametrize(
    ("given", "meaning"),
    [
        ({"train", "test"}, {"train": "train+val", "test": "test"}),
        ({"train", "val"}, {"train": "train+test", "val": "val"}),
    ],
)
def test_a_part_that_lacks_is_left_to_be_drawn_from_training(given, meaning):
    names = [f"{split}/normal/{number}.png" for split in sorted(given) for number in range(3)]
    assert find_given_splits(names) == [meaning[name.split("/")[0]] for name in names]


def test_other_folders_beside_a_given_split_never_join_its_test():
    names = [
        "train/normal/1.png",
        "train/normal/2.png",
        "test/normal/3.png",
        "val/normal/3.png",
        "augmented/normal/4.png",
    ]
    assert find_given_splits(names) == ["train", "train", "test", "val", "train+val"]


@pytest.mark.parametrize(
    "names",
    [
        ["train/normal/1.png", "train/osseous_lesion/2.png"],
        ["test/hips/normal/1.png", "test/hips/osseous_lesion/2.png"],
        ["normal/test/1.png", "osseous_lesion/2.png"],
        ["siteA/normal/1.png", "siteB/normal/2.png"],
        ["test/normal/1.png", "pilot/normal/2.png"],
        [*(f"normal/{number}.png" for number in range(9)), "normal/train/a.png", "normal/test/b.png"],
        [],
    ],
)
def test_layouts_that_give_no_split(names):
    assert find_given_splits(names) == [""] * len(names)


def test_plain_folders_with_the_name_of_a_split_are_told(caplog):
    caplog.set_level(logging.INFO)
    find_given_splits(["test/normal/1.png", "pilot/normal/2.png"])
    assert "Folders named for test, and for no other split, do not define splits" in caplog.text


def test_a_path_in_two_splits_is_refused():
    with pytest.raises(SourceError, match=r"1 files .*--data\.given-split ignore"):
        find_given_splits(["train/normal/1.png", "train/test/normal/2.png", "val/normal/3.png"])


# From the source to the manifest


@pytest.fixture
def presplit(draw, encode) -> dict[str, bytes]:
    """Twelve images of each class in given parts, all different."""
    return {
        f"DATA/{split}/{label}/{number}.png": encode(draw(1000 * at + 100 * place + number))
        for at, label in enumerate(("normal", "osseous_lesion"))
        for place, (split, count) in enumerate(PARTS.items())
        for number in range(count)
    }


def take_in(source, workspace, *, keep_earlier=False, **data):
    delivered = source if isinstance(source, list) else [Delivery("source", source)]
    settings = DataSettings(**{"group_similar": False, **data})
    ingest_images(delivered, workspace, 1, keep_earlier=keep_earlier, class_names=settings.class_names)
    if settings.group_similar:
        for shard in plan_shards(workspace, 2048):
            fingerprint_images(shard, workspace, num_threads=1)
    identify_images(delivered, workspace, settings)
    groups = group_images(workspace, settings, num_threads=1)
    division = split_manifest(workspace, 0.15, 0.15, seed=1)
    return groups, division, read_named_manifest(workspace).set_index("source_name")


@pytest.mark.parametrize("make", ["pack", "spread"])
def test_the_given_split_is_kept_and_told(presplit, request, make, workspace, caplog):
    caplog.set_level(logging.INFO)
    source = request.getfixturevalue(make)(presplit)
    for _ in range(2):
        groups, division, manifest = take_in(source, workspace)
        assert manifest["split"].to_dict() == {name: name.split("/")[1] for name in presplit}
        assert groups.given_split_by == "folders"
        assert division.given.num_images == {split: 2 * count for split, count in PARTS.items()}
    assert "The source gives a split, which is kept: 12 train, 6 val, 6 test" in caplog.text


def test_a_setting_draws_anew(presplit, pack, workspace):
    groups, division, manifest = take_in(pack(presplit), workspace, given_split="ignore")
    assert groups.given_split_by == ""
    assert division.num_prescribed == 0
    assert set(manifest["split"]) == {"train", "val", "test"}
    assert any(name.split("/")[1] != split for name, split in manifest["split"].items())


def test_a_split_that_was_drawn_before_is_not_overturned_in_silence(presplit, pack, workspace):
    _, _, before = take_in(pack(presplit), workspace, given_split="ignore")
    with pytest.raises(SplitError, match=r"[0-9]+ images .*--data\.given-split ignore"):
        take_in(pack(presplit), workspace)
    _, _, after = take_in(pack(presplit), workspace, given_split="ignore")
    assert after["split"].equals(before["split"])


def test_near_duplicates_across_the_split_are_held_out_of_training(pack, workspace, encode):
    from hip_mri.synthetic.demo import draw_demo

    slices = list({image.patient_id: image for image in draw_demo(seed=3, num_patients=24)}.values())
    by_label = {label: [it.pixels for it in slices if it.label == label][:6] for label in ("normal", "osseous_lesion")}
    files = {
        f"{split}/{label}/{number}.png": encode(pictures[number])
        for label, pictures in by_label.items()
        for number, split in enumerate(("train", "train", "val", "val", "test", "test"))
    }
    copied = np.array(Image.open(io.BytesIO(files["test/normal/4.png"])))
    files["train/normal/near copy.png"] = encode(copied[:, ::-1])
    files["train/normal/same bytes.png"] = files["test/normal/5.png"]
    files["val/normal/same bytes.png"] = files["train/normal/0.png"]
    groups, division, manifest = take_in(pack(files), workspace, group_similar=True)
    assert manifest.loc["train/normal/near copy.png", "state"] == HELD_OUT
    assert manifest.loc["test/normal/4.png", "split"] == "test"
    same = manifest.loc[["train/normal/same bytes.png", "test/normal/5.png"]]
    assert (sorted(same["state"]), set(same["split"]) - {""}) == (["duplicate", "ready"], {"test"})
    same = manifest.loc[["val/normal/same bytes.png", "train/normal/0.png"]]
    assert set(same["split"]) - {""} == {"val"}
    assert groups.num_given_twice == 2
    assert (division.given.num_held_out, division.given.num_divided_groups) == ({"train": 1}, 1)


def test_patients_across_the_split_are_held_out_of_training(presplit, pack, workspace):
    tested = [name for name in presplit if "/test/" in name]
    trained = [name for name in presplit if "/train/" in name]
    lines = [f"{tested[0]},Smith", f"{trained[0]},Smith", f"{trained[1]},Smith"]
    table = {"patients.csv": "\n".join(["source_name,patient_id", *lines]).encode()}
    _, division, manifest = take_in(pack(presplit | table), workspace)
    assert list(manifest.loc[[tested[0], *trained[:2]], "state"]) == ["ready", HELD_OUT, HELD_OUT]
    assert division.given.num_held_out == {"train": 2}
    _, again, _ = take_in(pack(presplit), workspace)
    assert again.given == division.given, "remembered without the table"


def test_a_lacking_part_is_drawn_from_training_and_told(presplit, pack, workspace, caplog):
    source = pack({name: content for name, content in presplit.items() if "/val/" not in name})
    _, division, manifest = take_in(source, workspace)
    assert set(manifest.loc[manifest["split"] == "test"].index) == {name for name in presplit if "/test/" in name}
    assert division.given.num_drawn == {"val": int((manifest["split"] == "val").sum())}
    assert "The source gives no images for val" in caplog.text
    _, _, after = take_in(source, workspace)
    assert after["split"].equals(manifest["split"])


def test_table_and_folders_that_contradict_each_other_are_refused(presplit, pack, workspace):
    name = next(name for name in presplit if "/test/" in name)
    table = {"patients.csv": f"source_name,patient_id,split\n{name},x,train\n".encode()}
    with pytest.raises(SplitError, match="1 images have another split"):
        take_in(pack(presplit | table), workspace)
    take_in(pack(presplit | table), workspace, given_split="ignore")


def test_a_table_without_one_part_is_completed_from_training(entries, draw, encode, pack, workspace):
    images = {
        f"{label}/{n}.png": encode(draw(n + at))
        for at, label in ((0, "normal"), (99, "osseous_lesion"))
        for n in range(9)
    }
    lines = [f"{name},{'Test' if name[-5] in '012' else 'training'}" for name in images]
    table = {"patients.csv": "\n".join(["source_name,split", *lines]).encode()}
    groups, division, manifest = take_in(pack(images | table), workspace)
    assert {name for name, split in manifest["split"].items() if split == "test"} == {
        name for name in images if name[-5] in "012"
    }
    assert division.given.num_drawn["val"] >= 2
    assert groups.given_split_by == "table"


def test_given_test_images_of_a_later_delivery_do_not_join_a_locked_test_set(presplit, draw, encode, pack, workspace):
    first = Delivery("first", pack(presplit, "first.zip"))
    take_in([first], workspace)
    locked = lock_test_set(workspace)
    later = {
        f"{split}/normal/{n}.png": encode(draw(5000 + 10 * at + n)) for at, split in enumerate(PARTS) for n in range(2)
    }
    _, division, manifest = take_in([Delivery("later", pack(later, "later.zip"))], workspace, keep_earlier=True)
    found = manifest.loc[list(later)]
    assert [(state, split) for state, split in zip(found["state"], found["split"], strict=True)] == [
        *([("ready", "train")] * 2), *([("ready", "val")] * 2), *([(HELD_OUT, "")] * 2),
    ]  # fmt: skip
    assert division.given.num_held_out == {"test": 2}
    assert lock_test_set(workspace) == locked


def test_split_folders_in_a_source_of_a_retraining_are_one_delivery(presplit, spread, workspace):
    folder = spread({name.removeprefix("DATA/"): content for name, content in presplit.items()})
    assert [delivery.path for delivery in fetch_deliveries([str(folder)], workspace)] == [folder]


def test_only_the_test_images_of_the_publisher_are_tested(presplit, pack, workspace, tmp_path):
    """Copies that the publisher has on both sides of the split are found; the tables are recorded by their hash."""
    names = {
        f"DATA/{label}/{split}{number}.png": f"DATA/{split}/{label}/{number}.png"
        for label in ("normal", "osseous_lesion")
        for split, count in PARTS.items()
        for number in range(count)
    }
    files = {name: presplit[origin] for name, origin in names.items()}
    files["DATA/normal/train0.png"] = files["DATA/normal/test0.png"]
    tables = {f"{split}_file": tmp_path / f"{split}.csv" for split in PARTS}
    for split in PARTS:
        lines = [f"x/{name.removeprefix('DATA/')},{name.split('/')[1]}" for name in names if f"/{split}" in name]
        tables[f"{split}_file"].write_text("\n".join(["filename,label", *lines]))
    groups, division, manifest = take_in(pack(files), workspace, **tables)
    tested = {name for name in names if "/test" in name}
    assert set(manifest.index[manifest["split"] == "test"]) - {"DATA/normal/train0.png"} <= tested
    assert division.given.num_images["test"] == len(tested)
    assert groups.num_given_twice == 1
    assert groups.given_split_by == "table"
    assert groups.split_tables.keys() == {"train", "val", "test"}
    assert set(groups.split_tables.values()) == {digest_file(file) for file in tables.values()}
