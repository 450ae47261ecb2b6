"""The sheet of new images lists the highest scores first, and escapes all text."""

from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from hip_mri.evaluation.conformal import DecisionRule
from hip_mri.serving import prediction_sheet
from hip_mri.serving.examinations import tabulate_examinations
from hip_mri.serving.prediction_sheet import (
    THUMBNAIL_SIZE,
    PredictionSheet,
    encode_overlay,
    encode_thumbnail,
    render_summary,
    tabulate_counts,
    write_sheet,
)

HOSTILE = "<script>alert('x')</script>|`[a](http://evil.example)"


RULE = DecisionRule(threshold=0.45, error_rate=0.1, min_lesion=0.35, max_normal=0.55, reason="")


@pytest.fixture
def sheet() -> PredictionSheet:
    """Six images with the scores .1 to .6, one of them far out, and two that could not be read."""
    ids = [f"{number:016x}" for number in range(8)]
    table = pd.DataFrame(
        {
            "image_id": ids,
            "state": ["scored"] * 6 + ["unreadable"] * 2,
            "reason": [""] * 6 + ["not_an_image", "empty_file"],
            "score": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, np.nan, np.nan],
            "label": ["normal"] * 4 + ["osseous_lesion"] * 2 + [None] * 2,
            "distance": [0.1, 0.9, 0.1, 0.1, 0.1, 0.1, np.nan, np.nan],
            "is_outside": [False, True, False, False, False, False, None, None],
            "known_split": ["", "", "val", "train", "train", "test", "", ""],
            "decision": ["normal"] * 3 + ["uncertain"] * 2 + ["osseous_lesion"] + [""] * 2,
            "examination": [ids[0]] * 2 + [ids[4]] * 2 + [""] * 4,
            "model": "version 0003",
            "model_sha256": "ab" * 32,
        }
    )
    counts = {"num_images": 6, "num_copies": 3, "num_unreadable": 2, "num_ignored": 1}
    facts = {
        "created": "2026-01-02T03:04:05+00:00",
        "notices": ["NOT FOR CLINICAL USE: no diagnosis."],
        "model": {"name": "version 0003", "sha256": "ab" * 32, "threshold": 0.45},
        "features": {"engine": "openvino", "precision": "float32", "reason": "it was asked for"},
        "novelty": {"limit": 0.25, "outside_fraction": 0.01, "num_training": 900, "num_validation": 200},
        "decisions": asdict(RULE),
        "examinations": {"num_examinations": 2, "num_images_without": 2, "rule": asdict(RULE)},
        "known": {"train": 2, "val": 1, "test": 1},
        "counts": counts | {"num_lesion": 2, "num_normal": 4, "num_uncertain": 2, "num_outside": 1},
        "reasons": {"not_an_image": 1, "empty_file": 1},
    }
    picture = encode_thumbnail(np.zeros((32, 32), np.uint8))
    thumbnails = {ids[5]: (picture, picture), ids[4]: (picture, None), ids[1]: (picture, None)}
    return PredictionSheet(Path("predictions/0007"), facts, table, tabulate_examinations(table, RULE), thumbnails)


def write(sheet: PredictionSheet, folder) -> str:
    write_sheet(folder / "sheet.html", sheet)
    return (folder / "sheet.html").read_text()


def test_the_highest_scores_come_first_with_their_pictures(sheet, tmp_path):
    page = write(sheet, tmp_path)
    assert [row["score"] for row in sheet.list_scored(3)] == [0.6, 0.5, 0.4]
    order = [page.index(f'alt="Image {image_id}"') for image_id in sheet.thumbnails]
    assert order == sorted(order)
    assert page.count("Heat map of image") == 1
    assert page.count('class="card marked"') == 1
    assert "About 1.0% of ordinary images" in page
    assert "NOT FOR CLINICAL USE" in page
    assert "ab" * 32 in page
    assert "not an image" in page
    assert "predictions.csv" not in page  # all rows are shown


def test_without_a_measure_of_novelty_nothing_is_claimed(sheet, tmp_path):
    table = sheet.table.assign(distance=np.nan, is_outside=None)
    page = write(replace(sheet, table=table, facts={**sheet.facts, "novelty": None}), tmp_path)
    assert "is not known: the run of this model did not" in page
    assert 'class="badge outside' not in page
    assert ">within<" not in page
    assert "not measured" in render_summary(replace(sheet, facts={**sheet.facts, "novelty": None}))


def test_uncertain_images_and_examinations_are_listed(sheet, tmp_path):
    page = write(sheet, tmp_path)
    assert page.count('class="badge uncertain"') == 2 + 1 + 1  # two images, one of them with a picture, one mean score
    assert "at most 10% of the lesions" in page
    rows = {row["what"]: row["count"] for row in tabulate_counts(sheet)}
    assert (rows["uncertain"], rows["Examinations"]) == (2, 2)
    uncalibrated = sheet.facts | {"decisions": asdict(replace(RULE, reason="groups: 3; 9 needed"))}
    assert "is not known; groups: 3; 9 needed." in write(replace(sheet, facts=uncalibrated), tmp_path)
    separated = sheet.facts | {"decisions": asdict(replace(RULE, min_lesion=0.6, max_normal=0.3))}
    page = write(replace(sheet, facts=separated), tmp_path)
    assert "at most 10% of the lesions" in page
    assert "no image is uncertain" in page
    without = {"num_examinations": 0, "num_images_without": 6, "rule": None}
    facts, empty = sheet.facts | {"examinations": without}, sheet.examinations.head(0)
    page = write(replace(sheet, facts=facts, examinations=empty), tmp_path)
    assert "examinations.csv" not in page
    assert "6 images without an identity" in page


def test_known_images_are_marked_and_counted(sheet, tmp_path):
    page = write(sheet, tmp_path)
    marks = {use: page.count(f">{use} the model<") for use in ("trained", "validated", "tested")}
    assert marks == {"trained": 3, "validated": 1, "tested": 2}  # the two highest scores have a picture, too
    assert "2 trained it, 1 validated it, 1 tested it" in page
    assert {row["what"]: row["count"] for row in tabulate_counts(sheet)}["that trained the model"] == 2
    assert render_summary(sheet).count(" train |") == 2


def test_known_images_that_are_not_recorded_are_not_called_new(sheet, tmp_path):
    table = sheet.table.assign(known_split="not_recorded")
    unknown = replace(sheet, table=table, facts={**sheet.facts, "known": None})
    page = write(unknown, tmp_path)
    assert page.count("<td>not recorded</td>") == 6
    assert "manifest.csv" in page
    assert render_summary(unknown).count(" not recorded |") == 6 + 3  # each image and each count


def test_long_tables_are_cut_with_a_note(sheet, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_sheet, "MAX_LISTED", 2)
    page = write(sheet, tmp_path)
    assert "2 of 6 images, the highest scores first" in page
    assert '<a href="predictions.csv">predictions.csv</a> has all' in page


def test_text_is_escaped(sheet, tmp_path):
    hostile = {
        **sheet.facts,
        "notices": [HOSTILE],
        "model": {"name": HOSTILE, "sha256": HOSTILE, "threshold": 0.5},
        "features": dict.fromkeys(("engine", "precision", "reason"), HOSTILE),
        "reasons": {HOSTILE: 1},
    }
    table = sheet.table.assign(reason=HOSTILE, label=HOSTILE)
    page = write(replace(sheet, facts=hostile, table=table), tmp_path)
    assert "<script" not in page
    summary = render_summary(replace(sheet, facts=hostile))
    assert "<script" not in summary
    assert "[a](" not in summary


def test_the_summary_stays_small(sheet):
    many = pd.concat([sheet.table] * 20_000, ignore_index=True)
    assert len(render_summary(replace(sheet, table=many)).encode()) < 10_000


def test_counts_are_a_table(sheet):
    rows = {row["what"]: row["count"] for row in tabulate_counts(sheet)}
    assert rows["Images scored"] == rows["called normal"] + rows["called osseous lesion"] == 6
    assert rows["Files unreadable"] == 2


@pytest.mark.parametrize("size", [32, 192, 512])
def test_pictures_have_one_size(size):
    image = np.random.default_rng(0).integers(0, 256, (size, size), np.uint8)
    cold, hot = (encode_overlay(image, np.full((size, size), heat, np.float32)) for heat in (0, 1))
    decoded = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in (cold, hot)]
    assert {picture.shape for picture in decoded} == {(THUMBNAIL_SIZE, THUMBNAIL_SIZE, 3)}
    assert np.ptp(decoded[0].astype(int), axis=2).max() <= 12  # without heat it is gray, up to what JPEG loses
    assert np.ptp(decoded[1].astype(int), axis=2).mean() > 50
