"""Class folders in any spelling, below wrappers, and with other names; never in silence the wrong class."""

import unicodedata
from collections import Counter

import pytest

from hip_mri.config import DataSettings
from hip_mri.errors import SettingsError, SourceError
from hip_mri.sources.class_folders import label_names
from hip_mri.sources.class_names import ClassNames


def label(*names: str, **options) -> dict[str, str]:
    return dict(label_names(sorted(names), **options)[0])


@pytest.mark.parametrize(
    ("normal", "lesion"),
    [
        ("Normal", "Osseous Lesion"),
        ("NORMALS", "OSSEOUS_LESIONS"),
        ("normal ", "osseous-lesions"),
        ("normal", "OsseousLesion"),
        ("Normal", "osseous lesion"),
    ],
)
def test_class_folders_are_known_in_any_spelling(normal, lesion):
    found = label(f"a/{normal}/1.png", f"a/{lesion}/2.png")
    assert found == {f"a/{normal}/1.png": "normal", f"a/{lesion}/2.png": "osseous_lesion"}


def test_two_spellings_are_taken_together_and_told(caplog):
    found = label("Normal/1.png", "normal/2.png", "osseous_lesion/3.png")
    assert Counter(found.values()) == {"normal": 2, "osseous_lesion": 1}
    assert "Folders in 2 spellings are combined to normal" in caplog.text


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_other_names_are_mapped_in_either_unicode_form(form):
    known = ClassNames({"Gesunde Hüfte": "normal", "läsion": "osseous_lesion"})
    names = [unicodedata.normalize(form, name) for name in ("gesunde_hüfte/1.png", "Läsionen/2.png", "Läsion/2.png")]
    assert label(*(names[0], names[2]), class_names=known) == {names[0]: "normal", names[2]: "osseous_lesion"}
    with pytest.raises(SourceError, match="unknown: 1 "):
        label(*names, class_names=known)


def test_the_names_themselves_count_beside_mapped_ones():
    known = ClassNames({"healthy": "normal"})
    found = label("healthy/1.png", "normal/2.png", "osseous_lesion/3.png", class_names=known)
    assert Counter(found.values()) == {"normal": 2, "osseous_lesion": 1}


@pytest.mark.parametrize(
    "class_names", [{"normal": "osseous_lesion"}, {"a b": "normal", "A_B": "osseous_lesion"}, {" ": "normal"}]
)
def test_a_name_stands_for_one_class(class_names):
    with pytest.raises(ValueError, match="class_names"):
        DataSettings(class_names=class_names)
    with pytest.raises(SettingsError, match=r"^data\.class_names: "):
        ClassNames(class_names)


@pytest.mark.parametrize("wrapper", ["normal", "Normal/normal", "osseous_lesion", "data/normal"])
@pytest.mark.parametrize("needs_all_classes", [True, False])
def test_a_wrapper_named_like_a_class_is_none(wrapper, needs_all_classes):
    names = (f"{wrapper}/normal/1.png", f"{wrapper}/osseous_lesion/2.png", "readme.txt", f"{wrapper}/readme.txt")
    found = label(*names, needs_all_classes=needs_all_classes)
    assert found == {names[0]: "normal", names[1]: "osseous_lesion"}


@pytest.mark.parametrize(
    "names",
    [
        ("normal/osseous_lesion/1.png",),
        ("osseous_lesion/normal/1.png",),
        ("normal/osseous_lesion/1.png", "normal/2.png"),
        ("normal/1.png", "normal/osseous_lesion/2.png", "osseous_lesion/3.png"),
        ("normal/normal/1.png", "normal/osseous_lesion/2.png", "osseous_lesion/normal/3.png"),
    ],
)
def test_a_path_that_names_both_classes_never_becomes_either(names):
    with pytest.raises(SourceError, match="folders of both classes"):
        label(*names, needs_all_classes=False)


def test_images_beside_class_folders_in_such_a_wrapper_are_told():
    with pytest.raises(SourceError, match="2 other images"):
        label("normal/1.png", "normal/2.dcm", "normal/notes.txt", "normal/normal/3.png", "normal/osseous_lesion/4.png")


def test_the_same_class_twice_in_a_path_is_fine():
    assert label("normal/normal/1.png", needs_all_classes=False) == {"normal/normal/1.png": "normal"}


@pytest.mark.parametrize("layout", ["P{}/{}/1.png", "site/P{}/{}/1.png", "{1}/P{0}/1.png"])
def test_folders_of_patients_may_stand_above_or_below(layout):
    names = [layout.format(number, label) for number in range(3) for label in ("normal", "osseous_lesion")]
    assert Counter(label(*names).values()) == {"normal": 3, "osseous_lesion": 3}


def test_a_patient_may_have_one_class_alone():
    names = ("P1/normal/1.png", "P2/osseous_lesion/1.png", "P3/Normal/1.png")
    assert list(label(*names).values()) == ["normal", "osseous_lesion", "normal"]


@pytest.mark.parametrize("suffix", ["zip", "tar.gz", "7z", "rar", "tgz"])
def test_an_archive_of_archives_is_told(suffix):
    with pytest.raises(SourceError, match="2 of its 3 files are archives"):
        label(f"a.{suffix}", f"b.{suffix}", "readme.txt")
