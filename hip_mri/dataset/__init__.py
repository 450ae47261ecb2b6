"""The images of a workspace: deliveries, manifest, pseudonyms, shards, preprocessed images."""
