"""The report of a retraining describes the challenger, also after later changes of the workspace."""

import json
import shutil

import pandas as pd
import pytest

from hip_mri.dataset.manifest import MANIFEST_COLUMNS, read_manifest, write_manifest
from hip_mri.promotion.batch_check import refuse_batch
from hip_mri.promotion.comparison_records import ComparedRetraining, store_comparison
from hip_mri.promotion.conclusion import conclude_retraining
from hip_mri.promotion.new_images import NewImages, find_new_images
from hip_mri.promotion.retraining_report import Retraining
from hip_mri.registry.registration import register_version
from tests.promotion.challenges import make_challenge

LABELS = ("normal", "osseous_lesion")


def list_rows(splits: list[str]) -> pd.DataFrame:
    """Rows of a manifest, one image per patient."""
    ids = [f"{number:016x}" for number in range(len(splits))]
    rows = pd.DataFrame({"image_id": ids, "sha256": ids, "split": splits, "group": ids, "patient": ids})
    return rows.assign(label=[LABELS[number % 2] for number in range(len(ids))], state="ready", reason="", evidence="")


def register(workspace, write_run, rows: pd.DataFrame):
    run = write_run(further={"manifest.csv": rows.to_csv(index=False).encode()})
    return register_version(workspace, run, is_challenger=True)


def write_images(workspace, rows: pd.DataFrame) -> None:
    write_manifest(workspace.manifest_file, rows.reindex(columns=list(MANIFEST_COLUMNS), fill_value=""))


def publish(workspace, challenger, since: str | None, champion=None) -> dict:
    """Conclude with the decision of the gate, which keeps the champion."""
    challenge = make_challenge(challenger, champion, promote=False)
    compared = ComparedRetraining(NewImages(2, dict.fromkeys(LABELS, 1), 4, since, 2), None, challenge, 0.02)
    published = conclude_retraining(workspace, store_comparison(workspace, compared, ""), None, "Ada")
    return json.loads((published.folder / "retraining.json").read_text())


def test_the_report_does_not_need_the_run_that_new_images_were_compared_with(workspace, write_run) -> None:
    run = write_run(further={"manifest.csv": list_rows(["train", "val"]).to_csv(index=False).encode()})
    challenger = register(workspace, write_run, list_rows(["train", "val", "test"]))
    new_images = NewImages(1, dict.fromkeys(LABELS, 1), 2, f"run {run.name}", 1)
    compared = ComparedRetraining(new_images, None, make_challenge(challenger, None, promote=False), 0.02)
    compared = store_comparison(workspace, compared, "")
    shutil.rmtree(run)
    published = conclude_retraining(workspace, compared, None, "Ada")
    report = json.loads((published.folder / "retraining.json").read_text())
    assert [row["before"] for row in report["splits"]] == [1, 1, 0]
    again = conclude_retraining(workspace, compared, None, "Ada")
    assert again.headline.endswith(published.headline)
    assert "There is no champion" in again.headline


def test_images_that_arrive_while_approval_is_pending_change_nothing(workspace, write_run) -> None:
    splits = ["train", "train", "val", "test"]
    publish(workspace, register(workspace, write_run, list_rows(splits)), None)
    second = register(workspace, write_run, list_rows([*splits, "train", "val"]))
    write_images(workspace, list_rows([""] * 7).assign(group=""))  # the next delivery was read, not yet split
    report = publish(workspace, second, "version 0001")
    assert report["num_moved"] == 0
    assert {row["split"]: (row["before"], row["now"]) for row in report["splits"]} == {
        "train": (2, 3), "val": (1, 2), "test": (1, 1)
    }  # fmt: skip


def test_an_image_that_changes_its_split_is_counted(workspace, write_run) -> None:
    publish(workspace, register(workspace, write_run, list_rows(["train", "train", "val", "test"])), None)
    moved = register(workspace, write_run, list_rows(["train", "val", "val", "test"]))
    assert publish(workspace, moved, "version 0001")["num_moved"] == 1


def test_images_stay_known_when_reports_are_deleted(workspace, write_run) -> None:
    rows = list_rows(["train", "train", "val", "test"])
    challenger = register(workspace, write_run, rows)
    write_images(workspace, list_rows(["train", "train", "val", "test", "train"]))
    assert find_new_images(workspace).num_images == 5  # the retraining was interrupted
    publish(workspace, challenger, None)
    shutil.rmtree(workspace.retrainings_folder)
    found = find_new_images(workspace)
    assert (found.num_images, found.num_known, found.since) == (1, 4, "version 0001")


def test_images_that_the_latest_version_held_out_are_not_new(workspace, write_run) -> None:
    rows = list_rows(["train", "train", "val", "test", ""])
    rows.loc[4, "state"] = "held_out"
    publish(workspace, register(workspace, write_run, rows), None)
    write_images(workspace, list_rows(["train", "train", "val", "test", "", ""]))  # delivered again, not split yet
    assert find_new_images(workspace).num_images == 1
    assert refuse_batch(workspace) == 1


def test_images_of_a_challenger_that_awaits_approval_are_not_quarantined(workspace, write_run) -> None:
    splits = ["train", "train", "val", "test"]
    publish(workspace, register(workspace, write_run, list_rows(splits)), None)
    register(workspace, write_run, list_rows([*splits, "train", "val"]))
    write_images(workspace, list_rows([*splits, "train", "val", "train"]))
    assert find_new_images(workspace).num_images == 3
    assert refuse_batch(workspace) == 1
    manifest = read_manifest(workspace.manifest_file)
    assert list(manifest["state"]) == [*["ready"] * 6, "quarantined"]


def test_after_a_run_of_the_pipeline_only_what_it_lacks_is_new_and_all_images_wait(workspace, write_run) -> None:
    rows = list_rows(["train", "train", "val", "test"])
    write_run(further={"manifest.csv": rows.to_csv(index=False).encode(), "config.yaml": b"source: null"})
    write_images(workspace, list_rows(["train", "train", "val", "test", "", "", ""]))
    found = find_new_images(workspace)
    assert (found.num_images, found.num_known, found.since, found.num_waiting) == (3, 4, "run 0001", 7)
    challenger = register(workspace, write_run, list_rows([*rows["split"], "train", "val"]))
    report = publish(workspace, challenger, found.since)
    assert {row["split"]: (row["before"], row["now"]) for row in report["splits"]} == {
        "train": (2, 3), "val": (1, 2), "test": (1, 1)
    }  # fmt: skip


def test_corrected_images_wait_for_a_training_until_a_version_has_their_labels(workspace, write_run) -> None:
    rows = list_rows(["train", "train", "val", "test"])
    publish(workspace, register(workspace, write_run, rows), None)
    corrected = rows.assign(label=[LABELS[1], *rows["label"][1:]])
    corrected.loc[3, ["split", "state", "reason"]] = ["", "quarantined", "excluded"]
    write_images(workspace, corrected)
    found = find_new_images(workspace)
    assert (found.num_images, found.num_known, found.num_waiting) == (0, 3, 2)
    publish(workspace, register(workspace, write_run, corrected), None)
    assert find_new_images(workspace).num_waiting == 0


def test_registering_an_older_run_makes_no_known_image_new(workspace, write_run) -> None:
    older = write_run(further={"manifest.csv": list_rows(["train", "test"]).to_csv(index=False).encode()})
    rows = list_rows(["train", "test", "val", "train"])
    publish(workspace, register(workspace, write_run, rows), None)
    assert register_version(workspace, older).number == 2
    write_images(workspace, rows)
    found = find_new_images(workspace)
    assert (found.num_images, found.num_known, found.since) == (0, 4, "version 0001")


@pytest.mark.parametrize("outcome", ["kept", "declined", "unanswered"])
def test_the_headline_says_whether_there_is_a_champion(outcome, workspace, versions) -> None:
    counts = NewImages(0, {}, 0, None, 0)
    for champion, text in ((versions[0], "The champion stays"), (None, "There is no champion yet")):
        compared = ComparedRetraining(counts, None, make_challenge(versions[1], champion), 0.02)
        assert Retraining(outcome, counts, None, compared).headline.startswith(text)
