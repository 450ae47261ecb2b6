"""Lists the test images whose call is most wrong, each beside its nearest training image."""

from typing import Any, Final

import pandas as pd

MAX_ERRORS: Final = 10


def list_worst_errors(
    test: pd.DataFrame, predictions: pd.DataFrame, neighbors: pd.DataFrame, threshold: float
) -> list[dict[str, Any]]:
    """List the wrong calls with the largest differences between label and score.

    A nearest training image with the other label suggests a wrong label or a rare appearance.

    Args:
        test: Columns image_id, label, score and truth (0 normal or 1 lesion), one row per test image.
        predictions: Columns image_id and label, of the training images too.
        neighbors: See `hip_mri.monitoring.neighbors.find_neighbors`.
        threshold: Scores at or above it are called a lesion.

    Returns:
        Up to `MAX_ERRORS` records with image_id, label, score, neighbour_id, neighbour_label and distance.
    """
    wrong = test[(test["score"] >= threshold) != (test["truth"] == 1)]
    order = wrong.assign(error=(wrong["truth"] - wrong["score"]).abs())
    order = order.sort_values(["error", "image_id"], ascending=[False, True]).head(MAX_ERRORS)
    labels = predictions[["image_id", "label"]].rename(columns=lambda name: name.replace("image", "neighbour"))
    labels = labels.rename(columns={"label": "neighbour_label"})
    joined = order.merge(neighbors, on="image_id").merge(labels, on="neighbour_id")
    columns = ["image_id", "label", "score", "neighbour_id", "neighbour_label", "distance"]
    return joined.loc[:, columns].to_dict("records")
