"""What a run can say about itself, sentence by sentence: the material of the model card and of the checklists.

A statement is made only where the run's records hold what it says; nothing is guessed.
"""

from collections.abc import Callable
from typing import Final

from hip_mri.config import LABELS
from hip_mri.evaluation.charts.captions import SPLIT_TITLES, name_label
from hip_mri.evaluation.report import result_statements
from hip_mri.evaluation.report.record import RunRecord, Statement
from hip_mri.evaluation.report.summary import describe_given_split, name_weights
from hip_mri.evaluation.report.templates import is_number


def make_statements(record: RunRecord) -> dict[str, Statement]:
    """Everything that a run can say, by the name that the checklists use; those it cannot make are left out."""
    statements = {name: make(record) for name, make in _MAKERS.items()}
    return {name: statement for name, statement in statements.items() if statement.text}


def _say_intake(record: RunRecord) -> Statement:
    data = record.metrics.get("data") or {}
    if not is_number(data.get("num_images")):
        return Statement("")
    return Statement(f"{data['num_images']:,} images of one source, a folder per class.")


def _say_exclusions(record: RunRecord) -> Statement:
    data = record.metrics.get("data") or {}
    names = ("num_quarantined", "num_duplicates", "num_ignored")
    if not all(is_number(data.get(name)) for name in names):
        return Statement("")
    unusable, copies, ignored = (data[name] for name in names)
    text = (
        f"Left out: {unusable:,} files that could not be used, {copies:,} copies, {ignored:,} files that are no data."
    )
    return Statement(text, "quarantine.csv")


def _say_preprocessing(record: RunRecord) -> Statement:
    if not record.knows("preprocessing.clahe_clip_limit", "preprocessing.image_size"):
        return Statement("")
    size, tiles = record.show("preprocessing.image_size"), record.show("preprocessing.clahe_num_tiles")
    clip_limit = record.show("preprocessing.clahe_clip_limit")
    return Statement(
        f"Decoded to 8-bit gray, contrast equalized (CLAHE, clip limit {clip_limit}, {tiles} x {tiles} tiles), resized "
        f"to {size} x {size} pixels.",
        "config.yaml",
    )


def _say_partitions(record: RunRecord) -> Statement:
    if not record.knows("seed", "data.val_fraction", "data.test_fraction"):
        return Statement("")
    counts = [
        f"{SPLIT_TITLES[name].lower()} {record.metrics[name]['num_images']:,}"
        for name in SPLIT_TITLES
        if is_number((record.metrics.get(name) or {}).get("num_images"))
    ]
    data = record.metrics.get("data") or {}
    num_kept, num_prescribed = data.get("num_kept", 0), data.get("num_prescribed", 0)
    given = data.get("given_split") or {}
    num_drawn = sum((given.get("num_drawn") or {}).values())
    is_settled = num_kept + num_prescribed >= data.get("num_images", 1) and not num_drawn
    ways = [
        *describe_given_split(data),
        f"{num_kept:,} images kept the split that an earlier run in this workspace gave them." if num_kept else "",
        ""
        if is_settled
        else f"{'The other groups' if num_kept or num_prescribed else 'Groups'} were divided at random with seed "
        f"{record.show('seed')}; asked for: validation {record.show('data.val_fraction')}, test "
        f"{record.show('data.test_fraction')} of each class, the rest for training.",
        "A split that the source may give was ignored, as asked."
        if record.settings.get("data.given_split") == "ignore"
        else "",
    ]
    return Statement(" ".join([*(way for way in ways if way), f"Images: {', '.join(counts)}."]), "manifest.csv")


def _say_disjointness(record: RunRecord) -> Statement:
    grouping = record.metrics.get("grouping")
    if not grouping:
        return Statement("")
    level = (
        "By patient: no patient has images in two parts."
        if grouping.get("is_patient_level")
        else "By group of images that belong together as far as could be seen; that a group is a patient is not known."
    )
    evidence = ", ".join(
        f"{kind.replace('_', ' ')} {count:,}" for kind, count in (grouping.get("evidence") or {}).items()
    )
    text = f"{level} {grouping['num_groups']:,} groups, the largest with {grouping['largest_group']:,} images."
    return Statement(text + (f" Evidence: {evidence}." if evidence else ""))


def _say_sample_size(record: RunRecord) -> Statement:
    test = record.metrics.get("test") or {}
    parts = [
        f"{test[key]:,} {noun}"
        for key, noun in (("num_images", "images"), ("num_lesions", "with a lesion"), ("num_groups", "groups"))
        if is_number(test.get(key))
    ]
    return Statement(f"Test set: {', '.join(parts)}." if parts else "")


def _say_internal_test(record: RunRecord) -> Statement:
    size = _say_sample_size(record).text
    return Statement(f"{size} Held out from the source of the training images." if size else "")


def _say_flow(record: RunRecord) -> Statement:
    return Statement(_say_exclusions(record).text, "figures/split_flow.png")


def _say_classes(record: RunRecord) -> Statement:
    splits = (record.metrics.get("data") or {}).get("splits") or {}
    parts = [
        f"{SPLIT_TITLES[name].lower()} "
        + ", ".join(f"{counts.get(label, 0):,} {name_label(label)}" for label in LABELS)
        for name, counts in splits.items()
        if name in SPLIT_TITLES
    ]
    return Statement(f"Images: {'; '.join(parts)}." if parts else "")


def _say_architecture(record: RunRecord) -> Statement:
    if not record.knows("model.backbone", "model.hidden_units"):
        return Statement("")
    return Statement(
        f"{record.show('model.backbone')} without its top, global average pooling, a dense layer of "
        f"{record.show('model.hidden_units')} ReLU units, one sigmoid unit: a gray image goes in, the probability of "
        "an osseous lesion comes out.",
        "model.keras",
    )


def _say_software(record: RunRecord) -> Statement:
    versions = record.metrics.get("versions") or {}
    return Statement(", ".join(f"{package} {version}" for package, version in versions.items()))


def _say_initialization(record: RunRecord) -> Statement:
    weights = record.metrics.get("weights")
    if not weights:
        return Statement("")
    return Statement(
        f"Weights of the backbone: {name_weights(str(weights))}. Head: random (Glorot uniform), by the seed."
    )


def _say_training(record: RunRecord) -> Statement:
    if not record.knows("training.epochs", "training.learning_rate", "training.batch_size"):
        return Statement("")
    text = (
        f"Head on frozen features: Adam, learning rate {record.show('training.learning_rate')}, binary cross-entropy, "
        f"batches of {record.show('training.batch_size')}, at most {record.show('training.epochs')} epochs; horizontal "
        f"flips: {'yes' if record.settings.get('training.horizontal_flip') else 'no'}."
    )
    if record.settings.get("training.fine_tune.epochs"):
        text += (
            f" Then fine-tuning from {record.show('training.fine_tune.from_block')} on: learning rate "
            f"{record.show('training.fine_tune.learning_rate')}, at most "
            f"{record.show('training.fine_tune.epochs')} epochs."
        )
    return Statement(text, "history.csv")


def _say_selection(record: RunRecord) -> Statement:
    if not record.knows("training.early_stopping_patience"):
        return Statement("")
    head = "lowest validation loss" if record.settings["training.early_stopping_patience"] else "last epoch"
    text = f"Head: weights of the {'epoch with the ' if head != 'last epoch' else ''}{head}."
    if record.settings.get("training.fine_tune.epochs"):
        text += " Fine-tuning: weights of the epoch with the lowest validation loss."
    return Statement(text, "history.csv")


def _say_building(record: RunRecord) -> Statement:
    parts = [make(record).text for make in (_say_architecture, _say_training, _say_selection)]
    return Statement(" ".join(part for part in parts if part), "config.yaml")


def _point_to(file: str, text: str) -> Callable[[RunRecord], Statement]:
    """Make a statement that holds where the run has a file."""
    return lambda record: Statement(text if file in record.files else "", file)


_MAKERS: Final[dict[str, Callable[[RunRecord], Statement]]] = {
    "intake": _say_intake,
    "exclusions": _say_exclusions,
    "preprocessing": _say_preprocessing,
    "partitions": _say_partitions,
    "disjointness": _say_disjointness,
    "sample_size": _say_sample_size,
    "classes": _say_classes,
    "architecture": _say_architecture,
    "software": _say_software,
    "initialization": _say_initialization,
    "training": _say_training,
    "building": _say_building,
    "selection": _say_selection,
    "measures": result_statements.say_measures,
    "uncertainty": result_statements.say_uncertainty,
    "explanation": result_statements.say_explanation,
    "internal_test": _say_internal_test,
    "ranking": result_statements.say_ranking,
    "decisions": result_statements.say_decisions,
    "failures": result_statements.say_failures,
    "limits": result_statements.say_limits,
    "flow": _say_flow,
    "output": result_statements.say_output,
    "imbalance": result_statements.say_imbalance,
    "pseudonyms": _point_to("predictions.csv", "Outputs name images by pseudonyms made from their content."),
    "predictors": lambda record: Statement(
        "The pixels of one image, all of them; nothing that a reader judged.", "config.yaml"
    ),
    "ensembling": _point_to("model.keras", "None: one network scores each image once."),
    "scoring": _point_to("predictions.csv", "The trained network scored every image once; all scores are listed."),
    "details": _point_to("config.yaml", "Every setting of the run is recorded."),
    "kept_model": _point_to("model.keras", "The whole network is kept with the run."),
}
"""In no order that matters; the checklists name them."""
