"""Pictures and sources, as for the tests of `hip_mri.data`."""

from tests.data.conftest import entries, pack, spread, workspace

__all__ = ["entries", "pack", "spread", "workspace"]
