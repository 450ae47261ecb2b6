"""Features are stored only if they are numbers."""

from types import SimpleNamespace

import numpy as np
import pytest

from hip_mri.errors import WorkspaceError
from hip_mri.models import features as module
from hip_mri.models.backbones.engine_choice import EngineChoice
from hip_mri.models.features import FeatureSet, extract_features
from tests.small_models import SMALL


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(prepared, backbone, shards, monkeypatch, value):
    features = FeatureSet(
        backbone, SMALL, EngineChoice("keras", "bfloat16", "a set of no other test"), with_mirrored=False
    )
    computed = SimpleNamespace(compute=lambda images: np.full((len(images), 3), value, np.float32))
    monkeypatch.setattr(module, "open_engine", lambda *_: computed)
    with pytest.raises(WorkspaceError, match="not finite"):
        extract_features(shards[0], prepared, features, num_threads=1)
    assert not features.open_store(prepared).folder.exists()
