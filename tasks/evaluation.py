"""Tasks from scores to the published run."""

from functools import partial
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

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


@task(task_run_name="evaluate and report", cache_policy=NO_CACHE)
def publish_run(
    workspace: Workspace,
    config: TrainingConfig,
    weights: Weights,
    features: FeatureSet,
    trained: TrainedModel,
    intake: IngestReport,
    groups: GroupReport,
    division: SplitReport,
    folds_file: Path | None,
    neighbours_file: Path,
    novelty_file: Path,
    seconds: dict[str, float],
) -> str:
    """See `hip_mri.evaluation.run.publish_run`; shows the metrics as a table and the report as Markdown."""
    from hip_mri.evaluation import run  # noqa: PLC0415 - draws and measures, seconds to import
    from hip_mri.evaluation.explain import explain_images  # noqa: PLC0415 - see above
    from hip_mri.evaluation.report.documents import render_markdown  # noqa: PLC0415 - see above
    from hip_mri.evaluation.report.templates import format_interval  # noqa: PLC0415 - see above

    notices = collect_notices(
        is_synthetic=intake.is_synthetic, weights_notice=weights.notice, num_held_out=division.num_held_out
    )
    keras = {**describe_keras(), "num_threads": count_network_threads()}
    facts = run.RunFacts(config, weights.name, notices, intake, groups, division, features.describe(), keras, seconds)
    inputs = run.RunInputs(
        trained.model_file, trained.history_file, trained.predictions_file, neighbours_file, novelty_file, folds_file
    )
    explain = partial(explain_images, trained.parts, cache_folder=workspace.explanations_folder)
    published = run.publish_run(workspace, facts, inputs, explain)
    metrics = published.report.metrics
    rows = []
    for metric in METRICS.values():
        values = {split: metric.get(metrics[split]) for split in ("test", "val", "train")}
        rounded = {split: None if value is None else round(value, 4) for split, value in values.items()}
        interval = format_interval(metric.get(metrics["test"]["intervals"]))
        rows.append({"metric": metric.title, "interval": interval, **rounded})
    create_table_artifact(rows, key="metrics", description=" ".join(notices) or "Metrics by split")
    create_markdown_artifact(render_markdown(published.report), key="report", description="Report of the run")
    return str(published.folder)
