"""Tasks from scores to the published run."""

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from hip_mri.config import SPLITS, PipelineConfig
from hip_mri.data.ingest import IngestReport
from hip_mri.evaluation import run
from hip_mri.evaluation.report import compose_markdown
from hip_mri.evaluation.wording import collect_notices
from hip_mri.model.features import FeatureSet
from hip_mri.model.network import TrainedModel
from hip_mri.model.weights import Weights
from hip_mri.workspace import Workspace


@task(task_run_name="evaluate and report", cache_policy=NO_CACHE)
def publish_run(
    workspace: Workspace,
    config: PipelineConfig,
    weights: Weights,
    intake: IngestReport,
    counts: dict[str, dict[str, int]],
    features: FeatureSet,
    trained: TrainedModel,
    seconds: dict[str, float],
) -> str:
    """See `hip_mri.evaluation.run.publish_run`; shows the metrics as a table and the report as Markdown."""
    notices = collect_notices(is_demo=config.is_demo, weights_notice=weights.notice)
    facts = run.RunFacts(config, weights.name, notices, intake, counts, features.describe(), seconds)
    published = run.publish_run(workspace, facts, trained.model_file, trained.history_file, trained.predictions_file)
    metrics = published.summary.metrics
    rows = [
        {"metric": name} | {split: round(metrics[split][name], 4) for split in SPLITS[::-1]}
        for name in ("auc", "average_precision", "accuracy", "sensitivity", "specificity", "num_images")
    ]
    create_table_artifact(rows, key="metrics", description=" ".join(notices) or "Metrics by split")
    create_markdown_artifact(compose_markdown(published.summary), key="report", description="Report of the run")
    return str(published.folder)
