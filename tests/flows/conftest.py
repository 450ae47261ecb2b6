"""Flows run on the one Prefect server of the tests."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _server(prefect_server: None) -> None:
    """Started with the first test of a flow."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Empty home folder for a Prefect of its own."""
    folder = tmp_path / "prefect"
    folder.mkdir()
    return folder
