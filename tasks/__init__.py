"""One thin Prefect task per step of the library: retries, cache, tags, artifacts. No logic."""

import logging

logging.getLogger("hip_mri").setLevel(logging.INFO)  # Prefect adds its handler, and leaves the level at warnings
