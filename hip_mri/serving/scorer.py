"""Turns features of new images into scores and labels, for the flow `hip-predict` and for the web service alike."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import LABELS
from hip_mri.errors import EvaluationError
from hip_mri.evaluation.conformal import decide
from hip_mri.models.keras_settings import Model
from hip_mri.models.network_inputs import Views
from hip_mri.models.scoring import SplitNetwork
from hip_mri.monitoring.novelty import Novelty, load_novelty
from hip_mri.serving.known_images import find_known_splits, read_known_splits
from hip_mri.serving.served_model import ServedModel

CLINICAL_NOTICE: Final = (
    "NOT FOR CLINICAL USE: for research only. These scores are not a diagnosis and must not guide treatment."
)


@dataclass(frozen=True)
class Scorer:
    """A model with what else is needed to score images.

    Attributes:
        model: The model.
        network: Its network in two parts.
        novelty: Its out-of-distribution detector; `None` where the model's run did not fit one.
        known_splits: See `read_known_splits`.
        head: The head, if it is kept in memory; else it is loaded for each call.
    """

    model: ServedModel
    network: SplitNetwork
    novelty: Novelty | None
    known_splits: dict[str, str] | None
    head: "Model | None" = None

    @property
    def notices(self) -> list[str]:
        """Texts that every output must show."""
        return list_notices(self.model)

    def score(self, hashes: pd.Series, views: Views) -> pd.DataFrame:
        """Score images.

        Args:
            hashes: SHA-256 of the pixels of each image.
            views: Their features, in the same order.

        Returns:
            Columns score, label, decision, threshold, distance, is_outside and known_split of
            `predictions.SCORE_COLUMNS`, with the index of `hashes`.

        Raises:
            EvaluationError: A score is not a number.
        """
        scores, distances = self._measure(views)
        return pd.DataFrame(
            {
                "score": scores,
                "label": np.where(scores >= self.model.threshold, LABELS[1], LABELS[0]),
                "decision": decide(scores, self.model.conformal),
                "threshold": self.model.threshold,
                "distance": distances,
                "is_outside": distances > self.novelty.limit if self.novelty else None,
                "known_split": find_known_splits(hashes, self.known_splits).to_numpy(),
            },
            index=hashes.index,
        )

    def _measure(self, views: Views) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute score and distance of each image, shape (num_images,) each; NaN for distances without `novelty`."""
        scores, distances = [], []
        for block, scored in self.network.score(views, self.head):
            scores.append(scored.astype(np.float64))
            distances.append(self.novelty.measure(block) if self.novelty else np.full(len(block), np.nan))
        num_bad = int((~np.isfinite(np.concatenate(scores))).sum())
        if num_bad:
            raise EvaluationError(f"scores: {num_bad} of {len(views)} are not a number. Give another model.")
        return np.concatenate(scores), np.concatenate(distances)


def load_scorer(model: ServedModel, network: SplitNetwork, head: "Model | None" = None) -> Scorer:
    """Load the files of a model's run that scoring needs.

    Raises:
        WorkspaceError: A file cannot be read.
    """
    novelty = load_novelty(model.novelty_file) if model.novelty_file else None
    return Scorer(model, network, novelty, read_known_splits(model.manifest_file), head)


def list_notices(model: ServedModel) -> list[str]:
    """List the texts that every output of a model must show."""
    return [CLINICAL_NOTICE, *map(_attribute, model.notices)]


def _attribute(notice: str) -> str:
    """Say in a notice's heading that it is about the run that trained the model."""
    heading, colon, text = notice.partition(":")
    return f"{heading}, IN THE RUN THAT TRAINED THE MODEL{colon}{text}"
