"""Which paths are images, and what a message says of folders that are not as needed."""

import pytest

from hip_mri.errors import SourceError
from hip_mri.sources.class_folders import label_names

NEEDED = "Needed are two class folders with images, normal and osseous_lesion, at the same depth, and no third."

HIDDEN = (
    "Names of other folders are not shown, since they can identify patients: look at them in the source. "
    "--data.class-names maps other names of the classes, and a table can give labels instead of folders."
)

LITTER = ["__MACOSX/normal/._n0.png", "normal/._n0.png", "normal/.DS_Store", "osseous_lesion/deeper/desktop.ini"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], f"source: it holds no images. {NEEDED}"),
        (
            LITTER,
            "source: it holds no images; 4 hidden or system files, or files in hidden, system or thumbnail folders, "
            f"are ignored. {NEEDED}",
        ),
        (["normal/a.png"], f"source: found the folders normal; missing or empty: osseous_lesion. {NEEDED}"),
        (
            ["normal/a.png", "osseous_lesion/a.png", "fracture/a.png"],
            "source: found the folders normal, osseous_lesion and 1 of another name; unknown: 1 of another name. "
            f"{NEEDED} {HIDDEN}",
        ),
        (
            ["a/normal/x.png", "osseous_lesion/x.png"],
            "source: found the folders osseous_lesion and 1 of another name; unknown: 1 of another name; "
            f"missing or empty: normal. {NEEDED} {HIDDEN}",
        ),
        (
            ["a.png", "cats/b.png"],
            f"source: found no class folder, but files at the top and files in 1 folder at level 1. {NEEDED} {HIDDEN}",
        ),
        (["normal.png", "osseous_lesion"], f"source: found no class folder, but files at the top. {NEEDED}"),
    ],
)
def test_wrong_folders_are_named_where_they_are_meant_for_right_ones(names, message):
    with pytest.raises(SourceError) as caught:
        label_names(sorted(names))
    assert str(caught.value) == message


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
    assert str(caught.value) == (
        f"source: found no class folder, but files in 3 folders at levels 1 to 2. {NEEDED} {HIDDEN}"
    )


@pytest.mark.parametrize("folder", ["normal 4711", "normal_1953-02-01", "Normal 李", "normal (Müller)", "abnormal"])
def test_fault_53_a_label_with_more_than_another_spelling_is_not_named(folder):
    with pytest.raises(SourceError) as caught:
        label_names(["normal/a.png", "osseous_lesion/a.png", f"{folder}/a.png"])
    assert "; unknown: 1 of another name. Needed" in str(caught.value)
    assert folder not in str(caught.value)
