"""Orders are read from running numbers, whatever stands around them."""

import pandas as pd
import pytest

from hip_mri.grouping.examinations.sequences import list_sequences


def find_order(names: list[str], slices: list[int] | None = None) -> list[list[str]]:
    """The names of each sequence, in order."""
    images = pd.DataFrame(
        {"sha256": names, "delivery": "d", "source_name": [name.partition("#")[0] for name in names]}
    ).assign(slice=slices or 0)
    order = list_sequences(images.sample(frac=1, random_state=1))
    assert (order.groupby("sequence")["place"].agg(list).map(lambda places: places == sorted(places))).all()
    return [list(rows["sha256"]) for _, rows in order.groupby("sequence")]


@pytest.mark.parametrize(
    "names",
    [
        ["normal/hip9.png", "normal/hip10.png", "normal/hip000011.png", "normal/hip300.JPG"],
        ["MR/normal/case2/IM-0001-0003.dcm", "MR/normal/case2/IM-0001-0020.dcm", "MR/normal/case10/IM-0001-0001.dcm"],
        ["normal/001", "normal/2", "normal/0010"],
        ["normal/p1_t1 (1).tif", "normal/p1_t1 (2).tif", "normal/p1_t1 (11).tif"],
    ],
)
def test_numbers_count_as_numbers(names):
    assert find_order(names) == [names]


def test_class_folders_and_prefixes_have_orders_of_their_own():
    normal, lesion = ([f"{folder}/{number}.png" for number in range(1, 5)] for folder in ("normal", "osseous_lesion"))
    other = [f"normal/b{number}.png" for number in range(3)]
    assert sorted(find_order([*lesion, *normal, *other])) == sorted([normal, lesion, other])


def test_slices_follow_each_other_within_their_file():
    assert find_order(["n/1.nii.gz#0", "n/1.nii.gz#1", "n/1.nii.gz#2", "n/2.nii.gz#0"], [0, 1, 2, 0]) == [
        ["n/1.nii.gz#0", "n/1.nii.gz#1", "n/1.nii.gz#2", "n/2.nii.gz#0"]
    ]


def test_names_without_numbers_and_short_sequences_have_no_order():
    assert find_order(["normal/a.png", "normal/b.png", "normal/c.png", "normal/x1.png", "normal/x2.png"]) == []
