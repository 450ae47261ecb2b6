"""Groups related images and splits them by group."""
