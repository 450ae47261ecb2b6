"""Tasks that group related images and split the groups; see `hip_mri.grouping`."""

from prefect import task

from hip_mri.grouping import fingerprints, groups, split
from tasks.options import CALLED, cache_shards

fingerprint_images = task(
    task_run_name="fingerprint_images {shard.name}",
    **cache_shards(lambda given: not fingerprints.find_unfingerprinted(given["shard"], given["workspace"])),
)(fingerprints.fingerprint_images)

group_images = task(**CALLED)(groups.group_images)

split_manifest = task(**CALLED)(split.split_manifest)
