"""The library of the hip MRI pipeline: plain Python, no Prefect anywhere."""
