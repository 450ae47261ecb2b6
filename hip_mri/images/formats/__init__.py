"""Decoders of image files, one module for each family of formats."""
