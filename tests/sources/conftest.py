"""Pictures and sources, as for the tests of `hip_mri.data`."""

from tests.data.conftest import draw, encode, entries, pack, spread, workspace

__all__ = ["draw", "encode", "entries", "pack", "spread", "workspace"]
