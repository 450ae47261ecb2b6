"""Exports of trained networks to other formats, for programs without this package."""
