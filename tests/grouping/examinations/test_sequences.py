"""Orders are read from running numbers, whatever stands around them."""

import pandas as pd
import pytest

from hip_mri.dataset.manifest import ADDED_COLUMNS
from hip_mri.grouping.examinations.sequences import list_sequences


def find_order(names: list[str], slices: list[int] | None = None, **facts: object) -> list[list[str]]:
    """The names of each sequence, in order."""
    images = pd.DataFrame(
        {"sha256": names, "delivery": "d", "source_name": [name.partition("#")[0] for name in names]}
    ).assign(**ADDED_COLUMNS | {"slice": slices or 0, "series": "", "position": float("nan")} | facts)
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


def test_times_of_acquisition_count_instead_of_file_names():
    names = ["n/f3.dcm", "n/a9.dcm", "n/c1.dcm", "n/b.dcm", "n/e7.dcm"]
    assert find_order(names, acquired=[1.0, 2.0, 3.0, 4.0, 5.0]) == [names]
    folders = ["n/2/x.dcm", "n/2/y.dcm", "n/10/a.dcm", "m/10/a.dcm"]
    assert find_order(folders, acquired=[8.0, 9.0, 1.0, 2.0]) == [folders[:3]]


def test_at_one_time_series_and_instance_numbers_count():
    names = ["n/c.dcm", "n/a.dcm", "n/d.dcm", "n/b.dcm"]
    assert find_order(names, acquired=1.0, series_number=[2, 2, 10, 10], instance_number=[9, 10, 1, 2]) == [names]


def test_images_of_a_study_and_of_a_series_follow_each_other_from_the_first_one():
    """Two scanners at a time, and slices that are not acquired in the order of their positions."""
    names = ["n/0.dcm", "n/1.dcm", "n/2.dcm", "n/3.dcm", "n/4.dcm", "n/5.dcm", "n/6.dcm"]
    facts = {"study": ["A", "A", "A", "A", "B", "B", ""], "series": ["a", "a", "a", "b", "c", "c", "d"]}
    times = [1, 3, 2, 6, 4, 5, 7]
    assert find_order(names, acquired=times, instance_number=[1, 2, 3, 1, 1, 2, 1], **facts) == [names]
    assert find_order(names, acquired=times, position=[-1.5, 0, 1.5, 0, 0, 1.5, 0], **facts) == [names]


def test_without_times_studies_and_series_follow_in_the_order_of_their_first_file():
    names = ["n/1.dcm", "n/4.dcm", "n/2.dcm", "n/3.dcm", "n/5.dcm"]
    series = ["a", "a", "b", "b", ""]
    assert find_order(names, series=series, instance_number=[1, 2, 2, 10, 1]) == [names]
