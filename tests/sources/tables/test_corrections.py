"""Tables of label corrections: lines that cannot be used are all named, and lines find their images."""

import pandas as pd
import pytest

from hip_mri.errors import SettingsError
from hip_mri.sources.class_names import ClassNames
from hip_mri.sources.tables.corrections import find_corrected, parse_corrections, read_corrections

A, B, C, D = (digit * 64 for digit in "abcd")
IMAGES = pd.DataFrame(
    [
        (A, "one", "hip/normal/MÜLLER 1.png"),
        (B, "one", "hip/normal/2.png"),
        (C, "one", "hip/volumes/2.png"),
        (D, "one", "stack.nii"),
        (A, "two", "stack.nii.png"),
        (B, "one", "stack.nii"),
    ],
    columns=["content", "delivery", "source_name"],
)


def parse(text: str):
    return parse_corrections(text.encode(), ClassNames({"healthy": "normal"}))


def find(text: str, earlier=()) -> dict[str, str]:
    return find_corrected(IMAGES, parse(text), earlier).to_dict()


@pytest.mark.parametrize(
    "text",
    [
        f"image_id,label,who,when,why\n{A[:16]},osseous_lesion,Ada,2026-01-01,seen\n{B[:16]},exclude,,,\n",
        f"\ufeffImage ID;Label\n{A[:16]};Osseous Lesion\n\n{B[:16]}-2;EXCLUDE\n",
        f"label\timage_id\tname\nosseous_lesion\t{A[:16].upper()}\t\nexclude\t{B[:16]}\t\nexclude\t{B[:16]}\t\n",
        f"source_name,image_id,label\nnormal\\MÜLLER 1.png,,osseous_lesion\nnormal/2.png,{B[:16]},exclude\n",
    ],
    ids=["columns of the page", "Excel", "tabs and a repeated line", "names"],
)
def test_forms_of_a_table(text: str) -> None:
    assert find(text) == {A: "osseous_lesion", B: "exclude"}


def test_a_name_means_all_slices_of_its_file_and_a_given_class_name_counts() -> None:
    assert find("name,label\nstack.nii,healthy\n") == {B: "normal", D: "normal"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", r"columns of another table.*label .*image_id or source_name"),
        ("image_id,who\nx,y\n", r"columns image_id\. "),
        ("label\nnormal\n", r"columns label\. "),
        ("image_id,label,Label\nx,normal,normal\n", "each once"),
        ("image_id,label\n", "no line"),
        (
            f"image_id,name,label\n{A[:16]},,lesion?\n,,normal\n{B[:16]},,normal\n{B[:16]},,exclude\n,,sick\n",
            r"label is not .*\(lines 2, 6\).*neither .*\(lines 3, 6\).*two labels \(lines 4, 5\)",
        ),
    ],
    ids=["empty", "no label", "no image", "two columns", "no line", "lines"],
)
def test_a_table_that_cannot_be_used(text: str, named: str) -> None:
    with pytest.raises(SettingsError, match=rf"^data\.corrections_file.*{named}"):
        parse(text)


def test_lines_that_fit_no_image_are_all_named_by_their_numbers() -> None:
    lines = [
        "image_id,name,label",
        f"{'e' * 16},,normal",  # 2: unknown
        "1.23E+15,,normal",  # 3: changed by Excel
        ",Anna.png,normal",  # 4: no such file
        ",2.png,normal",  # 5: two files
        f"{D[:16]},volumes/2.png,normal",  # 6: another image
        f"{A[:16]},,normal",  # 7: contradicts line 8
        ",MÜLLER 1.png,exclude",
        f"{'f' * 16},,normal",  # of an earlier run
    ]
    with pytest.raises(SettingsError) as error:
        find("\n".join(lines), {"f" * 64})
    for expected in (
        "id is not known (lines 2, 3)",
        "no file has the name (line 4)",
        "several files have the name (line 5)",
        "of different images (line 6)",
        "two labels (lines 7, 8)",
    ):
        assert expected in str(error.value)
    assert "Anna" not in str(error.value)
    assert "LLER" not in str(error.value)


def test_images_of_earlier_runs_may_be_gone() -> None:
    assert find(f"image_id,label\n{'f' * 16},normal\n{A[:16]},unsure\n", {"f" * 64}) == {A: "unsure"}


def test_a_missing_file_is_an_error_without_its_path(tmp_path) -> None:
    with pytest.raises(SettingsError, match=r"^data\.corrections_file: .*cannot be read") as error:
        read_corrections(tmp_path / "of Anna.csv")
    assert "Anna" not in str(error.value)
