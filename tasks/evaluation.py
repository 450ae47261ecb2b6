"""Tasks that evaluate a model or compare candidates; see `hip_mri.evaluation` and `hip_mri.model_comparison`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run

from hip_mri.config import CompareConfig, TrainingConfig
from hip_mri.dataset.ingest import IngestReport
from hip_mri.grouping.groups import GroupReport
from hip_mri.grouping.split import SplitReport
from hip_mri.model_comparison import candidates, costs, folds
from hip_mri.model_comparison.evaluated_candidate import EvaluatedCandidate
from hip_mri.models.backbones.weights import Weights
from hip_mri.models.features import FeatureSet
from hip_mri.models.network import TrainedModel
from hip_mri.workspace import Workspace
from tasks.options import CALLED, NETWORK
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


resolve_candidates = task(**CALLED)(candidates.resolve_candidates)

plan_candidate_folds = task(**CALLED)(folds.plan_candidate_folds)

cross_validate_candidate = task(task_run_name="cross_validate_candidate {part.name}, {part.fold.name}", **NETWORK)(
    folds.cross_validate_candidate
)

measure_cost = task(task_run_name="measure_cost {described.candidate.name}", **NETWORK)(costs.measure_cost)


@task(**CALLED)
def publish_comparison(
    workspace: Workspace,
    config: CompareConfig,
    evaluated: Sequence[EvaluatedCandidate],
    left_out: Mapping[str, str],
    *,
    is_synthetic: bool,
) -> str:
    """See `publication.publish_comparison`; shows the candidates as a table and the result as Markdown."""
    from hip_mri.model_comparison import publication  # noqa: PLC0415 - loads Matplotlib, half a second

    published = publication.publish_comparison(workspace, config, evaluated, left_out, is_synthetic=is_synthetic)
    create_table_artifact(published.rows, key="candidates", description=published.headline)
    create_markdown_artifact(published.markdown, key="comparison", description=published.headline)
    return str(published.folder)
