"""Persistent split by group."""

import random
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hip_mri.config import LABELS, SPLITS
from hip_mri.dataset.manifest import read_manifest, write_manifest
from hip_mri.dataset.split_registry import HELD_OUT, lock_test_set
from hip_mri.errors import SplitError, WorkspaceError
from hip_mri.grouping.evidence import EXAMINATION_EVIDENCE
from hip_mri.grouping.split import split_manifest
from hip_mri.grouping.split_checks import count_images
from hip_mri.workspace import Workspace

SEEDS = st.integers(0, 2**32 - 1)


def regroup(workspace: Workspace, groups: dict[str, str]) -> None:
    """Name the group of some images, as grouping does before each split."""
    manifest = read_manifest(workspace.manifest_file)
    manifest["group"] = manifest["image_id"].map(groups).fillna(manifest["image_id"])
    manifest["group"] = manifest.groupby("group")["image_id"].transform("min")
    write_manifest(workspace.manifest_file, manifest)


def read_splits(workspace: Workspace) -> dict[str, str]:
    manifest = read_manifest(workspace.manifest_file)
    return manifest[manifest["state"] == "ready"].set_index("image_id")["split"].to_dict()


@pytest.fixture
def drawn(workspace, write_rows) -> dict[str, str]:
    """Split of each of 20 normal and 20 lesion images in the workspace."""
    write_rows(workspace, 20, 20)
    split_manifest(workspace, 0.2, 0.2, seed=1)
    return read_splits(workspace)


@settings(max_examples=15, deadline=None, database=None)
@given(st.integers(3, 40), st.integers(3, 40), SEEDS, st.randoms(use_true_random=False))
def test_order_and_names_do_not_matter(tmp_path_factory, write_rows, num_normal, num_lesion, seed, shuffler):
    first, second = (Workspace(tmp_path_factory.mktemp("split")) for _ in range(2))
    manifest = write_rows(first, num_normal, num_lesion)
    report = split_manifest(first, 0.15, 0.15, seed)
    renamed = manifest.iloc[shuffler.sample(range(len(manifest)), len(manifest))].assign(
        entry=[f"renamed {number}" for number in range(len(manifest))]
    )
    write_manifest(second.manifest_file, renamed)
    assert split_manifest(second, 0.15, 0.15, seed) == report

    splits = [read_splits(workspace) for workspace in (first, second)]
    assert splits[0] == splits[1]
    label = manifest.set_index("image_id")["label"]
    found = Counter((split, label[image_id]) for image_id, split in splits[0].items())
    assert {(split, label): report.counts[split][label] for split in SPLITS for label in LABELS} == found
    for label, total in (("normal", num_normal), ("osseous_lesion", num_lesion)):
        assert sum(report.counts[split][label] for split in SPLITS) == total
        assert abs(report.counts["test"][label] - 0.15 * total) <= 1


@st.composite
def histories(draw):
    """What arrives month by month: each image with the patient that it shows, now and then of two at once."""
    months = []
    for month in range(draw(st.integers(2, 4))):
        size = 30 if month == 0 else draw(st.integers(1, 15))
        patients = st.integers(0, 25 if month == 0 else 40)
        months.append(draw(st.lists(st.sets(patients, min_size=1, max_size=1 if month == 0 else 2), min_size=size)))
    return months


@settings(max_examples=12, deadline=None, database=None)
@given(histories(), SEEDS, st.booleans())
def test_fault_71_no_group_ever_changes_its_split(tmp_path_factory, write_rows, history, seed, locks):
    workspace = Workspace(tmp_path_factory.mktemp("split"))
    patients, before, tested = [], {}, set()
    for month, new_images in enumerate(history):
        patients += new_images
        rows = write_rows(workspace, len(patients), 0)
        ids = list(rows["image_id"])
        rows["label"] = [LABELS[min(shown) % 2] for shown in patients]
        write_manifest(workspace.manifest_file, rows)
        regroup(workspace, dict(zip(ids, join(patients), strict=True)))
        try:
            report = split_manifest(workspace, 0.2, 0.2, seed + month)
        except SplitError as error:
            if month or "too few groups" not in str(error):
                raise
            return
        after = read_splits(workspace)
        assert {image_id: after[image_id] for image_id in before} == before
        assert set(after.values()) == set(SPLITS)
        assert len(after) + report.num_held_out == len(ids)
        if locks:
            lock_test_set(workspace)
            assert not tested or {image for image, split in after.items() if split == "test"} == tested
            tested = {image_id for image_id, split in after.items() if split == "test"}
        # No patient of a used image stands in two splits, unless an image that is held out shows both patients.
        manifest = read_manifest(workspace.manifest_file)
        used = manifest[manifest["state"] == "ready"]
        assert (used.groupby("group")["split"].nunique() == 1).all()
        single = {}
        for image_id, shown in zip(ids, patients, strict=True):
            for patient in shown if image_id in after else ():
                assert single.setdefault(patient, after[image_id]) == after[image_id]
        before = after


def join(patients: list[set[int]]) -> list[str]:
    """Group of each image: images with a patient in common, and what they connect."""
    joined: list[set[int]] = []
    for shown in patients:
        touched = [group for group in joined if group & shown]
        joined = [group for group in joined if not group & shown] + [set(shown).union(*touched)]
    groups = [next(group for group in joined if group & shown) for shown in patients]
    return [f"group {min(group)}" for group in groups]


def test_only_ready_images_are_split(workspace, write_rows):
    manifest = write_rows(workspace, 9, 9)
    manifest.loc[[0, 9], "state"] = ["duplicate", "quarantined"]
    write_manifest(workspace.manifest_file, manifest)
    report = split_manifest(workspace, 0.2, 0.2, seed=3)
    split = read_manifest(workspace.manifest_file)
    assert set(split.loc[split["state"] != "ready", "split"]) == {""}
    assert set(split.loc[split["state"] == "ready", "split"]) == set(SPLITS)
    assert report.counts == count_images(split)


def test_another_seed_changes_nothing_once_the_split_is_drawn(workspace, write_rows):
    write_rows(workspace, 20, 20)
    split_manifest(workspace, 0.15, 0.15, seed=1)
    drawn = read_splits(workspace)
    write_rows(workspace, 20, 20)
    report = split_manifest(workspace, 0.4, 0.4, seed=2)
    assert read_splits(workspace) == drawn
    assert report.num_kept == 40
    workspace.splits_file.unlink()
    write_rows(workspace, 20, 20)
    split_manifest(workspace, 0.15, 0.15, seed=2)
    assert read_splits(workspace) != drawn


def test_images_that_went_and_come_back_have_their_split(workspace, write_rows):
    rows = write_rows(workspace, 20, 20)
    split_manifest(workspace, 0.15, 0.15, seed=1)
    drawn = read_splits(workspace)
    write_manifest(workspace.manifest_file, rows.iloc[5:])
    split_manifest(workspace, 0.15, 0.15, seed=1)
    write_manifest(workspace.manifest_file, rows)
    split_manifest(workspace, 0.15, 0.15, seed=1)
    assert read_splits(workspace) == drawn


def test_fault_70_an_image_that_ties_two_splits_is_held_out(workspace, write_rows, drawn):
    trained, tested = (next(image for image, split in drawn.items() if split == name) for name in ("train", "test"))
    rows = write_rows(workspace, 20, 21)
    added = (set(rows["image_id"]) - set(drawn)).pop()
    regroup(workspace, dict.fromkeys((trained, tested, added), "tied"))
    report = split_manifest(workspace, 0.2, 0.2, seed=1)
    manifest = read_manifest(workspace.manifest_file).set_index("image_id")
    assert (report.num_held_out, manifest.loc[added, "state"], manifest.loc[added, "split"]) == (1, HELD_OUT, "")
    assert read_splits(workspace) == drawn
    assert manifest.loc[trained, "group"] != manifest.loc[tested, "group"]
    rows = write_rows(workspace, 20, 21)
    write_manifest(workspace.manifest_file, rows[rows["image_id"] != tested])
    assert split_manifest(workspace, 0.2, 0.2, seed=1).num_held_out == 1, "what was held out stays so, tie or no tie"


def test_fault_71_nothing_joins_a_locked_test_set(workspace, write_rows, drawn):
    locked = lock_test_set(workspace)
    tested = next(image for image, split in drawn.items() if split == "test")
    rows = write_rows(workspace, 20, 60)
    related, *_ = set(rows["image_id"]) - set(drawn)
    regroup(workspace, dict.fromkeys((tested, related), "related"))
    report = split_manifest(workspace, 0.2, 0.2, seed=1)
    after = read_splits(workspace)
    assert {image for image, split in after.items() if split == "test"} == {
        image for image, split in drawn.items() if split == "test"
    }
    assert related not in after
    assert report.num_held_out == 1
    num_trained, num_val = report.counts["train"]["osseous_lesion"], report.counts["val"]["osseous_lesion"]
    assert num_val / (num_val + num_trained) == pytest.approx(0.25, abs=0.02)
    assert lock_test_set(workspace) == locked


def test_a_changed_test_set_is_noticed(workspace, drawn):
    lock_test_set(workspace)
    splits = pd.read_parquet(workspace.splits_file)
    splits.loc[splits["split"] == "test", "split"] = "train"
    splits.to_parquet(workspace.splits_file)
    for notice in (lock_test_set, lambda workspace: split_manifest(workspace, 0.2, 0.2, seed=1)):
        with pytest.raises(WorkspaceError, match=r"test_set\.json"):
            notice(workspace)


def test_prescribed_splits_are_kept(workspace, write_rows):
    rows = write_rows(workspace, 12, 12)
    rows["split"] = [SPLITS[number % 3] for number in range(24)]
    write_manifest(workspace.manifest_file, rows)
    report = split_manifest(workspace, 0.15, 0.15, seed=1)
    assert read_splits(workspace) == rows.set_index("image_id")["split"].to_dict()
    assert (report.num_prescribed, report.num_kept) == (24, 0)
    rows["split"] = rows["split"].map({"train": "val", "val": "train", "test": "test"})
    write_manifest(workspace.manifest_file, rows)
    with pytest.raises(SplitError, match=r"moves 16 images .* and 6 more"):
        split_manifest(workspace, 0.15, 0.15, seed=1)


def tie(workspace: Workspace, *ties: tuple[str, str, str]) -> None:
    """Write ties (SHA-256, kind, key), one group per key, as grouping does."""
    rows = pd.DataFrame(ties, columns=["sha256", "kind", "key"])
    rows.assign(group=pd.factorize(rows["key"])[0]).to_parquet(workspace.ties_file)


def read_states(workspace: Workspace) -> dict[str, str]:
    return read_manifest(workspace.manifest_file).set_index("image_id")["state"].to_dict()


@pytest.mark.parametrize("run", ["once", "again"])
def test_fault_70_related_images_in_several_given_splits_are_held_out_of_training(workspace, write_rows, run):
    """Groups of train, val and test; of val and test; of train and val; and one that is whole."""
    rows = write_rows(workspace, 18, 18)
    rows["split"] = [SPLITS[number % 3] for number in range(36)]
    write_manifest(workspace.manifest_file, rows)
    ids = list(rows["image_id"])
    divided = {
        **dict.fromkeys(ids[:3], "all"),
        **dict.fromkeys((ids[4], ids[5]), "val and test"),
        **dict.fromkeys((ids[6], ids[7], ids[9]), "train and val"),
        **dict.fromkeys((ids[12], ids[15]), "train"),
    }
    regroup(workspace, divided)
    before = read_manifest(workspace.manifest_file)
    report = split_manifest(workspace, 0.15, 0.15, seed=1)
    if run == "again":
        write_manifest(workspace.manifest_file, before)
        report = split_manifest(workspace, 0.15, 0.15, seed=2)
    held_out = {ids[number] for number in (0, 1, 4, 6, 9)}
    assert {image_id for image_id, state in read_states(workspace).items() if state == HELD_OUT} == held_out
    prescribed = rows.set_index("image_id")["split"].drop(list(held_out)).to_dict()
    assert read_splits(workspace) == prescribed, "what is left stands where it was given"
    assert report.given.num_images == {"train": 12, "val": 12, "test": 12}
    assert report.given.num_held_out == {"train": 3, "val": 2}
    assert report.given.num_divided_groups == 3
    assert report.given.num_drawn == {}


def test_fault_71_given_training_images_never_join_a_test_image_of_an_earlier_run(workspace, write_rows, drawn):
    chosen = {name: next(image for image, split in drawn.items() if split == name) for name in SPLITS}
    rows = write_rows(workspace, 20, 26)
    new = [image_id for image_id in rows["image_id"] if image_id not in drawn]
    given = dict(zip(new, ("train", "val", "test", "train", "train+val", "train+val"), strict=True))
    rows["split"] = rows["image_id"].map(given).fillna("")
    write_manifest(workspace.manifest_file, rows)
    regroup(
        workspace,
        {
            **dict.fromkeys((chosen["test"], new[0], new[1], new[4]), "tested"),
            **dict.fromkeys((chosen["train"], new[2], new[3]), "trained"),
            **dict.fromkeys((chosen["val"], new[5]), "validated"),
        },
    )
    report = split_manifest(workspace, 0.2, 0.2, seed=1)
    states = read_states(workspace)
    assert [states[image_id] for image_id in new] == [HELD_OUT] * 3 + ["ready", HELD_OUT, "ready"]
    after = read_splits(workspace)
    assert (after[new[3]], after[new[5]]) == ("train", "val")
    assert {image_id: after[image_id] for image_id in drawn} == drawn
    assert report.given.num_held_out == {"train": 2, "val": 1, "test": 1}


@pytest.mark.parametrize(("open_split", "lacking"), [("train+val", "val"), ("train+test", "test")])
def test_a_part_that_the_source_lacks_is_drawn_from_training_alone(workspace, write_rows, open_split, lacking):
    rows = write_rows(workspace, 40, 40)
    other = {"val": "test", "test": "val"}[lacking]
    rows["split"] = [other if number % 4 == 0 else open_split for number in range(80)]
    write_manifest(workspace.manifest_file, rows)
    pairs = {
        image_id: f"pair {number // 4}" for number, image_id in enumerate(rows["image_id"]) if number % 4 in (1, 2)
    }
    regroup(workspace, pairs)
    before = read_manifest(workspace.manifest_file)
    report = split_manifest(workspace, 0.2, 0.2, seed=1)
    splits = read_splits(workspace)
    given = set(rows.loc[rows["split"] == other, "image_id"])
    assert {image_id for image_id, split in splits.items() if split == other} == given
    drawn = [image_id for image_id, split in splits.items() if split == lacking]
    assert len(drawn) == pytest.approx(60 * 0.25, abs=2), "a fifth of all in relation to the four fifths that are left"
    assert report.given.num_drawn == {lacking: len(drawn)}
    manifest = read_manifest(workspace.manifest_file)
    assert (manifest.groupby("group")["split"].nunique() == 1).all()
    write_manifest(workspace.manifest_file, before)
    assert split_manifest(workspace, 0.2, 0.2, seed=2).given == report.given
    assert read_splits(workspace) == splits, "drawn once"


def test_a_given_split_that_leaves_a_part_empty_is_reported_with_the_way_out(workspace, write_rows):
    rows = write_rows(workspace, 9, 9)
    rows["split"] = ["train", "val", "test"] * 3 + ["train", "val"] * 4 + ["train"]
    write_manifest(workspace.manifest_file, rows)
    with pytest.raises(SplitError, match=r"osseous_lesion in test .*--data\.given-split ignore"):
        split_manifest(workspace, 0.15, 0.15, seed=1)


def test_a_largest_group_is_reported_with_its_evidence(workspace, write_rows):
    rows = write_rows(workspace, 9, 9)
    rows["evidence"] = "patient_pattern"
    write_manifest(workspace.manifest_file, rows)
    regroup(workspace, dict.fromkeys(rows["image_id"][:16], "one"))
    with pytest.raises(SplitError, match=r"16 of 18 images.* patient_pattern"):
        split_manifest(workspace, 0.15, 0.15, seed=1)


@pytest.mark.parametrize("kind", EXAMINATION_EVIDENCE)
def test_earlier_images_of_one_examination_in_two_splits_are_held_out_of_the_lower_one(workspace, write_rows, kind):
    rows = write_rows(workspace, 12, 12)
    rows["split"] = [SPLITS[number % 3] for number in range(24)]
    write_manifest(workspace.manifest_file, rows)
    tie(workspace)
    split_manifest(workspace, 0.15, 0.15, seed=1)
    tie(workspace, *((sha256, kind, "torn") for sha256 in rows["sha256"][:3]))
    split_manifest(workspace, 0.15, 0.15, seed=1)
    states = read_states(workspace)
    assert [states[image_id] for image_id in rows["image_id"][:3]] == [HELD_OUT, HELD_OUT, "ready"]
    assert list(states.values()).count(HELD_OUT) == 2


def test_ties_that_show_between_images_of_earlier_runs_are_refused(workspace, write_rows):
    rows = write_rows(workspace, 12, 12)
    rows["split"] = [SPLITS[number % 3] for number in range(24)]
    write_manifest(workspace.manifest_file, rows)
    first, second, _, fourth = rows["sha256"][:4]
    tie(workspace, *((sha256, "similar", "near") for sha256 in (first, fourth)))
    split_manifest(workspace, 0.15, 0.15, seed=1)
    tie(workspace, *((sha256, "similar", "torn") for sha256 in (first, second)))
    with pytest.raises(SplitError, match="1 pairs"):
        split_manifest(workspace, 0.15, 0.15, seed=1)
    tie(workspace, (first, "patient_id", "hash"), (second, "patient_pattern", "hash"))
    with pytest.raises(SplitError, match="1 patients") as caught:
        split_manifest(workspace, 0.15, 0.15, seed=1)
    assert first[:16] in str(caught.value)


def test_a_new_image_joins_related_images_that_the_source_no_longer_holds(workspace, write_rows):
    """A re-encoded copy of an image that was tested must not be trained on, though its original is gone."""
    rows = write_rows(workspace, 20, 20)
    split_manifest(workspace, 0.2, 0.2, seed=1)
    manifest = read_manifest(workspace.manifest_file).set_index("split")["sha256"]
    for split, expected in (("val", "val"), ("test", "test")):
        gone = manifest[split].iloc[0]
        copy = rows["image_id"].str.replace("^", "new", regex=True)[0]
        arrived = rows[rows["sha256"] != gone].copy()
        arrived.loc[arrived.index[-1], ["image_id", "sha256", "group"]] = [copy, "f" * 63 + split[0], copy]
        write_manifest(workspace.manifest_file, arrived)
        tie(workspace, *((sha256, "similar", "same") for sha256 in (gone, "f" * 63 + split[0])))
        split_manifest(workspace, 0.2, 0.2, seed=1)
        assert read_splits(workspace)[copy] == expected
    lock_test_set(workspace)
    arrived.loc[arrived.index[-1], ["image_id", "sha256", "group"]] = ["late", "e" * 64, "late"]
    write_manifest(workspace.manifest_file, arrived)
    tie(workspace, *((sha256, "similar", "same") for sha256 in (gone, "e" * 64)))
    assert split_manifest(workspace, 0.2, 0.2, seed=1).num_held_out == 1


def test_the_table_cannot_add_to_a_locked_test_set(workspace, write_rows, drawn):
    locked = lock_test_set(workspace)
    rows = write_rows(workspace, 20, 21)
    rows.loc[rows.index[-1], "split"] = "test"
    write_manifest(workspace.manifest_file, rows)
    assert split_manifest(workspace, 0.2, 0.2, seed=1).num_held_out == 1
    assert lock_test_set(workspace) == locked


def test_a_damaged_record_of_splits_is_an_error(workspace, write_rows):
    write_rows(workspace, 9, 9)
    Path(workspace.splits_file).write_bytes(b"PAR1")
    with pytest.raises(WorkspaceError, match=r"splits\.parquet"):
        split_manifest(workspace, 0.15, 0.15, seed=1)


def test_no_other_column_is_touched(workspace, write_rows):
    before = write_rows(workspace, 5, 5).sort_values("image_id", ignore_index=True)
    split_manifest(workspace, 0.2, 0.2, seed=0)
    after = read_manifest(workspace.manifest_file)
    pd.testing.assert_frame_equal(
        after.drop(columns="split"), before[list(after.columns)].drop(columns="split"), check_dtype=False
    )


def test_fault_69_too_few_groups_are_refused_with_the_counts(workspace, write_rows):
    rows = write_rows(workspace, 9, 9)
    lesions = list(rows.loc[rows["label"] == "osseous_lesion", "image_id"])
    regroup(workspace, {image_id: f"patient {number % 2}" for number, image_id in enumerate(lesions)})
    before = workspace.manifest_file.read_bytes()
    with pytest.raises(SplitError) as caught:
        split_manifest(workspace, 0.15, 0.15, seed=1)
    assert "no osseous_lesion in " in str(caught.value)
    assert "(normal 9 images in 9 groups, osseous_lesion 9 images in 2 groups)" in str(caught.value)
    assert workspace.manifest_file.read_bytes() == before
    assert not workspace.splits_file.exists()


def test_three_images_per_class_are_enough(workspace, write_rows):
    write_rows(workspace, 3, 3)
    report = split_manifest(workspace, 0.15, 0.15, seed=random.randrange(2**32))
    assert report.counts == {split: {"normal": 1, "osseous_lesion": 1} for split in SPLITS}


def test_fractions_that_leave_nothing_to_train_are_rejected(workspace, write_rows):
    write_rows(workspace, 9, 9)
    with pytest.raises(SplitError, match=r"^data: val_fraction 0\.5 and test_fraction 0\.5 "):
        split_manifest(workspace, 0.5, 0.5, seed=1)
