"""The page without a browser: its data, figures, size, privacy and policy."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from hip_mri.config import LABELS
from hip_mri.errors import WorkspaceError
from hip_mri.evaluation.conformal import UNCERTAIN, read_image_rule
from hip_mri.evaluation.metrics.measures import measure_decisions
from hip_mri.evaluation.review import page
from hip_mri.evaluation.review.pictures import encode_jpeg, encode_pictures
from hip_mri.evaluation.review.reviewed_images import collect_images, count_calls, rank_informative
from tests.evaluation.review.conftest import EXPLAINED, HOSTILE, DrawnImages


class Tags(HTMLParser):
    """All tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def text(review_file: Path) -> str:
    return review_file.read_text()


@pytest.fixture(scope="module")
def data(review_file: Path) -> dict:
    return page.read_review_data(review_file)


def read_pictures(text: str) -> dict:
    return json.loads(re.findall(r'<script type="application/json" id="encoded-pictures">(.*?)</script>', text)[0])


def decode(picture: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_UNCHANGED)


def test_each_image_has_its_row(data, reviewed, distances):
    images = pd.DataFrame(data["images"])
    review = reviewed.label_review.assign(score=reviewed.label_review["score"].astype(float))
    columns = ["image_id", "split", "label", "score", "rank", "reason"]
    pd.testing.assert_frame_equal(images[columns], review[columns], check_dtype=False)
    assert images["is_suspected"].sum() == 9
    assert set(images.loc[images["is_outside"].astype(bool), "image_id"]) == {f"{n:016x}" for n in (49, 99, 149, 199)}
    assert set(images["decision"]) <= {*LABELS, UNCERTAIN, ""}


def test_figures_are_those_of_the_metrics(data, metrics, review_file):
    for split in ("test", "val"):
        assert page.count_matrix(data, split) == metrics[split]["at_threshold"]["confusion_matrix"]
    assert page.check_review(review_file, metrics) == []


def test_changed_figures_are_named(text, metrics, tmp_path):
    file = tmp_path / "review.html"
    file.write_text(text.replace('"split":["test"', '"split":["val"').replace('"split":["train"', '"split":["val"'))
    assert any("val" in difference for difference in page.check_review(file, metrics))
    changed = metrics | {"threshold": 0.123}
    assert any("0.123" in difference for difference in page.check_review(file, changed))


@pytest.mark.parametrize("max_images", [0, 1, 60, 209])
def test_images_that_are_not_shown_count_at_every_threshold(reviewed, distances, metrics, max_images):
    images, _ = collect_images(reviewed, distances, read_image_rule(metrics), 5)
    ranked = rank_informative(images, metrics["threshold"])
    described = page.describe_data(metrics, ranked.head(max_images), ranked.iloc[max_images:], [])
    json.dumps(described, allow_nan=False)
    assert page.count_matrix(described, "test") == metrics["test"]["at_threshold"]["confusion_matrix"]
    test = ranked[ranked["split"] == "test"]
    truth = (test["label"] == LABELS[1]).to_numpy(int)
    counts = count_calls(ranked, 0.5)["test"]
    for step in (0, 1, 250, 777, 1000):
        (_, fp), (_, tp) = measure_decisions(truth, test["score"], step / 1000)["confusion_matrix"]
        assert (counts["normal"][step], counts["osseous_lesion"][step]) == (fp, tp)


def test_informative_images_come_first(reviewed, distances, metrics):
    images, _ = collect_images(reviewed, distances, read_image_rule(metrics), 5)
    ranked = rank_informative(images, metrics["threshold"])
    is_wrong = (ranked["score"] >= metrics["threshold"]) != (ranked["label"] == LABELS[1])
    flagged = is_wrong | ranked["is_suspected"] | ranked["is_outside"].eq(True) | ranked["decision"].eq(UNCERTAIN)
    assert flagged.is_monotonic_decreasing
    assert flagged.any()
    assert not flagged.all()
    assert sorted(ranked["image_id"]) == sorted(images["image_id"])


def test_a_run_without_cross_validation_has_training_images_without_scores(reviewed, metrics):
    is_training = reviewed.label_review["split"] == "train"
    review = reviewed.label_review.assign(score=reviewed.label_review["score"].mask(is_training))
    scores = type(reviewed)(**{**vars(reviewed), "label_review": review})
    images, _ = collect_images(scores, None, read_image_rule(metrics), 5)
    described = page.describe_data(metrics, rank_informative(images, metrics["threshold"]), images.head(0), [])
    values = pd.DataFrame(described["images"])
    assert values.loc[values["split"] == "train", "score"].isna().all()
    assert values["distance"].isna().all()
    assert page.count_matrix(described, "test") == metrics["test"]["at_threshold"]["confusion_matrix"]


def test_values_of_few_groups_are_not_on_the_page(text, data):
    assert "Rare Name" not in text
    assert set(data["images"]["attribute: field"]) == {"others", "1.5 T", HOSTILE}


def test_hostile_values_stay_text(text):
    tags = Tags(text).found
    assert [attrs.get("type") for tag, attrs in tags if tag == "script"] == ["application/json"] * 2 + [None]
    assert not [attrs for tag, attrs in tags if tag == "img" or any(name.startswith("on") for name in attrs)]
    assert HOSTILE not in text


def test_page_loads_nothing(text):
    tags = Tags(text).found
    addresses = [attrs[name] for _, attrs in tags for name in ("src", "href", "action", "srcset") if attrs.get(name)]
    assert addresses == ["#images", "report.html"]
    assert not [tag for tag, _ in tags if tag in ("link", "iframe", "object", "embed", "base")]
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest|WebSocket|sendBeacon|import\(", text)


def test_policy_allows_the_own_script_and_style_alone(text):
    policy = next(attrs["content"] for tag, attrs in Tags(text).found if attrs.get("http-equiv"))
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    for kind, pattern in (("style-src", r"<style>(.*?)</style>"), ("script-src", r"<script>(.*?)</script>")):
        content = re.findall(pattern, text, re.DOTALL)[-1]
        assert parts[kind] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    assert (parts["default-src"], parts["img-src"]) == ("'none'", "data:")


def test_page_says_what_it_is(text, review_run):
    assert "research only" in text
    assert "pseudonyms" in text
    assert all(notice.split(":")[0] in text for notice in review_run.metrics["notices"])


def test_pictures(text):
    pictures = read_pictures(text)
    assert pictures["small"] == {}
    assert len(pictures["large"]) == 210
    assert {image_id for image_id, kinds in pictures["large"].items() if "heat" in kinds} == {EXPLAINED}
    chosen = pictures["large"][EXPLAINED]
    assert decode(chosen["original"]).shape == (224, 187)
    expected = DrawnImages().read([EXPLAINED])[0]
    assert np.abs(decode(chosen["input"]).astype(int) - expected).mean() < 8


def test_pictures_keep_to_their_size():
    ids = [f"{number:016x}" for number in range(60)]
    drawn = DrawnImages(size=224)
    most = 60 * 4 * len(encode_jpeg(cv2.resize(drawn.read(ids[:1])[0], (96, 96)))) // 2
    pictures = encode_pictures(ids, drawn, [], most, num_threads=2)
    used = sum(map(len, pictures.small.values())) + sum(
        map(len, (it for one in pictures.large.values() for it in one.values()))
    )
    assert used <= most
    assert list(pictures.large) == ids[: len(pictures.large)]
    assert sorted([*pictures.small, *pictures.large]) == ids
    assert 0 < len(pictures.large) < 60
    assert decode(pictures.small[ids[-1]]).shape == (96, 96)


def test_an_original_that_cannot_be_read_is_left_out(caplog):
    class Damaged(DrawnImages):
        def read_original(self, image_id):
            raise WorkspaceError("damaged")

    pictures = encode_pictures(["0a", "0b"], Damaged(), [], 10**6, num_threads=1)
    assert [list(kinds) for kinds in pictures.large.values()] == [["input"], ["input"]]
    assert "0a: damaged" in caplog.text


def test_page_is_the_same_again(text, reviewed, distances, review_run, tmp_path):
    for name in ("first", "second"):
        page.write_review(tmp_path / name, review_run, reviewed, distances, DrawnImages(), [], 2, max_images=20)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_large_run_says_what_is_left_out(reviewed, distances, review_run, tmp_path):
    file = tmp_path / "review.html"
    page.write_review(file, review_run, reviewed, distances, DrawnImages(), [], 1, max_images=50)
    data, text = page.read_review_data(file), " ".join(file.read_text().split())
    assert len(data["images"]["image_id"]) == 50
    assert "The run has 210 images. The page shows the 50 most informative ones" in text
    assert page.check_review(file, review_run.metrics) == []
