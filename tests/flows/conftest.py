"""Flows run on the one Prefect server of the tests."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _server(prefect_server: None) -> None:
    """Started with the first test of a flow."""
