"""Sources that the settings name and do not hold."""

import pytest

from hip_mri.errors import SourceError
from hip_mri.sources.fetch import check_source
from hip_mri.sources.references import resolve_reference

ADDRESS = "https://example.org/hip.zip?X-Amz-Signature=secret"


@pytest.mark.parametrize("source", [None, "hip.zip", "https://example.org/hip.zip", "environment.zip"])
def test_a_plain_source_is_itself(source):
    assert resolve_reference(source) == source


def test_the_environment_is_asked(monkeypatch):
    monkeypatch.setenv("HIP_SOURCE", f" {ADDRESS}\n")
    assert resolve_reference("env:HIP_SOURCE") == ADDRESS
    check_source("env:HIP_SOURCE")


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_variable_that_is_not_set_is_told(monkeypatch, value):
    monkeypatch.delenv("HIP_SOURCE", raising=False) if value is None else monkeypatch.setenv("HIP_SOURCE", value)
    for look_up in (resolve_reference, check_source):
        with pytest.raises(SourceError, match="env:HIP_SOURCE"):
            look_up("env:HIP_SOURCE")


def test_a_secret_is_asked_for_by_its_name_where_it_can_be():
    assert resolve_reference("secret:hip-source", {"hip-source": ADDRESS}.__getitem__) == ADDRESS
    assert resolve_reference("secret:hip-source") == "secret:hip-source"
    check_source("secret:hip-source")  # which Prefect alone can look up


def test_a_reference_to_a_reference_is_refused(monkeypatch):
    monkeypatch.setenv("HIP_SOURCE", "secret:hip-source")
    with pytest.raises(SourceError, match="another reference"):
        resolve_reference("env:HIP_SOURCE")
