"""The flow on new images: scores equal those of training, and a changed model is rejected."""

import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flows.pipeline import hip_pipeline
from flows.predict import hip_predict
from hip_mri.config import PredictConfig
from hip_mri.errors import ReleaseError, SourceError
from hip_mri.registry.champion import promote
from hip_mri.registry.registration import register_version
from hip_mri.workspace import Workspace
from tests.flows.test_pipeline import configure


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, source_zip: Path) -> Path:
    """A finished run whose features OpenVINO computed in float32."""
    features = {"engine": "openvino", "precision": "float32"}
    return Path(hip_pipeline(configure(source_zip, tmp_path_factory.mktemp("run"), features=features)))


def score(run: Path, source: Path, workspace: Path, **settings: object) -> Path:
    return Path(
        hip_predict(
            PredictConfig.model_validate(
                {"source": str(source), "model": str(run), "workspace": workspace, "runner": {"shard_size": 20}}
                | settings
            )
        )
    )


def read(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "predictions.csv", dtype={"image_id": "str"}, keep_default_na=True)


def test_scores_are_those_of_the_run_on_a_machine_that_has_its_folder_alone(run, source_zip, tmp_path) -> None:
    alone = shutil.copytree(run, tmp_path / "copied" / "0001")
    predicted = read(score(alone, source_zip, tmp_path / "elsewhere", engine="openvino"))
    expected = pd.read_csv(run / "predictions.csv", dtype={"image_id": "str"})
    joined = expected.merge(predicted, on="image_id", suffixes=("", "_new"), validate="one_to_one")
    assert len(joined) == len(expected) == len(predicted)
    np.testing.assert_allclose(joined["score_new"], joined["score"], rtol=0, atol=1e-6)
    threshold = json.loads((run / "metrics.json").read_text())["threshold"]
    assert set(predicted["threshold"]) == {threshold}
    assert ((joined["score"] >= threshold) == (joined["label_new"] == "osseous_lesion")).all()
    assert joined["decision_new"].equals(joined["decision"])
    assert predicted["distance"].between(0, 2).all()
    assert (joined["known_split"] == joined["split"]).all()
    validation = joined[joined["split"] == "val"]
    assert not validation["is_outside"].astype(bool).any()


@pytest.mark.system
def test_a_fine_tuned_model_is_scored_by_its_own_backbone(source_zip, tmp_path) -> None:
    settings = {"epochs": 2, "batch_size": 16, "fine_tune": {"epochs": 1, "learning_rate": 1e-3, "batch_size": 16}}
    features = {"engine": "keras", "precision": "float32"}
    run = Path(hip_pipeline(configure(source_zip, tmp_path / "w", training=settings, features=features)))
    predicted = read(score(run, source_zip, tmp_path / "w", engine="keras")).set_index("image_id")["score"]
    expected = pd.read_csv(run / "predictions.csv", dtype={"image_id": "str"}).set_index("image_id")["score"]
    # The run scores whole images in one pass; a random backbone on 32 pixels magnifies the rounding of two passes.
    np.testing.assert_allclose(predicted.loc[expected.index], expected, atol=1e-3)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, source_zip: Path) -> Path:
    """A folder of any structure, with files that are not images, and a name with HTML."""
    folder = tmp_path_factory.mktemp("mixed")
    shutil.unpack_archive(source_zip, folder / "Schmidt, Eva")
    (folder / "<script>alert(1)</script>.png".replace("/", "-")).write_bytes(b"no image")
    (folder / "empty.png").touch()
    return folder


@pytest.fixture(scope="module")
def scored(run: Path, mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sheet = {"max_shown": 5, "explain": True, "max_explained": 2}
    return score(run, mixed, tmp_path_factory.mktemp("scored"), sheet=sheet)


def test_each_file_has_a_row_or_shares_one(scored: Path, run: Path) -> None:
    table = read(scored)
    assert (table["state"] == "scored").sum() == 50
    unreadable = table[table["state"] == "unreadable"]
    assert set(unreadable["reason"]) == {"not_an_image", "empty_file"}
    assert unreadable[["score", "label", "threshold", "distance", "is_outside"]].isna().all(axis=None)
    recorded = json.loads((run / "files.json").read_text())["model.keras"]
    assert set(table["model_sha256"]) == {recorded}
    assert set(table["model"]) == {"run 0001"}
    counts = json.loads((scored / "summary.json").read_text())["counts"]
    assert counts["num_images"] == counts["num_lesion"] + counts["num_normal"] == 50
    assert (counts["num_unreadable"], counts["num_copies"]) == (2, 0)


def test_names_stand_in_one_private_file(scored: Path, mixed: Path) -> None:
    names = pd.read_csv(scored / "names.csv", dtype="str").set_index("image_id")["source_name"]
    assert stat.S_IMODE((scored / "names.csv").stat().st_mode) == 0o600
    assert set(names.index) == set(read(scored)["image_id"])
    assert {file.relative_to(mixed).as_posix() for file in mixed.rglob("*") if file.is_file()} == set(names)
    for file in scored.rglob("*"):
        if file.is_file() and file.name != "names.csv":
            content = file.read_bytes()
            assert b"Schmidt" not in content
            assert b"hip000001" not in content


def test_the_sheet_has_pictures_heat_maps_and_notices(scored: Path, run: Path) -> None:
    page = (scored / "sheet.html").read_text()
    assert page.count('<li class="card') == 5
    assert page.count("Heat map of image") == 2
    assert "NOT FOR CLINICAL USE" in page
    trained = int((pd.read_csv(run / "predictions.csv")["split"] == "train").sum())
    assert f"of 50 images, {trained} trained, " in page
    assert "RANDOM WEIGHTS, IN THE RUN THAT TRAINED THE MODEL" in page
    assert "<script" not in page
    assert not any(address in page for address in ("http://", "https://", 'src="//'))
    table = read(scored)
    highest = table.sort_values("score", ascending=False)["image_id"].head(2)
    assert {file.stem for file in (scored / "explanations").iterdir()} == set(highest)


def test_images_are_taken_one_by_one_too(run: Path, mixed: Path, scored: Path, tmp_path: Path) -> None:
    image = next(mixed.rglob("hip000003.png"))
    table = read(score(run, image, tmp_path))
    whole = read(scored).set_index("image_id")["score"]
    assert len(table) == 1
    assert table["score"].iloc[0] == pytest.approx(whole[table["image_id"].iloc[0]], abs=1e-6)


def test_the_champion_scores_unless_another_model_is_given(run: Path, mixed: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    image = next(mixed.rglob("hip000003.png"))
    with pytest.raises(ReleaseError, match="no champion"):
        score(run, image, workspace.root, model="champion")
    version = register_version(workspace, run)
    promote(workspace, version, "test")
    by_name = [read(score(run, image, workspace.root, model=model)) for model in ("champion", "1", str(version.folder))]
    assert {table["model"].iloc[0] for table in by_name} == {"version 0001"}
    assert len({table["score"].iloc[0] for table in by_name}) == 1


def test_fault_66_a_model_that_is_not_the_recorded_one_is_never_loaded(
    run: Path, mixed: Path, tmp_path: Path, monkeypatch
) -> None:
    copied = shutil.copytree(run, tmp_path / "0001")
    content = bytearray((copied / "model.keras").read_bytes())
    content[len(content) // 2] ^= 1
    (copied / "model.keras").write_bytes(content)
    monkeypatch.setattr("hip_mri.serving.served_network.prepare_network", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(ReleaseError, match=r"model\.keras .*SHA-256"):
        score(copied, mixed, tmp_path / "w")
    assert not (tmp_path / "w" / "predictions").exists()


@pytest.mark.parametrize("name", ["novelty.npz", "metrics.json", "config.yaml"])
def test_a_changed_threshold_limit_or_setting_is_refused(run: Path, mixed: Path, tmp_path: Path, name: str) -> None:
    copied = shutil.copytree(run, tmp_path / "0001")
    (copied / name).write_bytes(b"{}")
    with pytest.raises(ReleaseError, match=rf"{name} .*SHA-256"):
        score(copied, mixed, tmp_path / "w")


def test_other_folders_and_files_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("hello")
    with pytest.raises(SourceError, match="none of its 1 files"):
        score(run, tmp_path / "words.txt", tmp_path / "w")
    with pytest.raises(ReleaseError, match="finished run"):
        score(tmp_path, tmp_path / "words.txt", tmp_path / "w")
    with pytest.raises(ReleaseError, match="no version 0007"):
        score(run, tmp_path / "words.txt", tmp_path / "w", model="7")
    assert not list((tmp_path / "w").glob("predictions/*"))


def test_scoring_again_computes_no_feature_again_and_keeps_images_only_where_wanted(
    run: Path, mixed: Path, scored: Path, tmp_path: Path
) -> None:
    serving = Workspace(shutil.copytree(scored.parent.parent, tmp_path / "w")).serving
    assert list(serving.root.rglob("*.png")) == list(serving.explanations_folder.glob("*")) == []
    parts = {file: file.stat().st_mtime_ns for file in serving.features_folder.rglob("*.npy")}
    again = score(run, mixed, tmp_path / "w", keep_images=True)
    assert again.name == "0002"
    assert read(again).equals(read(scored))
    assert len(parts) > 0
    assert {file: file.stat().st_mtime_ns for file in serving.features_folder.rglob("*.npy")} == parts
    assert len(list(serving.preprocessed_folder.rglob("*.png"))) == 50
