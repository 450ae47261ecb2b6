import math
import random
from collections import Counter

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hip_mri.config import LABELS, SPLITS
from hip_mri.data.manifest import read_manifest, write_manifest
from hip_mri.data.split import assign_splits, count_images, split_manifest
from hip_mri.errors import SplitError
from hip_mri.workspace import Workspace

IMAGE_IDS = st.lists(st.integers(0, 2**64 - 1).map("{:016x}".format), min_size=3, max_size=120, unique=True)
FRACTIONS = st.floats(0.01, 0.49)
SEEDS = st.integers(0, 2**32 - 1)
quick = settings(max_examples=80, deadline=None, database=None)


def share_out(image_ids, val_fraction=0.2, test_fraction=0.2, seed=7) -> dict[str, str]:
    return assign_splits(pd.Series(image_ids), val_fraction, test_fraction, seed).to_dict()


@quick
@given(IMAGE_IDS, FRACTIONS, FRACTIONS, SEEDS)
def test_each_image_is_in_exactly_one_split(image_ids, val_fraction, test_fraction, seed):
    splits = assign_splits(pd.Series(image_ids), val_fraction, test_fraction, seed)
    assert splits.index.is_unique
    assert set(splits.index) == set(image_ids)
    assert set(splits) <= set(SPLITS)


@quick
@given(IMAGE_IDS, FRACTIONS, FRACTIONS, SEEDS)
def test_shares_are_met_within_rounding(image_ids, val_fraction, test_fraction, seed):
    counts = Counter(share_out(image_ids, val_fraction, test_fraction, seed).values())
    given_away = 0
    for split, fraction in {"val": val_fraction, "test": test_fraction}.items():
        rounded = max(1, round(fraction * len(image_ids)))
        assert counts[split] in (rounded, rounded - 1)
        given_away += rounded - counts[split]
    assert given_away == 0 or (given_away, counts["train"]) == (1, 1)
    assert counts["train"] + counts["val"] + counts["test"] == len(image_ids)


@quick
@given(IMAGE_IDS, SEEDS, st.randoms(use_true_random=False))
def test_order_does_not_matter(image_ids, seed, shuffler):
    shuffled = shuffler.sample(image_ids, len(image_ids))
    assert share_out(shuffled, seed=seed) == share_out(image_ids, seed=seed)


@pytest.mark.parametrize("fraction", [0.15, 0.3])
@pytest.mark.parametrize("num_images", [3, 5, 10, 50])
def test_every_split_gets_an_image(num_images, fraction):
    assert set(share_out([f"{number:016x}" for number in range(num_images)], fraction, fraction).values()) == set(
        SPLITS
    )


@pytest.mark.parametrize(("num_images", "fraction"), [(4, 0.4), (6, 0.49), (40, 0.49)])
def test_large_shares_leave_at_least_one_image_to_train(num_images, fraction):
    """Both shares rounded up can add up to all images."""
    splits = share_out([f"{number:016x}" for number in range(num_images)], fraction, fraction).values()
    assert set(splits) == set(SPLITS)


def test_the_larger_share_gives_the_image_to_train():
    assert Counter(share_out(["a", "b", "c"], 0.05, 0.9).values()) == {"train": 1, "val": 1, "test": 1}
    assert Counter(share_out(["a", "b", "c", "d"], 0.2, 0.75).values()) == {"train": 1, "val": 1, "test": 2}


def test_another_seed_is_another_split():
    image_ids = [f"{number:016x}" for number in range(60)]
    splits = {tuple(sorted(share_out(image_ids, seed=seed).items())) for seed in range(50)}
    assert len(splits) == 50


def test_over_many_seeds_each_image_is_tested_as_often_as_the_share_says():
    image_ids = [f"{number:016x}" for number in range(20)]
    num_seeds, fraction = 600, 0.2
    tested = Counter(
        image_id
        for seed in range(num_seeds)
        for image_id, split in share_out(image_ids, seed=seed).items()
        if split == "test"
    )
    five_deviations = 5 * math.sqrt(num_seeds * fraction * (1 - fraction))
    assert all(abs(tested[image_id] - num_seeds * fraction) < five_deviations for image_id in image_ids)


def test_one_image_more_moves_hardly_any_other():
    """At most one image on each of the two borders between the splits."""
    image_ids = [f"{number:016x}" for number in range(80)]
    for added in range(20):
        before, after = share_out(image_ids), share_out([*image_ids, f"{1000 + added:016x}"])
        assert sum(before[image_id] != after[image_id] for image_id in image_ids) <= 2


@settings(max_examples=12, deadline=None, database=None)
@given(st.integers(3, 40), st.integers(3, 40), SEEDS, st.randoms(use_true_random=False))
def test_the_manifest_is_split_class_by_class_whatever_its_order_and_names(
    tmp_path_factory, write_rows, num_normal, num_lesion, seed, shuffler
):
    first, second = (Workspace(tmp_path_factory.mktemp("split")) for _ in range(2))
    manifest = write_rows(first, num_normal, num_lesion)
    counts = split_manifest(first, 0.15, 0.15, seed)
    renamed = manifest.iloc[shuffler.sample(range(len(manifest)), len(manifest))].assign(
        source_name=[f"renamed {number}" for number in range(len(manifest))]
    )
    write_manifest(second.manifest_file, renamed)
    assert split_manifest(second, 0.15, 0.15, seed) == counts

    splits = [read_manifest(workspace.manifest_file).set_index("image_id")["split"] for workspace in (first, second)]
    pd.testing.assert_series_equal(*splits)
    found = Counter(zip(splits[0], manifest.set_index("image_id").loc[splits[0].index, "label"], strict=True))
    assert {(split, label): counts[split][label] for split in SPLITS for label in LABELS} == found
    for label, total in (("normal", num_normal), ("osseous_lesion", num_lesion)):
        assert sum(counts[split][label] for split in SPLITS) == total
        assert abs(counts["test"][label] - 0.15 * total) <= 1


def test_only_ready_images_are_split(workspace, write_rows):
    manifest = write_rows(workspace, 9, 9)
    manifest.loc[[0, 9], "state"] = ["duplicate", "quarantined"]
    write_manifest(workspace.manifest_file, manifest)
    counts = split_manifest(workspace, 0.2, 0.2, seed=3)
    split = read_manifest(workspace.manifest_file)
    assert set(split.loc[split["state"] != "ready", "split"]) == {""}
    assert "" not in set(split.loc[split["state"] == "ready", "split"])
    assert sum(sum(by_label.values()) for by_label in counts.values()) == 16
    assert counts == count_images(split)


def test_splitting_again_starts_afresh(workspace, write_rows):
    write_rows(workspace, 20, 20)
    split_manifest(workspace, 0.15, 0.15, seed=1)
    first = workspace.manifest_file.read_bytes()
    split_manifest(workspace, 0.4, 0.4, seed=2)
    assert workspace.manifest_file.read_bytes() != first
    split_manifest(workspace, 0.15, 0.15, seed=1)
    assert workspace.manifest_file.read_bytes() == first


def test_no_other_column_is_touched(workspace, write_rows):
    before = write_rows(workspace, 5, 5).sort_values("image_id", ignore_index=True)
    split_manifest(workspace, 0.2, 0.2, seed=0)
    after = read_manifest(workspace.manifest_file)
    pd.testing.assert_frame_equal(after.drop(columns="split"), before.drop(columns="split"), check_dtype=False)


@pytest.mark.parametrize(("num_normal", "num_lesion"), [(2, 9), (9, 2), (0, 9), (2, 2)])
def test_too_few_images_are_refused_with_the_counts(workspace, write_rows, num_normal, num_lesion):
    write_rows(workspace, num_normal, num_lesion)
    before = workspace.manifest_file.read_bytes()
    with pytest.raises(SplitError) as caught:
        split_manifest(workspace, 0.15, 0.15, seed=1)
    assert str(caught.value) == (
        "source: too few usable images for a split into train, val, test: "
        f"normal {num_normal}, osseous_lesion {num_lesion}. "
        "Each class needs at least 3; add images, or look into quarantine.csv for refused ones."
    )
    assert workspace.manifest_file.read_bytes() == before


def test_three_images_per_class_are_enough(workspace, write_rows):
    write_rows(workspace, 3, 3)
    assert split_manifest(workspace, 0.15, 0.15, seed=random.randrange(2**32)) == {
        split: {"normal": 1, "osseous_lesion": 1} for split in SPLITS
    }


def test_shares_that_leave_nothing_to_train_are_refused(workspace, write_rows):
    write_rows(workspace, 9, 9)
    with pytest.raises(SplitError, match=r"^data: val_fraction 0\.5 and test_fraction 0\.5 leave nothing to train\. "):
        split_manifest(workspace, 0.5, 0.5, seed=1)
