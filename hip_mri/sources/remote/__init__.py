"""Files that are fetched: HTTPS, Google Drive, limits and partial files."""
