"""`tests/FAULTS.md` lists every fault once, and the tests that it names exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NUM_FAULTS = 74

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (TESTS / "FAULTS.md").read_text().splitlines()
    if re.match(r"\| \d+ \|", line)
]
MARK = re.compile(r"(?:test_)?fault[_-](\d+(?:_(?:and_)?\d+)*)")


def find_names(source: str) -> Iterator[str]:
    """Names of tests and what may name a parameter: `id` and `ids` of calls, and keys of dictionaries."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.keyword) and node.arg in ("id", "ids"):
            yield from _find_strings(node.value)
        elif isinstance(node, ast.Dict):
            yield from (key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


def _find_strings(node: ast.AST) -> list[str]:
    constants = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
    return [value for value in constants if isinstance(value, str)]


def find_numbers(source: str) -> set[int]:
    """Numbers of the faults in the test names of a file."""
    found = filter(None, map(MARK.match, find_names(source)))
    return {int(number) for match in found for number in re.findall(r"\d+", match[1])}


def test_only_test_names_count() -> None:
    source = '''
"""Of test_fault_01."""
# test_fault_02 and fault-03
CASES = {"fault-04-x": "fault-05", **OTHERS}
@pytest.mark.parametrize("x", [pytest.param("fault-06", id="fault-07-y")], ids=["fault-08", "other"])
def test_fault_09_and_10_z(x):
    """Of fault-11."""
    assert x == "fault-12"
'''
    assert find_numbers(source) == {4, 7, 8, 9, 10}


def test_every_fault_has_its_row() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, NUM_FAULTS + 1))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row-{row[0]}")
def test_the_tests_of_a_row_are_there(row: list[str]) -> None:
    number, _, _, shown_by = row
    files = re.findall(r"`([\w/]+\.py)`", shown_by)
    assert files
    assert [name for name in files if int(number) not in find_numbers((TESTS / name).read_text())] == []
