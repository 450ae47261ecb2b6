"""Task that evaluates a model and publishes the run; see `hip_mri.evaluation`."""

from functools import partial
from pathlib import Path
from uuid import UUID

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run

from hip_mri.config import TrainingConfig
from hip_mri.dataset.ingest import IngestReport
from hip_mri.evaluation.charts.captions import collect_notices
from hip_mri.evaluation.metrics.table import METRICS
from hip_mri.grouping.groups import GroupReport
from hip_mri.grouping.split import SplitReport
from hip_mri.models.backbones.weights import Weights
from hip_mri.models.features import FeatureSet
from hip_mri.models.keras_settings import count_network_threads, describe_keras
from hip_mri.models.network import TrainedModel
from hip_mri.workspace import Workspace
from tasks.options import CALLED
from tasks.progress import TIMERS


@task(**CALLED)
def publish_run(
    workspace: Workspace,
    config: TrainingConfig,
    weights: Weights,
    features: FeatureSet,
    trained: TrainedModel,
    ingested: IngestReport,
    grouped: GroupReport,
    split: SplitReport,
    folds_file: Path | None,
    neighbors_file: Path,
    novelty_file: Path,
) -> str:
    """See `hip_mri.evaluation.run.publish_run`; shows the metrics as a table and the report as Markdown."""
    from hip_mri.evaluation import run  # noqa: PLC0415 - loads Matplotlib and scikit-learn, seconds
    from hip_mri.evaluation.explain import explain_images  # noqa: PLC0415 - see above
    from hip_mri.evaluation.report.documents import render_markdown  # noqa: PLC0415 - see above
    from hip_mri.evaluation.report.templates import format_interval  # noqa: PLC0415 - see above

    notices = collect_notices(
        is_synthetic=ingested.is_synthetic, weights_notice=weights.notice, num_held_out=split.num_held_out
    )
    seconds = TIMERS[flow_run.id and UUID(flow_run.id)].seconds
    keras = {**describe_keras(), "num_threads": count_network_threads()}
    facts = run.RunFacts(config, weights.name, notices, ingested, grouped, split, features.describe(), keras, seconds)
    inputs = run.RunInputs(
        trained.model_file, trained.history_file, trained.predictions_file, neighbors_file, novelty_file, folds_file
    )
    explain = partial(explain_images, trained.parts, cache_folder=workspace.explanations_folder)
    published = run.publish_run(workspace, facts, inputs, explain)
    metrics = published.report.metrics
    rows = []
    for metric in METRICS.values():
        values = {name: metric.get(metrics[name]) for name in ("test", "val", "train")}
        rounded = {name: None if value is None else round(value, 4) for name, value in values.items()}
        interval = format_interval(metric.get(metrics["test"]["intervals"]))
        rows.append({"metric": metric.title, "interval": interval, **rounded})
    create_table_artifact(rows, key="metrics", description=" ".join(notices) or "Metrics by split")
    create_markdown_artifact(render_markdown(published.report), key="report", description="Report of the run")
    return str(published.folder)
