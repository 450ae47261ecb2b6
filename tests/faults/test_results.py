"""Comparison of results: lost names and patients are differences, another order of rows is not."""

from pathlib import Path

import pandas as pd
import pytest

from tests.faults.results import find_differences, hash_results

ROWS = pd.DataFrame({"pseudonym": ["a", "b", "c"], "name": ["1", "", "ü"]})


def write(workspace: Path, name: str, rows: pd.DataFrame) -> Path:
    file = workspace / name
    file.parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(file, index=False)
    return workspace


@pytest.mark.parametrize("name", ["names.parquet", "identities/x.parquet", "attributes/x.parquet"])
def test_rows_count_and_their_order_does_not(tmp_path: Path, name: str) -> None:
    whole = hash_results(write(tmp_path / "whole", name, ROWS))
    assert whole.keys() == {name}
    assert hash_results(write(tmp_path / "turned", name, ROWS[::-1])) == whole
    lost = hash_results(write(tmp_path / "lost", name, ROWS[:2]))
    assert find_differences(whole, lost) == [name]
