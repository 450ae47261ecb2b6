"""Challenges without trained models."""

from typing import Any

from hip_mri.config import LABELS
from hip_mri.promotion.challenge import Challenge, LockedTestSet
from hip_mri.promotion.comparison_records import ComparedRetraining
from hip_mri.promotion.error_budget import Comparison
from hip_mri.promotion.gate import Decision
from hip_mri.promotion.new_images import NewImages
from hip_mri.registry.versions import Version
from tests.small_runs import TEST_SET

MEASURES = {
    "auc": 0.9,
    "average_precision": 0.8,
    "brier": 0.1,
    "at_threshold": {"sensitivity": 0.85, "specificity": 0.8},
    "intervals": {"auc": [0.85, 0.94], "at_threshold": {"sensitivity": [0.7, 0.95]}},
}


def make_challenge(challenger: Version, champion: Version | None, *, promote: bool = True) -> Challenge:
    """A challenge whose decision is given."""
    reasons = ("AUC 0.900 against 0.850.", "It is shown to be better.")
    measures = {"challenger": MEASURES} | ({"champion": MEASURES | {"auc": 0.85}} if champion else {})
    num_images, num_groups = {"normal": 40, "osseous_lesion": 18}, {"normal": 30, "osseous_lesion": 12}
    test_set = LockedTestSet(num_images, num_groups, is_patient_level=True, num_looks=3, num_looks_left=21)
    hashes = TEST_SET, champion.model_sha256 if champion else "", challenger.model_sha256
    comparison = Comparison(3, 0.002, *hashes, "2026-01-01") if champion else None
    decision = Decision(promote=promote, reasons=reasons)
    notices = ("SYNTHETIC DATA: no patient is shown.",)
    return Challenge(challenger, champion, decision, measures, test_set, notices, comparison=comparison)


def make_compared(challenger: Version, champion: Version | None, **facts: Any) -> ComparedRetraining:
    """A comparison that awaits an answer."""
    counts = NewImages(3, dict(zip(LABELS, (2, 1), strict=True)), 55, "version 0001", 3)
    given: dict[str, Any] = {"expires_at": "2999-01-01T00:00:00+00:00"} | facts
    return ComparedRetraining(counts, None, make_challenge(challenger, champion), 0.02, **given)
