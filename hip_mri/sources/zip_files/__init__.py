"""Zip files: checked as a whole before any entry is unpacked."""
