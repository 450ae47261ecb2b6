"""The command `hip-mri`."""
