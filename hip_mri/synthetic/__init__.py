"""Draws synthetic images for the demo."""
