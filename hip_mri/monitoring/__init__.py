"""Drift, out-of-distribution detection and the leakage test."""
