"""One thin Prefect task per step of the library: retries, cache, tags, artifacts. No logic."""

import logging

logging.getLogger("hip_mri").setLevel(logging.INFO)  # Prefect hands the lines on, but leaves the level at warnings
