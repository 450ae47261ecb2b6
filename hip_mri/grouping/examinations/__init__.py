"""Infers which images are of one examination, where no patient is named: from the order of files and from features."""
