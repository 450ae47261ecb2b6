"""Tasks from the source to preprocessed images."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from hip_mri.config import ImageSettings, SourceLimits
from hip_mri.dataset import deliveries as delivery
from hip_mri.dataset import folder_export, identities, ingest, shards, text_search
from hip_mri.dataset import preprocessing as preprocess
from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import IngestReport
from hip_mri.grouping import fingerprints as fingerprint
from hip_mri.grouping import groups, split
from hip_mri.workspace import LOCK_TIMEOUT_SECONDS, Workspace
from tasks.progress import show_progress
from tasks.retries import NETWORK_RETRIES
from tasks.secrets import resolve_source
from tasks.shards import shard_options


@contextmanager
def hold_workspace(folder: Path, timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> Iterator[Workspace]:
    """Open the workspace for this run alone; a context rather than a task, since it lasts for the whole flow."""
    workspace = Workspace.at(folder)
    with workspace.hold(timeout_seconds):
        yield workspace


@task(task_run_name="fetch the source", cache_policy=NO_CACHE, **NETWORK_RETRIES)
def fetch_source(
    source: str | None, sha256: str | None, workspace: Workspace, limits: SourceLimits = SourceLimits()
) -> tuple[Delivery, ...]:
    """See `hip_mri.dataset.deliveries.fetch_delivery`; shows the bytes that have come."""
    with show_progress("fetch-source", "fetch_source: bytes") as update:
        return (delivery.fetch_delivery(resolve_source(source), sha256, workspace, update, limits),)


@task(task_run_name="fetch what has come", cache_policy=NO_CACHE, **NETWORK_RETRIES)
def fetch_deliveries(
    sources: Sequence[str],
    workspace: Workspace,
    limits: SourceLimits = SourceLimits(),
    class_names: Mapping[str, str] | None = None,
) -> tuple[Delivery, ...]:
    """See `hip_mri.dataset.deliveries.fetch_deliveries`; shows the bytes that have come."""
    with show_progress("fetch-deliveries", "fetch_deliveries: bytes") as update:
        resolved = [resolved for source in sources if (resolved := resolve_source(source)) is not None]
        return delivery.fetch_deliveries(resolved, workspace, update, limits, class_names)


@task(task_run_name="take in the images", cache_policy=NO_CACHE)
def ingest_images(
    deliveries: Sequence[Delivery],
    workspace: Workspace,
    num_threads: int,
    settings: ImageSettings,
    *,
    keep_earlier: bool = False,
    class_names: Mapping[str, str] | None = None,
    patients_file: Path | None = None,
) -> IngestReport:
    """See `hip_mri.dataset.ingest.ingest_images`; shows the entries that were read."""
    with show_progress("ingest-images", "ingest_images: entries") as update:
        return ingest.ingest_images(
            deliveries,
            workspace,
            num_threads,
            update,
            settings,
            keep_earlier=keep_earlier,
            class_names=class_names,
            patients_file=patients_file,
        )


def _is_preprocessed(parameters: dict[str, Any]) -> bool:
    return not preprocess.find_missing(parameters["shard"], parameters["workspace"], parameters["settings"])


def _has_fingerprints(parameters: dict[str, Any]) -> bool:
    return not fingerprint.find_unfingerprinted(parameters["shard"], parameters["workspace"])


fingerprint_images = task(
    task_run_name="fingerprint shard {shard.name}",
    **shard_options(_has_fingerprints),
)(fingerprint.fingerprint_images)

check_patient_tables = task(task_run_name="check the table of patients", cache_policy=NO_CACHE)(
    identities.check_patient_tables
)


@task(task_run_name="search for text in pixels", cache_policy=NO_CACHE)
def find_images_with_text(workspace: Workspace, num_threads: int) -> int:
    """See `hip_mri.dataset.text_search.find_images_with_text`; shows the images that were searched."""
    with show_progress("find-images-with-text", "find_images_with_text: images") as update:
        return text_search.find_images_with_text(workspace, num_threads, update)


group_images = task(task_run_name="find what belongs together", cache_policy=NO_CACHE)(groups.group_images)

split_manifest = task(task_run_name="split into train, val and test", cache_policy=NO_CACHE)(split.split_manifest)

plan_shards = task(task_run_name="cut into shards", cache_policy=NO_CACHE)(shards.plan_shards)

preprocess_images = task(
    task_run_name="preprocess shard {shard.name}",
    **shard_options(_is_preprocessed),
)(preprocess.preprocess_images)

export_folders = task(task_run_name="lay out DATA", cache_policy=NO_CACHE)(folder_export.export_folders)
