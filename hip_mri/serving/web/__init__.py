"""A web service and a page that score images with one model: `hip-mri serve`."""
