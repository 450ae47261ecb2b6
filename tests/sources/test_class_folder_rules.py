"""Which paths are images, and what a message says of folders that are not as needed."""

import pytest

from hip_mri.errors import SourceError
from hip_mri.sources.class_folders import label_names

NEEDED = "Needed are two class folders with images, normal and osseous_lesion, at the same depth, and no third."

LITTER = ["__MACOSX/normal/._n0.png", "normal/._n0.png", "normal/.DS_Store", "osseous_lesion/deeper/desktop.ini"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "it contains no images. "),
        (LITTER, "it contains no images; 4 hidden or system files"),
        (["normal/a.png"], "found the folders normal; missing or empty: osseous_lesion. "),
        (
            ["normal/a.png", "osseous_lesion/a.png", "fracture/a.png"],
            "found the folders normal, osseous_lesion and 1 of another name; unknown: 1 of another name. ",
        ),
        (
            ["a/normal/x.png", "osseous_lesion/x.png"],
            "found the folders osseous_lesion and 1 of another name; unknown: 1 of another name; "
            "missing or empty: normal. ",
        ),
        (["a.png", "cats/b.png"], "found no class folder, but files at the top and files in 1 folder at level 1. "),
        (["normal.png", "osseous_lesion"], "found no class folder, but files at the top. "),
    ],
)
def test_wrong_folders_are_named_where_they_are_meant_for_right_ones(names, message):
    with pytest.raises(SourceError) as caught:
        label_names(sorted(names))
    assert f"source: {message}" in str(caught.value)
    assert NEEDED in str(caught.value)
    assert not any(name in str(caught.value) for name in ("fracture", "cats"))


def test_fault_53_many_wrong_folders_are_counted_and_none_is_named():
    names = [f"Müller {number:02}/a.png" for number in range(14)] + ["normal/a.png", "osseous_lesion/a.png"]
    with pytest.raises(SourceError) as caught:
        label_names(sorted(names))
    assert "; unknown: 14 of other names. Needed" in str(caught.value)
    assert "Müller" not in str(caught.value)


def test_fault_53_folders_of_patients_without_classes_are_counted_with_their_depth():
    names = ["Mueller_Anna_1953-02-01/T1/a.png", "Mueller_Anna_1953-02-01/T2/a.png", "Smith_John/a.png"]
    with pytest.raises(SourceError) as caught:
        label_names(names)
    assert "files in 3 folders at levels 1 to 2" in str(caught.value)
    assert not any(name in str(caught.value) for name in ("Mueller", "Smith", "T1"))


@pytest.mark.parametrize("folder", ["normal 4711", "normal_1953-02-01", "Normal 李", "normal (Müller)", "abnormal"])
def test_fault_53_a_label_with_more_than_another_spelling_is_not_named(folder):
    with pytest.raises(SourceError) as caught:
        label_names(["normal/a.png", "osseous_lesion/a.png", f"{folder}/a.png"])
    assert "; unknown: 1 of another name. Needed" in str(caught.value)
    assert folder not in str(caught.value)
