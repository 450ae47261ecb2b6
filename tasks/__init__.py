"""One thin Prefect task per step of the library: retries, cache, tags, artifacts. No logic."""
