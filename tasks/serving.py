"""Tasks from new images to published scores; see `hip_mri.serving`."""

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from hip_mri.config import PredictionDataSettings, PreprocessingSettings, SheetSettings
from hip_mri.dataset.deliveries import Delivery, delete_damaged
from hip_mri.models.scoring import SplitNetwork
from hip_mri.serving import prediction_inputs, served_model, served_network
from hip_mri.serving.prediction_inputs import InputReport
from hip_mri.serving.prediction_sheet import render_summary, tabulate_counts
from hip_mri.serving.served_model import ServedModel
from hip_mri.workspace import Workspace
from tasks.options import CALLED, NETWORK
from tasks.progress import show_progress


@task(**CALLED)
def ingest_inputs(
    delivery: Delivery,
    workspace: Workspace,
    settings: PreprocessingSettings,
    num_threads: int,
    data: PredictionDataSettings,
) -> InputReport:
    """See `prediction_inputs.ingest_inputs`; shows the files that were read."""
    with show_progress("ingest_inputs", "files") as update, delete_damaged(delivery):
        return prediction_inputs.ingest_inputs(
            delivery.path, workspace, settings, num_threads, update, delivery.limits, data
        )


find_model = task(**CALLED)(served_model.find_model)

prepare_network = task(**NETWORK)(served_network.prepare_network)


@task(**NETWORK)
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
    """See `predictions.publish_predictions`; shows counts as a table and a summary as Markdown."""
    from hip_mri.serving import predictions  # noqa: PLC0415 - loads Matplotlib, a second

    options = {"is_synthetic": is_synthetic, "keep_images": keep_images}
    sheet = predictions.publish_predictions(workspace, model, network, report, settings, **options)
    notices = " ".join(sheet.facts["notices"])
    create_table_artifact(tabulate_counts(sheet), key="prediction-counts", description=notices)
    create_markdown_artifact(render_summary(sheet), key="predictions", description="Scores of new images")
    return str(sheet.folder)
