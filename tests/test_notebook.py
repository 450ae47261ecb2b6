"""The notebook, run from the first cell to the last on small images."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from hip_mri.config import PipelineConfig
from hip_mri.sources.fetch import check_source
from tests.conftest import write_source

pytestmark = pytest.mark.system(ci=True)

ROOT = Path(__file__).parents[1]
SMALL = {
    "preprocessing": {"image_size": 32},
    "model": {"backbone": "ResNet50", "weights": "random", "hidden_units": 16},
    "features": {"engine": "keras", "precision": "float32"},
    "training": {"epochs": 3, "batch_size": 16},
    "data": {"val_fraction": 0.2, "test_fraction": 0.2},
    "evaluation": {"num_resamples": 200, "cross_validation_seeds": 0},
}
PICTURES = ["learning-curves", "confusion-matrix", "roc", "precision-recall", "explanations"]

Cells = dict[str, NotebookNode]


def read_notebook(**choices: object) -> NotebookNode:
    """The notebook as it is committed, with `choices` typed into the cell that is there for them."""
    notebook = nbformat.read(ROOT / "hip.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    offered = dict(re.findall(r"(?m)^(\w+) = (.*)$", cell.source))
    assert offered.keys() >= choices.keys(), "the cell offers no such choice"
    chosen = offered | {name: repr(value) for name, value in choices.items()}
    cell.source = "\n".join(f"{name} = {value}" for name, value in chosen.items())
    return notebook


def list_cells(notebook: NotebookNode) -> Cells:
    """The cells with code by their id."""
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def execute(notebook: NotebookNode, folder: Path) -> Cells:
    """Run all cells in a kernel that works in `folder`, with a Prefect of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_LOGGING_TO_API_ENABLED": "false"}
    environment |= {"IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": str(ROOT)}
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment)
    return list_cells(notebook)


def read_text(cell: NotebookNode, stream: str) -> str:
    """What a cell wrote to a stream, `stdout` or `stderr`."""
    written = (output for output in cell.outputs if output.output_type == "stream")
    return "".join(output.text for output in written if output.name == stream)


def collect(cell: NotebookNode, kind: str) -> list[str]:
    """What a cell shows of a media type, such as `image/png`."""
    return [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel's working folder."""
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def executed(folder: Path) -> Cells:
    """The cells after a run."""
    write_source(folder / "hip.zip")
    return execute(read_notebook(SOURCE="hip.zip", SETTINGS=SMALL), folder)


def test_it_is_committed_without_outputs() -> None:
    notebook = read_notebook()
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in list_cells(notebook).values():
        assert (cell.outputs, cell.execution_count) == ([], None)


def test_pictures_stand_below_their_cells(executed: Cells) -> None:
    shown = {name: pictures for name, cell in executed.items() if (pictures := collect(cell, "image/png"))}
    assert {name: len(pictures) for name, pictures in shown.items()} == dict.fromkeys(PICTURES, 1)
    assert all(len(collect(executed[name], "text/markdown")) == 1 for name in PICTURES)  # how to read it


def test_nothing_goes_wrong_on_the_way(executed: Cells) -> None:
    for cell in executed.values():
        assert all(output.output_type != "error" for output in cell.outputs)
        assert "Traceback" not in read_text(cell, "stdout")
        assert read_text(cell, "stderr") == ""


def test_progress_is_printed_line_by_line(executed: Cells) -> None:
    lines = read_text(executed["run"], "stdout").splitlines()
    assert sum(re.fullmatch(r"\d\d:\d\d:\d\d  Epoch 3 of 3: loss .*", line) is not None for line in lines) == 1


def test_metrics_are_a_table_below_their_notices(executed: Cells) -> None:
    (table,) = collect(executed["metrics"], "text/html")
    assert all(title in table for title in ("AUC", "Sensitivity", "95 % interval (test)"))
    assert any("RANDOM WEIGHTS" in notice for notice in collect(executed["metrics"], "text/markdown"))


def test_the_report_is_linked(executed: Cells, folder: Path) -> None:
    (link,) = collect(executed["report"], "text/html")
    (address,) = re.findall(r"href='([^']+)'", link)
    assert (folder / address).name == "report.html"
    assert (folder / address).is_file()


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"SOURCE": "hop.zip"}, r"error: source: there is no such file or folder\. Give the path of a zip .*\n"),
        ({"SETTINGS": {"training": {"epochs": 0}}}, r"error: 1 validation error .*\ntraining\.epochs\n.*"),
    ],
)
def test_wrong_input_is_reported_in_one_message(tmp_path: Path, choices: dict[str, object], message: str) -> None:
    notebook = read_notebook(**choices)
    with pytest.raises(CellExecutionError):
        execute(notebook, tmp_path)
    cells = list_cells(notebook)
    assert re.match(message, read_text(cells["source"], "stderr"))
    assert "Traceback" not in str(cells["source"].outputs)
    assert not cells["run"].outputs


@pytest.fixture
def install() -> Callable[[str], None]:
    """The function that installs; the cell around it does nothing here, where all is installed."""
    names: dict = {}
    exec(list_cells(read_notebook())["install"].source, names)
    return names["install"]


def test_the_locked_versions_are_installed(install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements.lock").write_text(
        "# made by make lock\nkeras==3.15.1 \\\n    --hash=sha256:ab\n    # via hip-mri\n"
        "appnope==1.0.0 ; sys_platform == 'darwin' \\\n    --hash=sha256:cd\n"
    )
    seen = []

    def pretend(command: list, check: bool) -> None:
        if "-c" not in command:
            assert command[-1].startswith("uv==")
            return
        versions = Path(command[command.index("-c") + 1]).read_text()
        seen.append(([line.strip() for line in versions.splitlines()], command[-1]))

    monkeypatch.setattr(subprocess, "run", pretend)
    install(str(tmp_path))
    assert seen == [(["keras==3.15.1", "appnope==1.0.0 ; sys_platform == 'darwin'"], tmp_path)]


def test_a_git_address_is_cloned_first(install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def pretend(command: list, check: bool) -> None:
        seen.append(command)
        if command[0] == "git":
            command[-1].mkdir()
            (command[-1] / "requirements.lock").write_text("keras==3.15.1\n")

    monkeypatch.setattr(subprocess, "run", pretend)
    monkeypatch.chdir(tmp_path)
    install("https://example.org/hip-mri.git")
    assert [command[0] == "git" for command in seen] == [True, False, False]
    assert "https://example.org/hip-mri.git" in seen[0]
    assert seen[2][-1] == seen[0][-1]


def test_colab_mounts_drive_and_hands_over_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells, seen = list_cells(read_notebook()), []

    def mount(place: str) -> None:
        seen.append(place)
        (tmp_path / "drive" / "MyDrive").mkdir(parents=True)
        write_source(tmp_path / "drive" / "MyDrive" / "hip.zip", 1, 1)

    colab = SimpleNamespace(drive=SimpleNamespace(mount=mount), files=SimpleNamespace(download=seen.append))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    names = {"SOURCE": "drive/MyDrive/hip.zip", "WORKSPACE": "workspace", "SETTINGS": {}, "run": tmp_path}
    names |= {"sys": sys, "os": os, "Path": Path, "FileLink": str}
    names |= {"PipelineConfig": PipelineConfig, "check_source": check_source}
    exec(cells["source"].source, names)
    exec(cells["report"].source, names)
    assert seen == ["/content/drive", str(tmp_path / "report.html")]
