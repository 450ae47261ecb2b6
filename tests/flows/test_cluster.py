"""The flow on a Dask cluster of real processes, one of which is killed, against the same flow in this process."""

import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from distributed import Client
from prefect.client.schemas.objects import TaskRun

from hip_mri.config import PipelineConfig
from hip_mri.errors import ClusterError
from hip_mri.workspace import Workspace
from tests.clusters import PROJECT, Cluster, open_only, run_dying, start_cluster
from tests.flows.test_pipeline import check_graph, configure, run

pytestmark = pytest.mark.system(ci=True)

NETWORKS = {"prepare_backbone", "choose_features", "extract_features", "train_model", "cross_validate_fold"}


@dataclass
class Trap:
    """A source image that blocks the process that reads it until that process is killed.

    Attributes:
        image: The image's file, a named pipe while the trap is set.
        victim: Name of the worker that was killed.
        finished: Preprocessed files that were there at its death, with their inodes.
    """

    image: Path | None = None
    victim: str = ""
    finished: dict[Path, int] | None = None

    def set(self, workspace: Workspace) -> None:
        image = min(workspace.images_folder.glob("*/*"))
        image.rename(image.with_suffix(".real"))
        os.mkfifo(image)
        self.image = image

    def spring(self, cluster: Cluster, workspace: Workspace) -> None:
        """Wait until a worker reads the image and something is finished; kill the worker, and repair the image."""
        while self.image is None or (writer := open_for_writing(self.image)) is None:
            time.sleep(0.05)
        while not (victim := cluster.find_reader(self.image)):
            time.sleep(0.05)
        while not (finished := list(workspace.preprocessed_folder.glob("*/*/[!.]*.png"))):
            time.sleep(0.05)
        self.finished = {file: file.stat().st_ino for file in finished}
        cluster.kill(victim)
        self.image.with_suffix(".real").rename(self.image)
        os.close(writer)
        self.victim = victim


def open_for_writing(pipe: Path) -> int | None:
    """A descriptor, once there is a reader."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


class Lines(logging.Handler):
    """Keeps the library's lines, and lets a test act when one appears."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.texts: list[str] = []
        self.actions: dict[str, Callable[[], None]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self.actions.get(self.texts[-1], lambda: None)()


@pytest.fixture(scope="module")
def lines() -> Iterator[Lines]:
    library, kept = logging.getLogger("hip_mri"), Lines()
    level = library.level
    library.setLevel(logging.INFO)
    library.addHandler(kept)
    yield kept
    library.removeHandler(kept)
    library.setLevel(level)


@dataclass
class Finished:
    folder: Path
    workspace: Path
    task_runs: list[TaskRun]
    trap: Trap
    places: dict[str, Counter[str]]
    log: tuple[str, ...]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, source_zip: Path) -> Path:
    return run(configure(source_zip, tmp_path_factory.mktemp("local")))[0]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with start_cluster() as running:
        running.start_worker("cpu-1", "--resources", "CPU=1")
        running.start_worker("cpu-2", "--resources", "CPU=1")
        running.start_worker("gpu", "--resources", "GPU=1")
        with Client(running.address, set_as_default=False, timeout=60) as client:
            client.wait_for_workers(3, timeout=120)
        yield running


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory, source_zip: Path, cluster: Cluster, lines: Lines) -> Finished:
    """The whole flow on the cluster; a CPU worker is killed while it preprocesses a shard."""
    config = configure(
        source_zip, tmp_path_factory.mktemp("spread"), runner={"kind": "dask", "dask_address": cluster.address}
    )
    workspace, trap = Workspace(config.workspace.resolve()), Trap()
    lines.actions["preprocess_images ..."] = lambda: trap.set(workspace)
    killer = threading.Thread(target=trap.spring, args=(cluster, workspace), daemon=True)
    with Client(cluster.address, set_as_default=False) as client:
        names = {address: worker["name"] for address, worker in client.scheduler_info()["workers"].items()}
        client.get_task_stream()
        killer.start()
        folder, task_runs = run(config)
        stream = client.get_task_stream()
    killer.join(timeout=30)
    places: dict[str, Counter[str]] = {}
    for entry in stream:
        places.setdefault(entry["key"].rpartition("-")[0], Counter())[names[entry["worker"]]] += 1
    return Finished(folder, workspace.root, task_runs, trap, places, tuple(lines.texts))


def read_outputs(workspace: Path) -> dict[str, bytes]:
    parts = ("preprocessed/*/*/*.png", "features/*/*.*", "fingerprints/*/*.npy", "DATA/*/*/*.png")
    return {
        str(file.relative_to(workspace)): file.read_bytes() for part in parts for file in sorted(workspace.glob(part))
    }


def test_fault_58_a_killed_worker_changes_nothing(spread: Finished, local: Path) -> None:
    assert spread.trap.victim in ("cpu-1", "cpu-2")
    assert read_outputs(spread.workspace) == read_outputs(local.parents[1])
    tables = (
        "predictions",
        "folds",
        "leakage",
        "neighbours",
        "shortcuts",
        "training_sizes",
        "label_review",
        "history",
        "manifest",
    )
    for name in (f"{table}.csv" for table in tables):
        assert (spread.folder / name).read_bytes() == (local / name).read_bytes(), name


def test_what_was_finished_is_not_done_again(spread: Finished) -> None:
    assert spread.trap.finished
    assert {file: file.stat().st_ino for file in spread.trap.finished} == spread.trap.finished
    assert sum(task_run.name.startswith("preprocess_images") for task_run in spread.task_runs) == 8
    unfinished = [run for run in spread.task_runs if run.state_name not in ("Completed", "Cached")]
    assert [(run.name, run.state) for run in unfinished] == []


def test_the_server_knows_the_dependencies_of_task_runs(spread: Finished) -> None:
    check_graph(spread.task_runs)


def test_networks_run_on_the_worker_with_a_gpu_and_nothing_else_does(spread: Finished) -> None:
    on_gpu = {task_name for task_name, workers in spread.places.items() if "gpu" in workers}
    assert on_gpu == NETWORKS
    assert all(set(spread.places[task_name]) == {"gpu"} for task_name in NETWORKS)
    assert spread.places["train_model"] == {"gpu": 1}
    assert set(spread.places["preprocess_images"]) <= {"cpu-1", "cpu-2"}


def test_epochs_of_another_process_are_shown_here(spread: Finished) -> None:
    epochs = [line.partition(":")[0] for line in spread.log if line.startswith("Epoch")]
    assert epochs == [f"Epoch {number} of 3" for number in (1, 2, 3)]
    assert any(line.startswith("Dask cluster at tcp:") and "(1 with a GPU)" in line for line in spread.log)


def test_the_killed_worker_is_named_with_what_is_repeated(spread: Finished) -> None:
    (line,) = [line for line in spread.log if line.startswith("Dask worker")]
    assert spread.trap.victim in line
    assert "preprocess_images" in line


def configure_cluster(cluster: Cluster, workspace: Workspace) -> PipelineConfig:
    runner = {"kind": "dask", "dask_address": cluster.address}
    return PipelineConfig.model_validate({"workspace": workspace.root, "runner": runner})


def test_a_task_run_that_kills_its_worker_ends_with_advice(workspace: Workspace) -> None:
    with start_cluster(DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0") as cluster:
        cluster.start_worker("one")
        with pytest.raises(ClusterError, match=r"workers died, 1 .*runner\.shard"):
            run_dying(configure_cluster(cluster, workspace))


def test_a_worker_with_other_code_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    for package in ("hip_mri", "tasks", "flows"):
        shutil.copytree(PROJECT / package, tmp_path / "other" / package)
    (tmp_path / "other" / "flows" / "added.py").write_text("# not here\n")
    with start_cluster() as cluster:
        cluster.start_worker("other", folder=tmp_path / "other")
        with pytest.raises(ClusterError, match=r"hip-mri \w{12}, this process \w{12}"):
            open_only(configure_cluster(cluster, workspace))
