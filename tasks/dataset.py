"""Tasks from the source to preprocessed images; see `hip_mri.dataset`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import task

from hip_mri.config import ImageSettings, SourceLimits
from hip_mri.dataset import (
    deliveries,
    folder_export,
    identities,
    ingest,
    preprocessing,
    shards,
    split_registry,
    text_search,
)
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import IngestReport
from hip_mri.workspace import Workspace
from tasks.options import CALLED, FETCH, cache_shards
from tasks.progress import show_progress
from tasks.secrets import resolve_source


@task(**FETCH)
def fetch_source(
    source: str | None, sha256: str | None, workspace: Workspace, limits: SourceLimits = SourceLimits()
) -> tuple[Delivery, ...]:
    """See `deliveries.fetch_delivery`; shows the bytes that have arrived."""
    with show_progress("fetch_source", "bytes") as update:
        return (deliveries.fetch_delivery(resolve_source(source), sha256, workspace, update, limits),)


@task(**FETCH)
def fetch_deliveries(
    sources: Sequence[str],
    workspace: Workspace,
    limits: SourceLimits = SourceLimits(),
    class_names: Mapping[str, str] | None = None,
) -> tuple[Delivery, ...]:
    """See `deliveries.fetch_deliveries`; shows the bytes that have arrived."""
    with show_progress("fetch_deliveries", "bytes") as update:
        resolved = [resolved for source in sources if (resolved := resolve_source(source)) is not None]
        return deliveries.fetch_deliveries(resolved, workspace, update, limits, class_names)


lift_quarantine = task(**CALLED)(split_registry.lift_quarantine)

check_patient_tables = task(**CALLED)(identities.check_patient_tables)


identify_images = task(**CALLED)(identities.identify_images)


@task(**CALLED)
def ingest_images(
    delivered: Sequence[Delivery],
    workspace: Workspace,
    num_threads: int,
    settings: ImageSettings,
    *,
    keep_earlier: bool = False,
    class_names: Mapping[str, str] | None = None,
    patients_file: Path | None = None,
    corrections_file: Path | None = None,
) -> IngestReport:
    """See `ingest.ingest_images`; shows the entries that were read."""
    with show_progress("ingest_images", "entries") as update:
        return ingest.ingest_images(
            delivered,
            workspace,
            num_threads,
            update,
            settings,
            keep_earlier=keep_earlier,
            class_names=class_names,
            patients_file=patients_file,
            corrections_file=corrections_file,
        )


@task(**CALLED)
def find_images_with_text(workspace: Workspace, num_threads: int) -> int:
    """See `text_search.find_images_with_text`; shows the images that were searched."""
    with show_progress("find_images_with_text", "images") as update:
        return text_search.find_images_with_text(workspace, num_threads, update)


plan_shards = task(**CALLED)(shards.plan_shards)

preprocess_images = task(
    task_run_name="preprocess_images {shard.name}",
    **cache_shards(lambda given: not preprocessing.find_missing(given["shard"], given["workspace"], given["settings"])),
)(preprocessing.preprocess_images)

export_folders = task(**CALLED)(folder_export.export_folders)
