"""Fixtures: a workspace whose folder does not exist yet."""

from tests.small_sources import workspace

__all__ = ["workspace"]
