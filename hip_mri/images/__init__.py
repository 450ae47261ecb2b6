"""Decoding: from the bytes of an image file to gray levels. Pure functions, no workspace; a sandbox runs them."""
