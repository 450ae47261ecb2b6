"""What is logged to MLflow, that it is logged once, and that no failure of MLflow lasts or escapes."""

import json
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from hip_mri.config import TrackingSettings
from hip_mri.errors import ReleaseError, SettingsError, TrackingError
from hip_mri.hashes import record_hashes
from hip_mri.registry import tracking
from hip_mri.registry.champion import promote, roll_back
from hip_mri.registry.mlflow_client import (
    Job,
    find_cause,
    read_losses,
    read_parameters,
    read_times,
    read_values,
    track,
)
from hip_mri.registry.registration import register_version
from hip_mri.registry.tracking import check_tracking, track_champion, track_run
from hip_mri.storage import write_json

SERVER = TrackingSettings(mlflow_uri="http://127.0.0.1:5000", name="hips")
SETTINGS = {
    "source": "/home/smith/Smith.zip",
    "workspace": "/home/smith/hip",
    "seed": 7,
    "model": {"backbone": "ResNet50"},
    "data": {"patient_pattern": "(smith)_", "class_names": {"läsion #1": "osseous_lesion"}},
    "tracking": {"mlflow_uri": "https://smith.example.org"},
}
METRICS = {
    "threshold": 0.25,
    "test": {
        **{"num_images": 46, "num_lesions": 20, "num_groups": 40},
        **{"auc": 0.875, "brier": None, "at_threshold": {"sensitivity": 0.9}, "at_half": {"sensitivity": 0.5}},
        "intervals": {"auc": [0.75, 0.9375], "brier": None, "at_threshold": {"sensitivity": [0.8, 1]}},
    },
    "val": {"auc": 0.8, "at_threshold": {"sensitivity": 0.7}},
    "train": {"auc": 1, "at_threshold": None},
    "notices": ["SYNTHETIC DATA", "RANDOM WEIGHTS"],
    "seconds": {"fetch_source": 1.5, "train_model": 8.5},
    "created": "2026-11-28T12:00:00+00:00",
    "test_set": {"sha256": "ab" * 32},
}
HISTORY = "epoch,loss,accuracy,val_loss,val_accuracy,stage\n1,0.5,0.75,nan,0.5,head\n2,0.25,1,0.375,0.5,fine_tune\n"
PRIVATE = ("predictions.csv", "manifest.csv", "config.yaml", "names.parquet")


@pytest.fixture
def run_folder(write_run) -> Path:
    folder = write_run(further=dict.fromkeys(("report.html", "model_card.md", "checklist.md"), b"text"))
    (folder / "config.yaml").write_text(yaml.safe_dump(SETTINGS, allow_unicode=True))
    (folder / "history.csv").write_text(HISTORY)
    write_json(folder / "metrics.json", METRICS)
    record_hashes(folder)
    return folder


class MemoryClient:
    """Keeps in memory what it is given, as an `MlflowClient` does on a server."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, SimpleNamespace] = {}
        self.files: list[tuple[str, str]] = []
        self.models: dict[str, list[SimpleNamespace]] = {}
        self.aliases: dict[tuple[str, str], str] = {}
        self._numbers = count(1)

    def fail_once(self, name: str) -> None:
        def fail(*arguments: object, **options: object) -> None:
            delattr(self, name)
            raise ConnectionError(name)

        setattr(self, name, fail)

    def get_experiment_by_name(self, name: str):
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str, artifact_location: str | None, tags: dict[str, str]) -> str:
        assert artifact_location is None
        self.experiments[name] = "9"
        return "9"

    def create_run(self, experiment_id: str, start_time: int, run_name: str, tags: dict[str, str]):
        assert experiment_id in self.experiments.values()
        info = SimpleNamespace(run_id=f"r{next(self._numbers)}", status="RUNNING", run_name=run_name)
        self.runs[info.run_id] = SimpleNamespace(info=info, tags=tags, params={}, metrics={})
        return self.runs[info.run_id]

    def search_runs(self, experiment_ids: list[str], filter_string: str, max_results: int):
        return [run for run in self.runs.values() if run.tags["hip_mri.metrics_sha256"] in filter_string][:max_results]

    def log_batch(self, run_id: str, metrics=(), params=()) -> None:
        assert len(params) <= 100
        assert len(metrics) <= 1000
        self.runs[run_id].params |= dict(params)
        self.runs[run_id].metrics |= {(key, step): value for key, value, _, step in metrics}

    def log_artifact(self, run_id: str, file: str, folder: str | None) -> None:
        self.files.append((run_id, f"{folder}/{Path(file).name}" if folder else Path(file).name))

    def set_terminated(self, run_id: str, status: str, end_time: int | None = None) -> None:
        self.runs[run_id].info.status = status

    def search_registered_models(self, filter_string: str) -> list[str]:
        return [name for name in self.models if f"name='{name}'" == filter_string]

    def create_registered_model(self, name: str) -> None:
        assert name not in self.models
        self.models[name] = []

    def search_model_versions(self, filter_string: str) -> list[SimpleNamespace]:
        return [it for made in self.models.values() for it in made if f"run_id='{it.run_id}'" in filter_string]

    def create_model_version(self, name: str, source: str, run_id: str, tags: dict[str, str], description: str):
        made = SimpleNamespace(version=str(len(self.models[name]) + 1), run_id=run_id, tags=tags)
        self.models[name].append(made)
        return made

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.aliases[name, alias] = version


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> MemoryClient:
    """An MLflow in memory, to which jobs are given directly instead of through a process."""
    client = MemoryClient()
    entities = SimpleNamespace(Param=lambda *pair: pair, Metric=lambda *entry: entry)
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(entities=entities))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")  # which the client changes in its own process

    def ask(options, timeout_seconds: float) -> dict[str, str]:
        try:
            return {"run": track(Job(**{**options, "run_folder": Path(options["run_folder"])}), client)}
        except ConnectionError as error:
            return {"error": f"https://anna:secret@example.org {error}"}

    monkeypatch.setattr(tracking, "_ask_client", ask)
    return client


def test_parameters_name_no_person_and_no_place(run_folder):
    parameters = read_parameters(run_folder)
    assert parameters["model.backbone"] == "ResNet50"
    assert parameters["seed"] == "7"
    assert parameters["data.class_names.läsion _1"] == "osseous_lesion"
    assert "mith" not in json.dumps(parameters)


def test_values_are_those_that_are_defined_with_their_intervals():
    assert read_values(METRICS) == {
        **{"threshold": 0.25, "test/num_images": 46, "test/num_lesions": 20, "test/num_groups": 40},
        **{"test/auc": 0.875, "test/auc_lower": 0.75, "test/auc_upper": 0.9375},
        **{"test/sensitivity": 0.9, "test/sensitivity_lower": 0.8, "test/sensitivity_upper": 1},
        **{"val/auc": 0.8, "val/sensitivity": 0.7, "train/auc": 1},
    }


def test_a_run_has_its_own_times():
    start, end = read_times(METRICS)
    assert (start, end - start) == (1795867190000, 10_000)


def test_losses_are_those_of_each_epoch_that_are_finite(run_folder):
    assert list(read_losses(run_folder)) == [
        *[("epoch/loss", 0.5, 1), ("epoch/accuracy", 0.75, 1), ("epoch/val_accuracy", 0.5, 1)],
        *[("epoch/loss", 0.25, 2), ("epoch/accuracy", 1, 2), ("epoch/val_loss", 0.375, 2)],
        ("epoch/val_accuracy", 0.5, 2),
    ]


def test_a_run_is_logged_once_without_tables_of_images(run_folder, client):
    places = {track_run(run_folder, SERVER) for _ in range(2)}
    assert places == {"http://127.0.0.1:5000/#/experiments/9/runs/r1"}
    run = client.runs["r1"]
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run 0001")
    assert run.tags["mlflow.note.content"] == "SYNTHETIC DATA\n\nRANDOM WEIGHTS"
    assert run.metrics["test/auc_lower", 0] == 0.75
    assert run.metrics["epoch/val_loss", 2] == 0.375
    assert run.params["seed"] == "7"
    names = [name for _, name in client.files]
    assert sorted(names) == sorted(
        ["metrics.json", "report.html", "model_card.md", "checklist.md", "figures/roc.png", "model/model.keras"]
    )
    assert names[-1] == "model/model.keras"
    assert not client.models


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_artifact"])
def test_a_run_that_was_logged_in_part_is_completed_and_not_doubled(run_folder, client, call):
    client.fail_once(call)
    with pytest.raises(TrackingError, match=rf"{call}.* hip-mri track {run_folder} "):
        track_run(run_folder, SERVER)
    assert {run.info.status for run in client.runs.values()} <= {"FAILED"}
    track_run(run_folder, SERVER)
    (run,) = client.runs.values()
    assert run.info.status == "FINISHED"
    assert len({name for _, name in client.files}) == 6


def test_a_message_holds_no_credentials(run_folder, client):
    client.fail_once("create_experiment")
    with pytest.raises(TrackingError, match=r"tracking: run 0001 .*127\.0\.0\.1:5000.*example\.org") as caught:
        track_run(run_folder, SERVER)
    assert "secret" not in str(caught.value)


def test_two_runs_with_the_same_model_are_two_runs(run_folder, write_run, client):
    other = write_run("of run 0001")
    (other / "config.yaml").write_text("seed: 7")
    write_json(other / "metrics.json", METRICS | {"created": "2026-11-29T12:00:00+00:00"})
    record_hashes(other)
    assert track_run(run_folder, SERVER) != track_run(other, SERVER)


def test_a_run_that_was_changed_is_not_logged(run_folder, client):
    (run_folder / "model.keras").write_text("changed")
    with pytest.raises(ReleaseError, match=r"model\.keras"):
        track_run(run_folder, SERVER)
    assert not client.runs


def test_the_alias_follows_the_champion(workspace, run_folder, write_run, client):
    assert track_champion(workspace, SERVER) is None
    first = register_version(workspace, run_folder)
    later = write_run()
    (later / "config.yaml").write_text("seed: 8")
    write_json(later / "metrics.json", METRICS | {"created": "2026-11-29T12:00:00+00:00"})
    record_hashes(later)
    second = register_version(workspace, later)
    for change, number in (
        (lambda: promote(workspace, first, "good"), "1"),
        (lambda: promote(workspace, second, "better"), "2"),
        (lambda: roll_back(workspace, reason="worse"), "1"),
    ):
        change()
        for _ in range(2):
            track_champion(workspace, SERVER)
            assert client.aliases == {("hips", "champion"): number}
    assert [model.tags["hip_mri.version"] for model in client.models["hips"]] == ["0001", "0002"]
    assert client.models["hips"][1].tags["hip_mri.model_sha256"] == second.model_sha256
    assert [run.info.status for run in client.runs.values()] == ["FINISHED", "FINISHED"]


@pytest.mark.parametrize("is_gone", [True, False])
def test_without_its_run_folder_the_champion_is_logged_from_its_version(workspace, run_folder, client, is_gone):
    promote(workspace, register_version(workspace, run_folder), "good")
    if is_gone:
        track_run(run_folder, SERVER)  # the run is found, though its folder is not
    (run_folder / "model.keras").unlink()
    track_champion(workspace, SERVER)
    (run,) = client.runs.values()
    assert (run.info.run_name, run.info.status, run.params["seed"]) == ("run 0001", "FINISHED", "7")
    assert client.aliases == {("hips", "champion"): "1"}


def test_an_alias_that_cannot_be_set_is_an_error_with_the_next_step(workspace, run_folder, client):
    promote(workspace, register_version(workspace, run_folder), "good")
    client.fail_once("set_registered_model_alias")
    with pytest.raises(TrackingError, match=r"version 0001 is the champion.* hip-mri models track "):
        track_champion(workspace, SERVER)


def test_without_mlflow_an_address_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    check_tracking(TrackingSettings())
    with pytest.raises(SettingsError, match=r"^tracking\.mlflow_uri: .*pip install -e '\.\[mlflow\]'"):
        check_tracking(SERVER)
    with pytest.raises(SettingsError, match=r"--tracking\.mlflow-uri"):
        check_tracking(TrackingSettings(), is_needed=True)


def ask_program(code: str, run_folder: Path, timeout_seconds: float, monkeypatch: pytest.MonkeyPatch) -> str:
    """Message of the error if a program of a line stands in for the client."""
    monkeypatch.setattr(tracking, "CLIENT", (sys.executable, "-c", code))
    monkeypatch.setattr(tracking, "GRACE_SECONDS", 0.1)
    with pytest.raises(TrackingError) as caught:
        track_run(run_folder, TrackingSettings(mlflow_uri=SERVER.mlflow_uri, timeout_seconds=timeout_seconds))
    return str(caught.value)


def test_a_client_that_hangs_is_ended(run_folder, monkeypatch):
    assert "no answer within 1.1 s" in ask_program("import time; time.sleep(600)", run_folder, 1, monkeypatch)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import os; os.abort()", "exit code -6"),
        ("print('no JSON')", "exit code 0"),
        ("import json; print('noise'); print(json.dumps({'error': 'x' * 9999}))", "xxx"),
    ],
    ids=["crashes", "says nothing", "says much"],
)
def test_whatever_the_client_does_is_an_error(run_folder, monkeypatch, code, cause):
    message = ask_program(code, run_folder, 600, monkeypatch)
    assert cause in message
    assert len(message) < 1000


def test_the_cause_is_that_of_the_network():
    def fail() -> None:
        try:
            raise ConnectionRefusedError("refused")
        except ConnectionRefusedError as error:
            raise ValueError("API request failed") from error

    with pytest.raises(ValueError, match="API") as caught:
        fail()
    assert str(find_cause(caught.value)) == "refused"
    assert str(find_cause(ValueError("no such run"))) == "no such run"


# With MLflow itself


@pytest.fixture
def _real_client(monkeypatch: pytest.MonkeyPatch) -> None:
    if not tracking.importlib.util.find_spec("mlflow"):
        pytest.skip("MLflow is not installed")
    monkeypatch.setattr(tracking, "ENVIRONMENT", tracking.ENVIRONMENT | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1"})


@pytest.fixture
def start_server() -> Iterator[Callable[[str], str]]:
    """Starts a server that answers every request in the same way."""
    servers: list[ThreadingHTTPServer] = []
    is_over = threading.Event()

    def start(answer: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if answer == "hang":
                    is_over.wait(60)
                elif answer == "retry after an hour":
                    self.send_response(503)
                    self.send_header("Retry-After", "3600")
                    self.end_headers()
                else:
                    self.send_error(int(answer))

            do_POST = do_GET  # noqa: N815 - a name of the standard library's

            def log_message(self, *arguments: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    is_over.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.system
@pytest.mark.usefixtures("_real_client")
@pytest.mark.parametrize(
    ("answer", "cause"), [("hang", "Timeout"), ("500", "500"), ("404", "404"), ("retry after an hour", "503")]
)
def test_a_server_that_does_not_work_is_an_error_with_its_cause(run_folder, start_server, answer, cause):
    with pytest.raises(TrackingError, match=cause):
        track_run(run_folder, TrackingSettings(mlflow_uri=start_server(answer), timeout_seconds=60))


@pytest.mark.system
@pytest.mark.usefixtures("_real_client")
@pytest.mark.parametrize(
    ("address", "cause"),
    [("http://127.0.0.1:9", "ConnectionRefused"), ("sqlite:////proc/hip/mlflow.db", "No such file")],
)
def test_a_place_that_is_not_there_is_an_error_with_its_cause(run_folder, address, cause):
    with pytest.raises(TrackingError, match=cause):
        track_run(run_folder, TrackingSettings(mlflow_uri=address, timeout_seconds=60))


@pytest.mark.system
@pytest.mark.usefixtures("_real_client")
def test_a_database_file_gets_run_and_alias(workspace, run_folder, tmp_path):
    """The tables of MLflow are read by SQL."""
    promote(workspace, register_version(workspace, run_folder), "good")
    settings = TrackingSettings(mlflow_uri=f"sqlite:///{tmp_path / 'mlflow.db'}", name="hips", timeout_seconds=120)
    track_run(run_folder, settings)
    track_champion(workspace, settings)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        (run,) = database.execute("select run_uuid, status, name, end_time - start_time, artifact_uri from runs")
        assert run[1:4] == ("FINISHED", "run 0001", 10_000)
        assert database.execute("select value from params where key = 'seed'").fetchall() == [("7",)]
        values = dict(database.execute("select key, value from latest_metrics"))
        assert (values["test/auc_upper"], values["epoch/val_loss"]) == (0.9375, 0.375)
        assert database.execute("select count(*) from metrics where key = 'epoch/loss'").fetchone() == (2,)
        (model,) = database.execute("select name, version, run_id from model_versions")
        assert model == ("hips", 1, run[0])
        aliases = database.execute("select name, alias, version from registered_model_aliases").fetchall()
        assert aliases == [("hips", "champion", 1)]
    database.close()
    folder = Path(run[4].removeprefix("file://"))
    assert folder.is_relative_to(tmp_path / "mlartifacts")
    assert {file.name for file in folder.rglob("*") if file.is_file()}.isdisjoint(PRIVATE)
    assert (folder / "model" / "model.keras").read_bytes() == (run_folder / "model.keras").read_bytes()
    for private in (tmp_path / "mlflow.db", tmp_path / "mlartifacts"):
        assert private.stat().st_mode & 0o077 == 0
