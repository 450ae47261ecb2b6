"""Registered model versions and the champion."""
