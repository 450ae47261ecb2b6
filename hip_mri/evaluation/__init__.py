"""From scores to metrics, figures and the report."""
