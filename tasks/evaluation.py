"""Task that evaluates a model and publishes the run; see `hip_mri.evaluation`."""

from collections.abc import Mapping
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run

from hip_mri.config import TrainingConfig
from hip_mri.dataset.ingest import IngestReport
from hip_mri.grouping.groups import GroupReport
from hip_mri.grouping.split import SplitReport
from hip_mri.models.backbones.weights import Weights
from hip_mri.models.features import FeatureSet
from hip_mri.models.network import TrainedModel
from hip_mri.workspace import Workspace
from tasks.options import CALLED
from tasks.progress import get_timer


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
    tables: Mapping[str, Path | None],
) -> str:
    """See `hip_mri.evaluation.run.publish_run`; shows the metrics as a table and the report as Markdown."""
    from hip_mri.evaluation import run  # noqa: PLC0415 - loads Matplotlib and scikit-learn, seconds
    from hip_mri.evaluation.report.documents import render_markdown, tabulate_metrics  # noqa: PLC0415 - see above

    report = run.publish_run(
        workspace,
        run.RunFacts(
            config, weights, ingested, grouped, split, features, trained, tables, get_timer().measure, flow_run.id
        ),
    )
    metrics = report.metrics
    description = " ".join(metrics["notices"]) or "Metrics by split"
    create_table_artifact(tabulate_metrics(metrics), key="metrics", description=description)
    create_markdown_artifact(render_markdown(report), key="report", description="Report of the run")
    return str(report.folder)
