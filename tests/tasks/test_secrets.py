"""Addresses in Secret blocks."""

import pytest
from prefect.blocks.system import Secret

from hip_mri.errors import SourceError
from tasks.secrets import resolve_source

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_block_holds_the_source() -> None:
    Secret(value=" s3://bucket/hip.zip\n").save("hip-source")
    assert resolve_source("secret:hip-source") == "s3://bucket/hip.zip"


def test_a_missing_block_is_an_error() -> None:
    with pytest.raises(SourceError, match=r"^source: .*secret:no-such"):
        resolve_source("secret:no-such")


def test_other_sources_are_themselves() -> None:
    assert resolve_source(None) is None
    assert resolve_source("hip.zip") == "hip.zip"
