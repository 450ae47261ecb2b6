"""Decides whether a new model replaces the champion."""
