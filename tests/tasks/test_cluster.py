"""Checks of a cluster before a run, and the threads of its workers."""

import importlib
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from hip_mri.config import DEFAULT_DASK_ADDRESS, RunnerSettings
from hip_mri.errors import ClusterError, SettingsError, WorkspaceError
from hip_mri.workspace import Workspace
from tasks.task_runners import dask_checks, dask_cluster
from tasks.task_runners.configured import choose_task_runner
from tasks.task_runners.dask_checks import Member, check_workers, describe_member, list_versions
from tasks.task_runners.dask_workers import describe_repeated


def make_member(host: str = "alpha", num_cores: int = 8, num_slots: int = 1, *resources: str, **faults) -> Member:
    given = {"versions": list_versions()} | faults
    return Member(host, num_cores, num_slots=num_slots, resources=frozenset(resources), **given)


class Answers:
    """A client whose workers return the given answers."""

    def __init__(self, *members: Member | Exception) -> None:
        self.members = {f"tcp://10.0.0.{place}:9": member for place, member in enumerate(members)}

    def run(self, function, *questions, on_error):
        return self.members

    def scheduler_info(self):
        return {"workers": {address: {"nthreads": 4, "resources": {"CPU": 2.0}} for address in self.members}}


def test_dask_without_its_packages_is_refused_at_once(workspace: Workspace, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "tasks.task_runners.dask_cluster")  # it is loaded anew
    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    monkeypatch.setitem(sys.modules, "prefect_dask.task_runners", None)
    with pytest.raises(SettingsError, match=r"runner\.kind: .*pip install -e '.\[dask\]'"):
        choose_task_runner(RunnerSettings(kind="dask"), workspace, ExitStack())


def test_other_missing_modules_do_not_name_the_extra(workspace: Workspace, monkeypatch) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError("no cv2", name="cv2")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match="no cv2"):
        choose_task_runner(RunnerSettings(kind="dask"), workspace, ExitStack())


@pytest.mark.parametrize(
    ("members", "num_threads", "expected"),
    [
        ([make_member(num_cores=8)], 0, 8),
        ([make_member(num_cores=8)] * 2, 0, 4),
        ([make_member(num_cores=8, num_slots=3)], 0, 2),
        ([make_member("alpha", 16), make_member("beta", 4)], 0, 4),
        ([make_member(num_cores=2)] * 5, 0, 1),
        ([make_member("alpha"), make_member("beta")], 6, 3),
        ([make_member("alpha"), make_member("beta")], 1, 1),
    ],
)
def test_threads_fit_the_most_crowded_machine(members, num_threads: int, expected: int) -> None:
    assert dask_cluster.divide_threads(members, num_threads) == expected


def test_members_are_described_in_a_phrase() -> None:
    assert dask_cluster.describe_members([make_member()]) == "1 worker on alpha"
    members = [make_member("beta"), make_member("alpha", 8, 1, "GPU"), make_member("alpha")]
    assert dask_cluster.describe_members(members) == "3 workers on alpha, beta (1 with a GPU)"


def test_variables_that_change_numbers_must_be_the_same_everywhere(workspace: Workspace, monkeypatch) -> None:
    member = make_member("beta")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    with pytest.raises(ClusterError, match=r"beta .* {}, this process {'TF_ENABLE_ONEDNN_OPTS': '0'}"):
        check_workers(Answers(member), workspace, "http://h:4200/api")


def test_slots_and_resources_come_from_the_scheduler(workspace: Workspace) -> None:
    (member,) = check_workers(Answers(make_member()), workspace, "http://127.0.0.1:9/api")
    assert (member.num_slots, member.resources) == (2, {"CPU"})
    assert not list(workspace.root.glob(".hip-mri-*"))


@pytest.mark.parametrize(
    ("answers", "kind", "text"),
    [
        (
            [make_member(), make_member("beta", versions=list_versions() | {"hip-mri": "0" * 12, "Python": "3.9"})],
            ClusterError,
            r"beta has Python 3.9, this process 3\.\d+, beta has hip-mri 0{12}, this process \w{12}",
        ),
        (
            [make_member(), make_member("beta", versions=list_versions() | {"Keras's backend": "jax"})],
            ClusterError,
            r"beta .* jax, this process tensorflow",
        ),
        ([make_member(), ModuleNotFoundError("tasks")], ClusterError, r"tcp://10.0.0.1:9 \(tasks\)"),
        (
            [make_member("beta", server_fault="refused"), make_member("gamma", server_fault="refused"), make_member()],
            ClusterError,
            r"http://h:4200/api: beta \(refused\), gamma \(refused\)",
        ),
        (
            [make_member("beta", workspace_fault="not there"), make_member()],
            WorkspaceError,
            r"beta \(not there\)",
        ),
    ],
)
def test_workers_that_cannot_do_the_work_are_named(workspace: Workspace, answers, kind, text: str) -> None:
    with pytest.raises(kind, match=text):
        check_workers(Answers(*answers), workspace, "http://h:4200/api")


def describe(token_file: Path) -> Member:
    return describe_member(token_file, "token", {}, "http://127.0.0.1:9/api", "0" * 32)


def test_a_worker_reports_why_it_cannot_use_the_workspace(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(dask_checks, "SERVER_TIMEOUT_SECONDS", 1)
    token = tmp_path / "token"
    assert "FileNotFoundError" in str(describe(token).workspace_fault)
    token.write_text("another")
    assert "another disk is mounted there" in str(describe(token).workspace_fault)
    token.write_text("token")
    member = describe(token)
    assert member.workspace_fault is None
    assert "refused" in str(member.server_fault)
    assert member.versions == list_versions()


def test_the_code_has_a_name_of_its_own(tmp_path: Path, monkeypatch) -> None:
    name = dask_checks.digest_code()
    assert dask_checks.digest_code() == name
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr(importlib.import_module("flows"), "__file__", str(tmp_path / "__init__.py"))
    assert dask_checks.digest_code() != name


@pytest.mark.parametrize(
    ("address", "source"), [("tcp://127.0.0.1:9", "runner.dask_address"), (DEFAULT_DASK_ADDRESS, DEFAULT_DASK_ADDRESS)]
)
def test_a_scheduler_that_does_not_answer_is_named(
    address: str, source: str, workspace: Workspace, monkeypatch
) -> None:
    monkeypatch.setattr(dask_cluster, "CONNECT_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:9")
    with (
        pytest.raises(ClusterError, match=rf"tcp://127.0.0.1:9 \({source}\): .*dask scheduler"),
        dask_cluster.ClusterTaskRunner(RunnerSettings(kind="dask", dask_address=address), workspace),
    ):
        pass


def test_the_address_comes_from_the_environment_if_it_is_set_there(monkeypatch) -> None:
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    assert dask_cluster.find_address(RunnerSettings(kind="dask")) is None
    other = RunnerSettings(kind="dask", dask_address="env:OTHER_ADDRESS")
    with pytest.raises(SettingsError, match="OTHER_ADDRESS"):
        dask_cluster.find_address(other)
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tls://a:1")
    monkeypatch.setenv("OTHER_ADDRESS", "tls://b:1")
    assert dask_cluster.find_address(RunnerSettings(kind="dask")) == "tls://a:1"
    assert dask_cluster.find_address(other) == "tls://b:1"
    assert dask_cluster.find_address(RunnerSettings(kind="dask", dask_address="tcp://c:1")) == "tcp://c:1"
    assert dask_cluster.find_address(RunnerSettings(kind="dask", dask_address=None)) is None


def test_task_runs_that_are_repeated_are_counted() -> None:
    assert "2 x b" in describe_repeated(iter(["b", "a", "b"]))
    assert "no task run" in describe_repeated(iter([]))
