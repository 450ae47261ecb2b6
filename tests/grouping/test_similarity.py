"""Planted copies of phantoms are found; phantoms of different patients are not taken for copies."""

from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from hip_mri.dataset.shards import read_shard
from hip_mri.errors import WorkspaceError
from hip_mri.grouping.fingerprints import THUMBNAIL_SIZE, fingerprint_images
from hip_mri.grouping.similarity import MIN_CORRELATION, correlate_aligned, find_similar_images
from hip_mri.images.stored_png import encode_png
from hip_mri.synthetic.demo import draw_demo
from hip_mri.workspace import Workspace
from tests.grouping.copies import CROPPING, WAYS, plant_copy, store_images

NUM_PATIENTS = 16


@dataclass(frozen=True)
class Collection:
    """Phantoms and copies of every second one, ingested and fingerprinted.

    Attributes:
        workspace: Where they are.
        images: Columns sha256, patient, original (SHA-256 of what it is a copy of, or its own) and way (or empty).
    """

    workspace: Workspace
    images: pd.DataFrame

    def find(self, way: str = "") -> pd.DataFrame:
        """Pairs among the phantoms and the copies made in one way."""
        return find_similar_images(self.images.loc[self.images["way"].isin(["", way]), "sha256"], self.workspace, 2)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    workspace = Workspace(tmp_path_factory.mktemp("similarity"))
    contents, rows = {}, []
    for number, drawn in enumerate(draw_demo(seed=5, num_patients=NUM_PATIENTS)):
        made = {"": encode_png(drawn.pixels)}
        if number % 2 == 0:
            made |= {way: encode_png(plant_copy(drawn.pixels, way, number)) for way in WAYS}
        contents |= {f"{number}-{way}": content for way, content in made.items()}
        rows += [(f"{number}-{way}", drawn.patient_id, f"{number}-", way) for way in made]
    shard = store_images(contents, workspace)
    fingerprint_images(shard, workspace, num_threads=2)
    hashes = read_shard(shard).set_index("image_id")["sha256"]
    images = pd.DataFrame(rows, columns=["sha256", "patient", "original", "way"])
    return Collection(
        workspace, images.assign(sha256=images["sha256"].map(hashes), original=images["original"].map(hashes))
    )


@pytest.fixture(scope="module")
def pairs(collection: Collection) -> pd.DataFrame:
    """What is found among all of them."""
    return find_similar_images(collection.images["sha256"].tolist(), collection.workspace, 2)


def label_groups(images: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series:
    """Number of the group of each image, by SHA-256."""
    place = pd.Series(np.arange(len(images)), index=images["sha256"])
    ends = (place[pairs["first"]], place[pairs["second"]])
    graph = coo_matrix((np.ones(len(pairs)), ends), (len(images), len(images)))
    return pd.Series(connected_components(graph, directed=False)[1], index=images["sha256"])


@pytest.mark.parametrize("way", WAYS)
def test_copies_are_joined_with_their_originals(collection, way):
    found = collection.find(way)
    copies = collection.images[collection.images["way"] == way]
    group = label_groups(collection.images, found)
    share = np.mean(group[copies["sha256"]].to_numpy() == group[copies["original"]].to_numpy())
    assert share >= 0.95 if way in CROPPING else share == 1


def test_patients_stay_apart(collection, pairs):
    patient = collection.images.set_index("sha256")["patient"]
    assert (patient[pairs["first"]].to_numpy() == patient[pairs["second"]].to_numpy()).all()
    assert patient.groupby(label_groups(collection.images, pairs)).nunique().max() == 1
    assert patient.nunique() == NUM_PATIENTS


def test_the_table_of_pairs_is_as_described(pairs):
    assert list(pairs.columns) == ["first", "second", "kind", "correlation"]
    assert (pairs["first"] < pairs["second"]).all()
    assert not pairs.duplicated(["first", "second"]).any()
    pd.testing.assert_frame_equal(pairs, pairs.sort_values(["first", "second"], ignore_index=True))
    assert pairs["correlation"].between(MIN_CORRELATION, 1).all()
    assert set(pairs["kind"]) == {"similar"}


def test_neither_order_nor_repetition_nor_threads_matter(collection):
    hashes = collection.images.loc[collection.images["way"].isin(["", "crop"]), "sha256"]
    shuffled = pd.concat([hashes, hashes[:20]]).sample(frac=1, random_state=1).tolist()
    expected = find_similar_images(hashes.tolist(), collection.workspace, 1)
    pd.testing.assert_frame_equal(find_similar_images(shuffled, collection.workspace, 3), expected)


def test_no_images_have_no_pairs(collection):
    found = find_similar_images([], collection.workspace, 1)
    assert (len(found), list(found.columns)) == (0, ["first", "second", "kind", "correlation"])


def test_images_without_fingerprints_are_refused(collection):
    with pytest.raises(WorkspaceError, match=" 1 of 2 rows"):
        find_similar_images([collection.images["sha256"][0], "0" * 64], collection.workspace, 1)


# The measure


def draw_thumbnail(seed: int) -> np.ndarray:
    picture = np.random.default_rng(seed).integers(0, 256, (256, 256), dtype=np.uint8)
    smooth = cv2.normalize(cv2.GaussianBlur(picture, (0, 0), 12), None, 40, 200, cv2.NORM_MINMAX)
    return cv2.resize(smooth, (THUMBNAIL_SIZE, THUMBNAIL_SIZE), interpolation=cv2.INTER_AREA)


def test_brightness_and_contrast_do_not_matter():
    thumbnail = draw_thumbnail(1)
    assert correlate_aligned(thumbnail, thumbnail) == pytest.approx(1)
    assert correlate_aligned((thumbnail * 0.7 + 30).round().astype(np.uint8), thumbnail) > 0.99


def test_other_pictures_do_not_correlate():
    assert max(correlate_aligned(draw_thumbnail(seed), draw_thumbnail(seed + 1)) for seed in range(8)) < 0.8


@pytest.mark.parametrize(("copy", "original"), [("flat", "flat"), ("flat", "drawn"), ("drawn", "flat")])
def test_pictures_without_any_detail_are_no_copies(copy, original):
    thumbnails = {"flat": np.full((THUMBNAIL_SIZE, THUMBNAIL_SIZE), 9, np.uint8), "drawn": draw_thumbnail(1)}
    assert correlate_aligned(thumbnails[copy], thumbnails[original]) == -1


def test_turned_pictures_are_not_aligned():
    thumbnail = draw_thumbnail(1)
    turn = cv2.getRotationMatrix2D((15.5, 15.5), 8, 1)
    turned = cv2.warpAffine(thumbnail, turn, thumbnail.shape, borderMode=cv2.BORDER_REFLECT)
    assert correlate_aligned(turned, thumbnail) == -1
