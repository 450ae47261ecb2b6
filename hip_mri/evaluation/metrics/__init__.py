"""Metrics with confidence intervals, computed from scores."""
