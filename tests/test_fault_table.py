"""`tests/FAULTS.md` lists every fault once, and the tests that it names are there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NUM_FAULTS = 74

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (TESTS / "FAULTS.md").read_text().splitlines()
    if re.match(r"\| \d+ \|", line)
]
MARK = re.compile(r"fault[_-](\d+(?:_(?:and_)?\d+)*)")


def find_numbers(file: Path) -> set[int]:
    """Faults that the names of a file's tests speak of."""
    return {int(number) for found in MARK.findall(file.read_text()) for number in re.findall(r"\d+", found)}


def test_every_fault_has_its_row() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, NUM_FAULTS + 1))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row-{row[0]}")
def test_the_tests_of_a_row_are_there(row: list[str]) -> None:
    number, _, shown_by = row
    files = re.findall(r"`([\w/]+\.py)`", shown_by)
    assert files
    assert [name for name in files if int(number) not in find_numbers(TESTS / name)] == []
