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
from hip_mri.serving import prediction_inputs as intake
from hip_mri.serving import served_model
from hip_mri.serving import served_network as serving
from hip_mri.serving.prediction_inputs import IntakeReport
from hip_mri.serving.prediction_sheet import compose_prediction_markdown, tabulate_counts
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


@task(task_run_name="take in the images", cache_policy=NO_CACHE)
def take_in_images(
    delivery: Delivery,
    workspace: Workspace,
    settings: PreprocessingSettings,
    num_threads: int,
    image_settings: ImageSettings,
) -> IntakeReport:
    """See `hip_mri.serving.prediction_inputs.take_in_images`; shows the files that were read."""
    with show_progress("take-in-images", "take_in_images: files") as update, delete_damaged(delivery):
        return intake.take_in_images(
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
    report: IntakeReport,
    settings: SheetSettings,
    *,
    is_synthetic: bool,
) -> str:
    """See `hip_mri.serving.predictions.publish_predictions`; shows counts as a table and a summary as Markdown."""
    from hip_mri.serving import predictions as prediction  # noqa: PLC0415 - draws, a second to import

    published = prediction.publish_predictions(workspace, model, network, report, settings, is_synthetic=is_synthetic)
    notices = " ".join(published.sheet.facts["notices"])
    create_table_artifact(tabulate_counts(published.sheet), key="prediction-counts", description=notices)
    create_markdown_artifact(
        compose_prediction_markdown(published.sheet), key="predictions", description="Scores of new images"
    )
    return str(published.folder)
