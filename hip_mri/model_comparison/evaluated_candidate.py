"""A candidate with its scores and its cost, and what outputs state of it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hip_mri.evaluation.charts.captions import collect_notices, explain_pretraining
from hip_mri.model_comparison.candidates import DescribedCandidate
from hip_mri.model_comparison.costs import CandidateCost


@dataclass(frozen=True)
class EvaluatedCandidate:
    """A candidate with its scores and cost.

    Attributes:
        described: Settings, weights and features.
        scores_file: CSV with the columns of `FOLD_COLUMNS`.
        cost: Size and time.
    """

    described: DescribedCandidate
    scores_file: Path
    cost: CandidateCost

    @property
    def name(self) -> str:
        """Its name in tables and charts."""
        return self.described.candidate.name

    def describe(self) -> dict[str, Any]:
        """Describe what the results and the page state of it."""
        config, features = self.described.candidate.config, self.described.features
        return {
            "name": self.name,
            "backbone": features.backbone.name,
            "weights": self.described.candidate.weights.name,
            "input_scaling": features.backbone.scaling,
            "image_size": config.preprocessing.image_size,
            "clahe_clip_limit": config.preprocessing.clahe_clip_limit,
            "has_clahe": config.preprocessing.clahe_clip_limit > 0,
            "head": config.model.head,
            "mirror_averaging": features.averages_mirrored,
            "fine_tune_epochs": config.training.fine_tune.epochs,
            "is_fine_tuned": config.training.fine_tune.epochs > 0,
            "engine": self.described.scoring_choice.engine,
            "precision": self.described.scoring_choice.precision,
            **asdict(self.cost),
            "seconds_per_image": self.cost.feature_seconds + self.cost.head_seconds,
        }

    def list_notices(self) -> list[str]:
        """List the warnings on its backbone."""
        config = self.described.candidate.config
        return list(
            collect_notices(
                is_synthetic=False,
                weights_notice=self.described.candidate.weights.notice,
                scaling_notice=self.described.features.backbone.notice,
                pretraining_notice=explain_pretraining(config.model.pretrained_on, config.data.collection),
            )
        )
