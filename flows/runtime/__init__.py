"""Prepares the process of a command: proxies, the Prefect server of a run, signals and standard error."""
