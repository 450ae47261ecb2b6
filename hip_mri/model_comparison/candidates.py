"""Resolves the candidates of a comparison: settings and weights of each."""

import logging
from dataclasses import dataclass

from hip_mri.config import PRESET, CompareConfig, PipelineConfig
from hip_mri.errors import SettingsError, WeightsError
from hip_mri.models.backbones.engine_choice import EngineChoice
from hip_mri.models.backbones.weights import Weights, resolve_weights
from hip_mri.models.features import FeatureSet
from hip_mri.models.network import TUNED_CHOICE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A candidate that can be evaluated.

    Attributes:
        name: Its name in tables and charts.
        config: Settings of a run with it.
        weights: Weights of its backbone.
    """

    name: str
    config: PipelineConfig
    weights: Weights


@dataclass(frozen=True)
class Candidates:
    """The candidates of a comparison.

    Attributes:
        evaluated: Those that can be evaluated; the first one is the reference.
        left_out: Reason by name of those that cannot.
    """

    evaluated: tuple[Candidate, ...]
    left_out: dict[str, str]

    @property
    def by_features(self) -> list[tuple[Candidate, ...]]:
        """The candidates in groups that share the features of their images."""
        groups: dict[str, list[Candidate]] = {}
        for candidate in self.evaluated:
            config = candidate.config
            shared = candidate.weights, config.model.input_scaling, config.preprocessing, config.features
            groups.setdefault(repr(shared), []).append(candidate)
        return [tuple(members) for members in groups.values()]


@dataclass(frozen=True)
class DescribedCandidate:
    """A candidate with the features of the training images.

    Attributes:
        candidate: Settings and weights.
        features: The set of features that its head is fitted on.
    """

    candidate: Candidate
    features: FeatureSet

    @property
    def scoring_choice(self) -> EngineChoice:
        """Engine and precision of its scores; those of a fine-tuned network are computed by Keras."""
        return TUNED_CHOICE if self.candidate.config.training.fine_tune.epochs else self.features.choice


def resolve_candidates(config: CompareConfig) -> Candidates:
    """Find the weights of each candidate; candidates without are left out.

    The demo uses random weights where the ImageNet weights of the settings cannot be downloaded, as a run does.

    Raises:
        WeightsError: Fewer than two candidates remain, or a weights file is missing or does not fit.
    """
    found: dict[tuple[str, str, int], Weights | str] = {}
    evaluated, left_out = [], {}
    for given in config.candidates:
        settings = config.configure(given)
        key = settings.model.weights, settings.model.backbone, settings.preprocessing.image_size
        if key not in found:
            may_be_random = config.is_demo and key[:2] == (config.model.weights, config.model.backbone)
            found[key] = _find_weights(*key, fall_back_to_random=may_be_random)
        if isinstance(weights := found[key], Weights):
            evaluated.append(Candidate(given.name, settings.with_backbone(weights.backbone), weights))
        else:
            left_out[given.name] = weights
            logger.warning("The candidate %r is left out: %s", given.name, weights)
    if len(evaluated) < 2:
        listed = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise WeightsError(f"candidates: {len(evaluated)} can be evaluated, at least 2 are needed. Left out: {listed}")
    return Candidates(tuple(evaluated), left_out)


def _find_weights(weights: str, backbone: str, image_size: int, *, fall_back_to_random: bool) -> Weights | str:
    """Find weights; returns the reason if ImageNet weights or a preset cannot be had."""
    try:
        return resolve_weights(weights, backbone, fall_back_to_random=fall_back_to_random, image_size=image_size)
    except (WeightsError, SettingsError) as error:
        if weights != "imagenet" and backbone != PRESET:
            raise
        return str(error)
