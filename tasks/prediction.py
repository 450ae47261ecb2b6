"""Tasks from new images to published scores."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from hip_mri.config import ImageSettings, PreprocessingSettings, SheetSettings
from hip_mri.dataset.deliveries import Delivery, delete_damaged
from hip_mri.models.scoring import SplitNetwork
from hip_mri.serving import prediction_inputs, served_model
from hip_mri.serving import served_network as serving
from hip_mri.serving.prediction_inputs import InputReport
from hip_mri.serving.prediction_sheet import render_summary, tabulate_counts
from hip_mri.serving.served_model import ServedModel
from hip_mri.workspace import Workspace
from tasks.progress import show_progress
from tasks.task_runners.runner import GPU_TAG


@contextmanager
def hold_serving(folder: Path) -> Iterator[Workspace]:
    """Open the part of a workspace where new images are scored; a run that trains meanwhile is not in the way."""
    workspace = Workspace.at(folder)
    with workspace.hold_serving():
        yield workspace


@task(task_run_name="read the images", cache_policy=NO_CACHE)
def ingest_inputs(
    delivery: Delivery,
    workspace: Workspace,
    settings: PreprocessingSettings,
    num_threads: int,
    image_settings: ImageSettings,
) -> InputReport:
    """See `hip_mri.serving.prediction_inputs.ingest_inputs`; shows the files that were read."""
    with show_progress("ingest-inputs", "ingest_inputs: files") as update, delete_damaged(delivery):
        return prediction_inputs.ingest_inputs(
            delivery.path, workspace, settings, num_threads, update, delivery.limits, image_settings
        )


find_model = task(task_run_name="find the model", cache_policy=NO_CACHE)(served_model.find_model)

prepare_network = task(task_run_name="prepare the network", tags=[GPU_TAG], cache_policy=NO_CACHE)(
    serving.prepare_network
)


@task(task_run_name="score and publish", tags=[GPU_TAG], cache_policy=NO_CACHE)
def publish_predictions(
    workspace: Workspace,
    model: ServedModel,
    network: SplitNetwork,
    report: InputReport,
    settings: SheetSettings,
    *,
    is_synthetic: bool,
    keep_images: bool,
) -> str:
    """See `hip_mri.serving.predictions.publish_predictions`; shows counts as a table and a summary as Markdown."""
    from hip_mri.serving import predictions as prediction  # noqa: PLC0415 - draws, a second to import

    options = {"is_synthetic": is_synthetic, "keep_images": keep_images}
    sheet = prediction.publish_predictions(workspace, model, network, report, settings, **options)
    notices = " ".join(sheet.facts["notices"])
    create_table_artifact(tabulate_counts(sheet), key="prediction-counts", description=notices)
    create_markdown_artifact(render_summary(sheet), key="predictions", description="Scores of new images")
    return str(sheet.folder)
