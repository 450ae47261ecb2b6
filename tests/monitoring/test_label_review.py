"""Suspected labels: planted ones are found, and nothing is said of images that no model judged."""

import numpy as np
import pandas as pd
import pytest

from hip_mri.config import LABELS
from hip_mri.dataset.manifest import read_manifest
from hip_mri.dataset.table_files import write_table
from hip_mri.evaluation.run_tables import read_table
from hip_mri.monitoring import neighbors
from hip_mri.monitoring.label_review import REVIEW_COLUMNS, collect_scores, rank_labels, review_labels
from hip_mri.monitoring.neighbors import find_nearest


def draw_images(generator: np.random.Generator, num_images: int = 500) -> tuple[pd.DataFrame, np.ndarray]:
    """Images with scores of an AUC of 0.99, and the positions of 5% of them, whose labels are wrong."""
    truth = generator.random(num_images) < 0.4
    scores = 1 / (1 + np.exp(-generator.normal(np.where(truth, 1.7, -1.7), 1.0)))
    wrong = generator.choice(num_images, num_images // 20, replace=False)
    given = truth.copy()
    given[wrong] = ~given[wrong]
    names = [f"{number:016x}" for number in range(num_images)]
    labels = np.array(LABELS)[given.astype(int)]
    return pd.DataFrame({"image_id": names, "sha256": names, "label": labels, "score": scores}), wrong


@pytest.mark.parametrize("seed", range(5))
def test_planted_errors_are_among_the_first(seed: int) -> None:
    images, wrong = draw_images(np.random.default_rng(seed))
    ranked = rank_labels(images, set())
    planted = ranked["image_id"].isin(images["image_id"].iloc[wrong])
    assert planted[ranked["rank"] <= len(ranked) // 10].sum() >= 0.8 * len(wrong)
    assert ranked["is_suspected"].sum() < len(ranked) // 10
    assert sorted(ranked["rank"]) == list(range(1, len(ranked) + 1))


def test_near_duplicates_with_other_labels_are_suspected_whatever_their_scores() -> None:
    images, _ = draw_images(np.random.default_rng(0))
    surest = (images["score"] - (images["label"] == LABELS[1])).abs().sort_values().index[:2]
    pair = set(images.loc[surest, "sha256"])
    ranked = rank_labels(images, pair).set_index("sha256")
    assert set(ranked.loc[list(pair), "reason"]) == {"near_duplicate"}
    assert ranked.loc[ranked["is_suspected"], "rank"].max() < ranked.loc[~ranked["is_suspected"], "rank"].min()


def test_images_without_a_score_are_not_judged() -> None:
    images, _ = draw_images(np.random.default_rng(1))
    unscored = images.index[:100]
    ranked = rank_labels(images.assign(score=images["score"].mask(images.index < 100)), {images.loc[3, "sha256"]})
    named = ranked.set_index("image_id")
    assert list(named.index[named["is_suspected"] & named["score"].isna()]) == [images.loc[3, "image_id"]]
    others = named.loc[images.loc[unscored, "image_id"]].query("not is_suspected")
    assert others["rank"].min() == len(images) - 98
    nothing = rank_labels(images.assign(score=np.nan), set())
    assert not nothing["is_suspected"].any()


def test_scores_of_training_images_are_those_of_grouped_folds() -> None:
    images = pd.DataFrame({"image_id": ["a", "b", "c", "d"], "split": ["train", "train", "val", "test"]})
    predictions = pd.DataFrame({"image_id": ["a", "b", "c", "d"], "score": [0.9, 0.9, 0.3, 0.4]})
    folds = pd.DataFrame(
        {"scheme": ["grouped", "grouped", "by_image"], "image_id": ["a", "a", "b"], "score": [0.1, 0.3, 0.8]}
    )
    np.testing.assert_allclose(collect_scores(images, predictions, folds), [0.2, np.nan, 0.3, 0.4])
    np.testing.assert_allclose(collect_scores(images, predictions, None), [np.nan, np.nan, 0.3, 0.4])


def test_nearest_rows_are_those_of_an_exhaustive_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "ROWS_PER_BLOCK", 7)
    rows = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    centered = rows - rows.mean(axis=0)
    centered /= np.linalg.norm(centered, axis=1, keepdims=True)
    similarity = centered @ centered.T - 9 * np.eye(30)
    expected = np.argsort(-similarity, axis=1)[:12, :3]
    np.testing.assert_array_equal(find_nearest(rows, 12, 3), expected)
    assert find_nearest(rows[:2], 2, 3).tolist() == [[1], [0]]
    assert find_nearest(np.ones((6, 5), np.float32), 6, 3).shape == (6, 3)  # equal images


class Trained:
    """A model that exists by its scores alone."""

    digest = "ab" * 32

    def __init__(self, file) -> None:
        self.predictions_file = file


def test_the_review_of_a_workspace(trained_workspace, tmp_path) -> None:
    workspace, features = trained_workspace
    images = read_manifest(workspace.manifest_file)
    scores = np.where(images["label"] == LABELS[1], 0.8, 0.2)
    scores[0] = 1 - scores[0]
    images.assign(score=scores)[["image_id", "split", "label", "score"]].to_csv(tmp_path / "scores.csv", index=False)
    normal, lesion = (images.loc[images["label"] == label, "sha256"].iloc[3] for label in LABELS)
    before = workspace.ties_file.read_bytes()
    try:
        write_table(
            workspace.ties_file,
            pd.DataFrame({"sha256": [normal, lesion], "kind": "similar", "key": f"{normal}/{lesion}", "group": "0"}),
        )
        file = review_labels(workspace, features, Trained(tmp_path / "scores.csv"), None)
    finally:
        workspace.ties_file.write_bytes(before)
    review = read_table(file)
    assert tuple(review.columns) == REVIEW_COLUMNS
    assert set(review["image_id"]) == set(images["image_id"])
    assert set(review.loc[review["reason"] == "near_duplicate", "image_id"]) >= {normal[:16], lesion[:16]} - {
        images["image_id"].iloc[0]
    }
    assert (review["score"].isna() == (review["split"] == "train")).all()
    named = review["neighbors"].str.split()
    assert (named.str.len() == 3).all()
    assert not any(image_id in ids for image_id, ids in zip(review["image_id"], named, strict=True))
