"""The whole flow, in this process, on small images."""

import json
import re
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import RunInput, TaskRun
from prefect.settings import get_current_settings

from flows.cli.main import run_command
from flows.pipeline import hip_pipeline
from hip_mri.config import PipelineConfig
from hip_mri.dataset.manifest import read_manifest, select_ready
from hip_mri.dataset.pseudonyms import read_named_manifest
from hip_mri.errors import SourceError, WeightsError
from hip_mri.evaluation.charts.captions import CAPTIONS
from hip_mri.hashes import digest_file, record_hashes
from hip_mri.models.keras_settings import describe_keras
from hip_mri.models.predict import predict
from hip_mri.workspace import Workspace

SMALL = {
    "preprocessing": {"image_size": 32},
    "model": {"backbone": "ResNet50", "weights": "random", "hidden_units": 16},
    "training": {"epochs": 3, "batch_size": 16},
    "data": {"val_fraction": 0.2, "test_fraction": 0.2},
    "evaluation": {"num_resamples": 200, "cross_validation_folds": 2, "cross_validation_seeds": 1},
}


def configure(source: Path, workspace: Path, **settings: object) -> PipelineConfig:
    return PipelineConfig.model_validate(SMALL | {"source": str(source), "workspace": workspace, "seed": 7} | settings)


def run(config: PipelineConfig) -> tuple[Path, list[TaskRun]]:
    """Run folder and task runs of a run, after a check of what the list of runs in the UI shows."""
    state = hip_pipeline(config, return_state=True)
    folder = Path(state.result())
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(state.state_details.flow_run_id)
        assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d runs/{folder.name}", flow_run.name)
        assert flow_run.state is not None
        assert flow_run.state.message == str(folder)
        return folder, client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id])))


def list_upstream(task_runs: list[TaskRun]) -> dict[str, set[str]]:
    """Tasks by the tasks that their task runs depend on, as the server knows them."""
    names = {task_run.id: task_run.task_key.rpartition("-")[0] for task_run in task_runs}
    upstream = {name: set() for name in names.values()}
    for task_run in task_runs:
        inputs = [known for found in task_run.task_inputs.values() for known in found if isinstance(known, RunInput)]
        upstream[names[task_run.id]] |= {names[known.id] for known in inputs if known.input_type == "task_run"}
    return upstream


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, source_zip: Path) -> tuple[Path, PipelineConfig]:
    config = configure(source_zip, tmp_path_factory.mktemp("first"))
    return run(config)[0], config


def test_run_folder_holds_what_was_promised(finished: tuple[Path, PipelineConfig]) -> None:
    folder, config = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    predictions = pd.read_csv(folder / "predictions.csv")
    manifest = select_ready(read_manifest(config.workspace / "manifest.parquet"))

    assert folder.parent == config.workspace.resolve() / "runs"
    assert metrics["weights"] == "random"
    assert metrics["data"]["num_images"] == len(predictions) == len(manifest) == 50
    assert metrics["data"]["num_quarantined"] == 0
    assert np.sum(metrics["test"]["at_threshold"]["confusion_matrix"]) == metrics["test"]["num_images"] == 10
    assert set(metrics["seconds"]) >= {"fetch_source", "preprocess_images", "extract_features", "train_model"}
    assert metrics["keras"].items() >= describe_keras().items()
    assert metrics["keras"]["num_threads"] >= 1
    assert list(predictions.columns) == ["image_id", "split", "label", "score", "decision"]
    assert predictions["score"].between(0, 1).all()
    recorded = PipelineConfig.model_validate(yaml.safe_load((folder / "config.yaml").read_text()))
    assert recorded == config.model_copy(update={"source": "given, not shown"})  # a path can name a person
    rare = {"leakage", "training_sizes", "doubtful_pairs"}  # the images are few and hardly related
    assert {file.stem for file in (folder / "figures").iterdir()} | rare == set(CAPTIONS)
    for name in ("leakage.csv", "shortcuts.csv", "training_sizes.csv", "label_review.csv"):
        assert (folder / name).exists()
    for name in ("report.html", "model_card.md"):
        assert "RANDOM WEIGHTS" in (folder / name).read_text()
    assert (folder / "checklist.md").exists()


def test_a_finished_run_is_verified(finished: tuple[Path, PipelineConfig], capsys: pytest.CaptureFixture) -> None:
    folder, _ = finished
    assert run_command(["verify", str(folder)]) == 0
    assert "everything is as recorded" in capsys.readouterr().out
    assert run_command(["verify", str(folder.parent)]) == 1


def change_digit(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["test"]["at_half"]["specificity"] += 0.01
    (folder / "metrics.json").write_text(json.dumps(metrics))


def swap_scores(folder: Path) -> None:
    rows = pd.read_csv(folder / "predictions.csv", dtype="str")
    tested = rows.index[rows["split"] == "test"]
    rows.loc[tested[[0, -1]], "score"] = rows.loc[tested[[-1, 0]], "score"].to_numpy()
    rows.to_csv(folder / "predictions.csv", index=False)


def change_decisions(folder: Path) -> None:
    rows = pd.read_csv(folder / "predictions.csv", dtype="str")
    rows.assign(decision="certain").to_csv(folder / "predictions.csv", index=False)


def change_review(folder: Path) -> None:
    page = (folder / "review.html").read_text()
    (folder / "review.html").write_text(page.replace('"test"', '"val"'))


def flip_byte(folder: Path) -> None:
    content = bytearray((folder / "model.keras").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.keras").unlink()  # the bytes are shared with the models folder
    (folder / "model.keras").write_bytes(content)


def scramble_network(folder: Path) -> None:
    """What an earlier version left behind under a `keras.json` with `channels_first`, with its hashes."""
    file = folder / "model.keras"
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = members["config.json"].replace(b"channels_last", b"channels_first")
    file.unlink()  # see above
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    record_hashes(folder)


def move_test_image(folder: Path) -> None:
    for name in ("manifest.csv", "predictions.csv"):
        rows = pd.read_csv(folder / name, dtype="str", keep_default_na=False)
        chosen = rows["image_id"] == rows.loc[rows["split"] == "test", "image_id"].min()
        rows.loc[chosen, "split"] = "val"
        rows.to_csv(folder / name, index=False)


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (change_digit, ["metrics.json was changed", "metrics.json: test.at_half.specificity says"]),
        (swap_scores, ["predictions.csv was changed", "metrics.json: test.auc says"]),
        (change_decisions, ["predictions.csv was changed", "decisions are not those of the scores"]),
        (change_review, ["review.html was changed", "review.html: the confusion matrix of test is"]),
        (flip_byte, ["model.keras was changed"]),
        (scramble_network, ["model.keras: its layers have data_format channels_first", ": 1 differences"]),
        (move_test_image, ["manifest.csv has other test images than the locked test set"]),
        (lambda folder: (folder / "history.csv").unlink(), ["history.csv is missing"]),
        (lambda folder: (folder / "extra.txt").write_text("x"), ["extra.txt does not belong to the run"]),
        (lambda folder: (folder / "config.yaml").write_text("seed: x"), ["cannot be computed again"]),
    ],
)
def test_what_was_changed_is_named(finished, tmp_path: Path, capsys, tamper, named: list[str]) -> None:
    folder, _ = finished
    copied = shutil.copytree(folder, tmp_path / "runs" / folder.name)
    tamper(copied)
    assert run_command(["verify", str(copied)]) == 1
    said = "".join(capsys.readouterr())  # the differences on standard output, their number on standard error
    assert all(words in said for words in named), said


def test_a_run_that_does_not_record_the_settings_of_keras_says_so(finished, tmp_path: Path, capsys) -> None:
    """Earlier versions used what a `keras.json` had altered, long after the file was gone."""
    folder, _ = finished
    copied = shutil.copytree(folder, tmp_path / "runs" / folder.name)
    metrics = json.loads((copied / "metrics.json").read_text())
    del metrics["keras"], metrics["conformal"]
    (copied / "metrics.json").write_text(json.dumps(metrics))
    record_hashes(copied)
    assert run_command(["verify", str(copied)]) == 0
    said = capsys.readouterr().out
    assert "not recorded: the settings of Keras" in said
    assert "everything is as recorded" in said


def test_data_folder_shows_the_split(finished: tuple[Path, PipelineConfig]) -> None:
    folder, config = finished
    shown = Counter(
        (file.parts[-3], file.parts[-2], file.stem) for file in (config.workspace / "DATA").glob("*/*/*.png")
    )
    predictions = pd.read_csv(folder / "predictions.csv")
    assert shown == Counter(predictions[["split", "label", "image_id"]].itertuples(index=False, name=None))


def test_saved_model_alone_gives_the_same_scores(finished: tuple[Path, PipelineConfig]) -> None:
    import cv2

    folder, config = finished
    predictions = pd.read_csv(folder / "predictions.csv")
    files = [
        config.workspace / "DATA" / row.split / row.label / f"{row.image_id}.png" for row in predictions.itertuples()
    ]
    images = np.stack([cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files])[..., None].astype(np.float32)
    network = keras.models.load_model(folder / "model.keras")
    scores = (predict(network, images) + predict(network, images[:, :, ::-1])) / 2
    precision = json.loads((folder / "metrics.json").read_text())["features"]["precision"]
    # A random backbone on 32 pixels magnifies rounding; a pretrained one on 224 differs by 1e-6 in float32.
    tolerance = 1e-3 if precision == "float32" else 0.02
    np.testing.assert_allclose(scores, predictions["score"], atol=tolerance)


def test_source_names_stay_in_their_file(finished: tuple[Path, PipelineConfig]) -> None:
    folder, config = finished
    manifest = read_named_manifest(Workspace(config.workspace))
    names = [Path(name).stem.encode() for name in manifest["source_name"]]
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix not in (".keras", ".png"):
            content = file.read_bytes()
            assert not any(name in content for name in names), file


def test_fault_65_prefect_keeps_nothing_that_runs_when_loaded(finished: tuple[Path, PipelineConfig]) -> None:
    _, config = finished
    cache = config.workspace / "cache"
    kinds = {json.loads(record.read_bytes())["metadata"]["serializer"]["type"] for record in cache.iterdir()}
    assert kinds == {"json"}
    assert cache.stat().st_mode & 0o777 == 0o700
    storage = get_current_settings().results.local_storage_path
    assert not list(storage.rglob("*"))


def check_graph(task_runs: list[TaskRun]) -> None:
    upstream = list_upstream(task_runs)
    assert upstream["ingest_images"] == {"fetch_source"}
    assert upstream["preprocess_images"] == {"plan_shards"}
    # In one process, the settings of the export are an object in the result of `choose_features` as well.
    assert {"preprocess_images"} <= upstream["export_folders"] <= {"preprocess_images", "choose_features"}
    assert upstream["extract_features"] >= {"plan_shards", "choose_features"}
    assert upstream["train_model"] >= {"choose_features"}
    assert upstream["join_folds"] >= {"plan_folds"}
    assert upstream["publish_run"] >= {"ingest_images", "group_images", "split_manifest", "train_model", "join_folds"}


def test_a_rerun_makes_deleted_outputs_alone_and_gives_the_same(finished: tuple[Path, PipelineConfig]) -> None:
    folder, config = finished
    victim = next((config.workspace / "preprocessed").glob("*/*/*.png"))
    content = victim.read_bytes()
    part = next((config.workspace / "features").glob("*/*.npy"))
    shown = next((config.workspace / "DATA" / "test").glob("*/*.png"))
    for file in (victim, part, shown):
        file.unlink()

    again, task_runs = run(config)

    check_graph(task_runs)
    assert again.name > folder.name
    assert {run.state_name for run in task_runs if " of " in run.name} == {"Cached", "Completed"}
    repeated = [run.name for run in task_runs if " of " in run.name and run.state_name == "Completed"]
    done = Counter(name.split()[0] for name in repeated)
    assert done == {"preprocess_images": 1, "extract_features": 1}
    assert victim.read_bytes() == content
    assert part.exists()
    assert shown.exists()
    assert (again / "predictions.csv").read_bytes() == (folder / "predictions.csv").read_bytes()


def test_corrections_go_into_the_next_run(finished, tmp_path: Path, capsys) -> None:
    folder, config = finished
    workspace = Workspace(shutil.copytree(config.workspace, tmp_path / "copy"))
    before = read_manifest(workspace.manifest_file).set_index("image_id")
    review = pd.read_csv(folder / "label_review.csv").set_index("image_id")
    assert list(review.index[:2]) == list(review.sort_values("rank").index[:2])
    first, second = (review.index[review["split"] == split][0] for split in ("train", "test"))
    other = ({"normal", "osseous_lesion"} - {before.loc[first, "label"]}).pop()
    name = read_named_manifest(workspace).set_index("image_id").loc[second, "source_name"]
    table = tmp_path / "of Yvonne.csv"
    table.write_text(f"image_id,name,label,who\n{first},,{other},Zoroaster\n,{name},exclude,Zoroaster\n")
    kept = [file for part in ("preprocessed", "features") for file in (workspace.root / part).rglob("*.*")]
    written = {file: file.stat().st_mtime_ns for file in kept}
    data = config.data.model_copy(update={"corrections_file": table})

    corrected, _ = run(config.model_copy(update={"workspace": workspace.root, "data": data}))

    assert {file: file.stat().st_mtime_ns for file in kept} == written
    after = read_manifest(workspace.manifest_file).set_index("image_id")
    used = after[after["state"] == "ready"]
    assert set(before.index) - set(used.index) == {second}
    assert (used["split"] == before.loc[used.index, "split"]).all()
    changed = used.index[used["label"] != before.loc[used.index, "label"]]
    assert list(changed) == [first]
    metrics = json.loads((corrected / "metrics.json").read_text())
    counted = {"num_rows": 2, "changes": {"train": {other: 1}, "test": {"exclude": 1}}}
    assert metrics["corrections"].items() >= counted.items()
    assert metrics["corrections"]["sha256"] == digest_file(table)
    assert (metrics["test_set"]["num_missing"], metrics["test_set"]["num_excluded"]) == (0, 1)
    assert yaml.safe_load((corrected / "config.yaml").read_text())["data"]["corrections_file"] == "given, not shown"
    assert "Test labels corrected" in (corrected / "report.html").read_text()
    texts = [
        file.read_text() for file in corrected.iterdir() if file.suffix in (".csv", ".html", ".json", ".md", ".yaml")
    ]
    assert not [word for word in (Path(name).stem, "Zoroaster", "Yvonne") for text in texts if word in text]
    assert run_command(["verify", str(corrected)]) == 0


def test_scores_depend_on_the_seed_alone(finished, source_zip, tmp_path: Path) -> None:
    folder, _ = finished
    other = configure(source_zip, tmp_path / "a", runner={"num_workers": 1, "num_threads": 1, "shard_size": 3})
    assert (run(other)[0] / "predictions.csv").read_bytes() == (folder / "predictions.csv").read_bytes()


def test_bad_source_ends_the_run_with_its_own_error(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "felix.png").write_bytes(b"")
    with pytest.raises(SourceError, match=r"normal and osseous_lesion"):
        hip_pipeline(configure(tmp_path, tmp_path / "workspace"))
    assert not (tmp_path / "workspace" / "runs").exists()
    assert not (tmp_path / "workspace" / "manifest.parquet").exists()


def test_missing_weights_end_the_run_before_any_work(source_zip: Path, tmp_path: Path) -> None:
    config = configure(source_zip, tmp_path, model={"weights": str(tmp_path / "none.h5")})
    with pytest.raises(WeightsError, match="no file at"):
        hip_pipeline(config)
    assert not list((tmp_path / "images").iterdir())
