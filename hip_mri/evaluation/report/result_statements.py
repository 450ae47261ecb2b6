"""What a run can say about its results; see `statements.py`."""

from hip_mri.evaluation.charts.captions import NOT_AVAILABLE
from hip_mri.evaluation.report.record import DECISIONS, RANKING, RunRecord, Statement
from hip_mri.evaluation.report.templates import is_number


def say_measures(record: RunRecord) -> Statement:
    """Name the measures that were taken."""
    test = record.metrics.get("test") or {}
    names = [title for key, title in RANKING.items() if key in test]
    names += [title for key, title in DECISIONS.items() if key in (test.get("at_threshold") or {})]
    return Statement(f"{', '.join(names)}." if names else "")


def say_uncertainty(record: RunRecord) -> Statement:
    """Name the measures that have an interval."""
    intervals = (record.metrics.get("test") or {}).get("intervals") or {}
    names = [title for key, title in RANKING.items() if intervals.get(key)]
    names += [title for key, title in DECISIONS.items() if (intervals.get("at_threshold") or {}).get(key)]
    return Statement(f"95% intervals of: {', '.join(names)}." if names else "")


def say_explanation(record: RunRecord) -> Statement:
    """Say how decisions were explained."""
    file = "figures/explanations.png"
    text = "Grad-CAM of the most confident right and wrong calls; not compared with outlined lesions."
    return Statement(text if file in record.files else "", file)


def say_ranking(record: RunRecord) -> Statement:
    """Give the measures of the scores."""
    if "test" not in record.metrics:
        return Statement("")
    values = ", ".join(
        f"{RANKING[name]} {record.measure('test', name)}" for name in ("auc", "average_precision", "brier")
    )
    return Statement(f"Test, 95% intervals in brackets: {values}.")


def say_decisions(record: RunRecord) -> Statement:
    """Give the measures of the calls at the threshold."""
    if not (record.metrics.get("test") or {}).get("at_threshold"):
        return Statement("")
    names = ("sensitivity", "specificity", "ppv", "npv")
    values = ", ".join(f"{DECISIONS[name].lower()} {record.measure('test', name, 'at_threshold')}" for name in names)
    return Statement(f"Test, at the threshold {_threshold(record)}, 95% intervals in brackets: {values}.")


def say_failures(record: RunRecord) -> Statement:
    """Count the wrong calls."""
    counts = ((record.metrics.get("test") or {}).get("at_threshold") or {}).get("confusion_matrix")
    if not counts:
        return Statement("")
    (tn, fp), (fn, tp) = counts
    file = "figures/explanations.png"
    text = f"Test: {fp:,} of {tn + fp:,} normal images called a lesion, {fn:,} of {fn + tp:,} lesions missed."
    return Statement(text, file if file in record.files else "predictions.csv")


def say_limits(record: RunRecord) -> Statement:
    """Say what limits the results."""
    notices = [str(notice) for notice in record.metrics.get("notices") or ()]
    grouping = record.metrics.get("grouping") or {}
    if not grouping.get("is_patient_level"):
        notices.append("It is not known that no patient has images in both training and test.")
    return Statement(" ".join([*notices, "One source, one split; not tested elsewhere."]), "model_card.md")


def say_output(record: RunRecord) -> Statement:
    """Say what the model puts out, and where the threshold lies."""
    if not is_number(record.metrics.get("threshold")):
        return Statement("")
    text = f"A probability of a lesion, 0-1; at or above {_threshold(record)} an image is called a lesion."
    rule = "evaluation.threshold_rule"
    return Statement(text + (f" Rule for the threshold: {record.show(rule)}." if record.knows(rule) else ""))


def say_imbalance(record: RunRecord) -> Statement:
    """Say whether classes were weighted."""
    known = {"none": "Classes were not weighted.", "balanced": "The loss of each class was weighted by its rarity."}
    return Statement(known.get(str(record.settings.get("training.class_weight")), ""), "config.yaml")


def _threshold(record: RunRecord) -> str:
    threshold = record.metrics.get("threshold")
    return f"{threshold:.4g}" if isinstance(threshold, int | float) else NOT_AVAILABLE
