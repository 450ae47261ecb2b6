"""Scores new images with a trained model."""
