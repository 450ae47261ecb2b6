"""Runs the flows on servers, workers and clusters."""

from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[1]
