"""Faults 52 and 53: flows run on sources full of invented names, and all their outputs are searched for them.

Allowed are the names themselves in one private file of the workspace (and, of scored images, in the user's own
`names.csv`), and the paths that the user gave to Prefect among the run's parameters.
"""

import json
import stat
import subprocess
import sys
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.faults.canaries import CANARIES, GIVEN, TOKEN, UID, name_patient, pack, plant_files, plant_refused, spread
from tests.faults.canary_search import find_words, list_files, list_rows
from tests.flows.servers import Prefect, make_prefect
from tests.processes import run_program, run_python

pytestmark = pytest.mark.system

NAMES = (*CANARIES, UID)
SETTINGS = {
    "preprocessing": {"image_size": 32},
    "model": {"backbone": "ResNet50", "weights": "random", "hidden_units": 16},
    "training": {"epochs": 2, "batch_size": 16},
    "data": {"val_fraction": 0.2, "test_fraction": 0.25},
    "evaluation": {
        "num_resamples": 200,
        "cross_validation_folds": 2,
        "cross_validation_seeds": 1,
        "min_subgroup_size": 5,
    },
}
SECRET_ADDRESS = f"https://{TOKEN}user:{TOKEN}@127.0.0.1:9/{name_patient('ADDRESS')}.zip?X-Amz-Signature={TOKEN}"
WORKSPACES = ("workspace", "refused", "env-HIP_SOURCE", "secret-hip-source", "secret-hip-mistyped")
REFUSE_ALL = """
import json, sys
import keras  # which a flow loads in a thread that keeps standard error closed meanwhile
from flows.cli.main import run_command
for kind, options in json.load(sys.stdin):
    print("status", kind, run_command(["run", *options]), flush=True)
"""


@dataclass
class Clinic:
    """A folder with a Prefect of its own, and what its flows said on their way."""

    folder: Path
    environment: dict[str, str]
    said: dict[str, str] = field(default_factory=dict)

    def run(self, flow: str, *options: object) -> None:
        """A flow started from the command line."""
        command = [sys.executable, "-m", f"flows.{flow}", *map(str, options), "--workspace", self.folder / "workspace"]
        done = self.start(f"{flow} {len(self.said)}", command)
        assert done.returncode == 0, done.stderr[-3000:]

    def start(
        self, name: str, command: list, standard_input: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        given = {"environment": self.environment | environment, "standard_input": standard_input}
        done = run_program(*command, **given, timeout_seconds=600)
        self.said[name] = done.stdout + done.stderr
        return done


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory):
    """Everything that a user does in two months, done; the server is stopped, so that all is in its database."""
    folder = tmp_path_factory.mktemp("canary")
    home = {"PREFECT_LOGGING_TO_API_ENABLED": "true", "TMPDIR": str(folder / "temporary")}
    (folder / "temporary").mkdir()
    prefect = make_prefect(folder / "prefect")
    clinic = Clinic(folder, prefect.environment | home)
    settings = folder / "settings.yaml"
    settings.write_text(yaml.safe_dump(SETTINGS))
    with prefect.serve({"PREFECT_LOGGING_TO_API_ENABLED": "true"}):
        _train(clinic, settings)
        _retrain(clinic, settings)
        _predict(clinic)
        _refuse(clinic, settings)
        _tell_secrets(clinic, settings)
        _ask_for_a_run_with_a_token(prefect)
        time.sleep(5)  # the server writes events and logs in batches
    return clinic


def _train(clinic: Clinic, settings: Path) -> None:
    source = clinic.folder / f"{GIVEN} 金" / f"{GIVEN}.zip"
    pack(plant_files(30, 24, seed=1), source, top=f"{name_patient('TOP')}/")
    clinic.run("pipeline", "--config", settings, "--source", source)


def _retrain(clinic: Clinic, settings: Path) -> None:
    incoming = clinic.folder / f"{GIVEN} incoming"
    options = (
        "--config",
        settings,
        "--sources",
        incoming,
        "--retrain.min-new-images",
        5,
        "--retrain.accept-drift",
        "true",
    )
    pack(plant_files(12, 10, seed=2), incoming / f"{name_patient('ZIP')} 1.zip")
    clinic.run("retrain", *options)
    spread(plant_files(12, 10, seed=3), incoming / f"{name_patient('DELIVERED')} 2")
    clinic.run("retrain", *options)


def _predict(clinic: Clinic) -> None:
    files = plant_files(6, 4, seed=4)
    run = clinic.folder / "workspace" / "runs" / "0001"
    zipped = pack(files, clinic.folder / f"{GIVEN} new.zip", top=f"{name_patient('NEWTOP')}/")
    for source in (zipped, spread(files, clinic.folder / f"{GIVEN} new")):
        clinic.run("predict", "--source", source, "--model", run)


def _refuse(clinic: Clinic, settings: Path) -> None:
    common = ["--config", str(settings), "--workspace", str(clinic.folder / "refused")]
    kinds = [(kind, [*common, *options]) for kind, options in plant_refused(clinic.folder)]
    done = clinic.start("refused", [sys.executable, "-c", REFUSE_ALL], standard_input=json.dumps(kinds))
    statuses = [line for line in done.stdout.splitlines() if line.startswith("status ")]
    assert statuses == [f"status {kind} 1" for kind, _ in kinds], done.stdout + done.stderr[-3000:]
    assert "unknown: 1 of another name" in done.stderr


def _tell_secrets(clinic: Clinic, settings: Path) -> None:
    """An address with a token: refused as a setting, taken from the environment and from a Secret block."""
    command = [sys.executable, "-m", "flows.pipeline", "--config", settings]
    refused = clinic.start("token in the settings", [*command, "--source", SECRET_ADDRESS])
    assert refused.returncode == 2
    assert "give env:NAME" in refused.stderr
    mistyped = SECRET_ADDRESS.replace("://", ":/")
    save = "from prefect.blocks.system import Secret; " + "; ".join(
        f"Secret(value={address!r}).save({name!r})"
        for name, address in (("hip-source", SECRET_ADDRESS), ("hip-mistyped", mistyped))
    )
    assert clinic.start("block", [sys.executable, "-c", save]).returncode == 0

    def fetch(source: str) -> subprocess.CompletedProcess[str]:
        workspace = clinic.folder / source.replace(":", "-")
        given = [*command, "--source", source, "--workspace", workspace]
        return clinic.start(source, given, HIP_SOURCE=SECRET_ADDRESS)

    failed = "source: https://127.0.0.1:9/... could not be fetched (ClientConnectorError)"
    expected = {"env:HIP_SOURCE": failed, "secret:hip-source": failed}
    expected["secret:hip-mistyped"] = "source: an address that begins like this one, with https:, is not supported."
    with ThreadPoolExecutor() as threads:  # they wait between their tries
        for source, done in zip(expected, threads.map(fetch, expected), strict=True):
            assert done.returncode == 1
            assert expected[source] in done.stderr


def _ask_for_a_run_with_a_token(prefect: Prefect) -> None:
    """What the UI does: the server refuses by the schema, before anything is kept."""
    from flows.pipeline import hip_pipeline

    flow = prefect.ask("/flows/", {"name": "hip-pipeline"})
    schema = hip_pipeline.parameters.model_dump(exclude_unset=True, mode="json")
    deployment = {"name": "canary", "flow_id": flow["id"], "parameter_openapi_schema": schema}
    made = prefect.ask("/deployments/", deployment | {"enforce_parameter_schema": True})
    for source in (SECRET_ADDRESS, f" {SECRET_ADDRESS}", f"env:{SECRET_ADDRESS}", "https://example.org/a.zip?dl=1"):
        config = {"source": source}
        place = f"/deployments/{made['id']}/create_flow_run"
        if TOKEN in source:
            with pytest.raises(urllib.error.HTTPError, match="409"):
                prefect.ask(place, {"parameters": {"config": config}})
        else:
            assert prefect.ask(place, {"parameters": {"config": config}})["parameters"] == {"config": config}


def test_fault_53_a_workspace_holds_names_in_private_files_alone(clinic: Clinic) -> None:
    for workspace in (clinic.folder / name for name in WORKSPACES):
        mapping = workspace / "names.parquet"
        results = list(workspace.glob("predictions/*/names.csv"))
        drafts = list(workspace.glob("runs/*/patients_draft.csv"))
        assert find_words((*NAMES, GIVEN, TOKEN), list_files(workspace, {mapping, *results, *drafts})) == []
        for private in [*results, *drafts, *([mapping] if mapping.exists() else [])]:
            assert stat.S_IMODE(private.stat().st_mode) == 0o600
        assert len(results) == (2 if workspace.name == "workspace" else 0)


def test_the_search_finds_what_is_there(clinic: Clinic) -> None:
    mapping = clinic.folder / "workspace" / "names.parquet"
    assert find_words(CANARIES, [("mapping", mapping.read_bytes()), *list_files(mapping.parent)])
    places = [place for place in list_files(clinic.folder) if GIVEN in place[0]]
    assert {word for word in NAMES if find_words([word], places)} == set(NAMES)


def test_fault_53_nothing_is_said_of_names_or_given_paths(clinic: Clinic) -> None:
    said = [(name, text.encode()) for name, text in clinic.said.items()]
    log = clinic.folder / "prefect" / "server.log"
    assert find_words((*NAMES, GIVEN, TOKEN), [*said, ("server", log.read_bytes())]) == []
    assert all(text.strip() for name, text in clinic.said.items() if name != "block")


def test_fault_53_prefect_keeps_no_name(clinic: Clinic) -> None:
    home = clinic.folder / "prefect"
    assert find_words((*NAMES, TOKEN), list_files(home)) == []
    rows = list(list_rows(home / "prefect.db"))
    assert find_words((*NAMES, TOKEN), [(f"{table}.{column}", content) for table, column, content in rows]) == []
    kept = {(table, column) for table, column, content in rows if find_words([GIVEN], [("", content)])}
    assert kept == {("flow_run", "parameters")}
    assert {"log", "artifact", "events", "flow_run_state"} <= {table for table, _, _ in rows}


def test_fault_53_nothing_is_left_in_the_temporary_folder(clinic: Clinic) -> None:
    assert find_words((*NAMES, GIVEN, TOKEN), list_files(clinic.folder / "temporary")) == []


def test_a_name_is_found_again_by_its_owner(clinic: Clinic) -> None:
    workspace = clinic.folder / "workspace"
    table = run_python("-c", "from flows.cli.main import main; main()", "names", workspace).stdout
    assert table.count(name_patient("FOLDER")) == 54 + 22 + 22
    assert "control\\x1b[31m.png" in table
