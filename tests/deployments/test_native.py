"""The team set-up of `docs/deployment.md` on this machine: `up`, runs of the deployments, `status`, `down`."""

import base64
import json
import os
import signal
import socket
import stat
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deployments.credentials import read_environment
from deployments.native import describe_state, main
from deployments.postgres import Postgres
from deployments.register import read_automation, register_automation
from deployments.supervision import connect_supervisor, find_processes, is_supervised
from deployments.team import PORTS, TeamSetup
from hip_mri.errors import DeploymentError
from hip_mri.locks import hold_lock
from hip_mri.storage import write_json
from tests.flows.servers import wait_for
from tests.flows.test_pipeline import SMALL
from tests.processes import find_free_ports, run_python

PROGRAMS = {"database", "server", "cpu-worker", "gpu-worker", "dask-scheduler", "dask-worker"}


@dataclass(frozen=True)
class Team:
    """A set-up whose programs are running."""

    folder: Path

    @property
    def credentials(self) -> dict[str, str]:
        return read_environment(self.folder / "credentials.env")

    @property
    def login(self) -> str:
        return self.credentials["PREFECT_API_AUTH_STRING"]

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a user's shell after sourcing the credentials."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        return {**inherited, **self.credentials, "PREFECT_HOME": str(self.folder / "person")}

    @property
    def pids(self) -> dict[str, int]:
        return {info["name"]: info["pid"] for info in self.call_supervisor("getAllProcessInfo")}

    def list_processes(self) -> list[int]:
        return [process.pid for process in find_processes(self.folder)]

    def call_supervisor(self, method: str, *arguments: str) -> Any:
        with connect_supervisor(self.folder) as supervisor:
            return getattr(supervisor, method)(*arguments)

    def call(self, path: str, question: object = None, login: str | None = None, **headers: str) -> tuple[int, object]:
        """Status and answer of a call to the API."""
        headers = {"Content-Type": "application/json"} | {
            name.replace("_", "-"): text for name, text in headers.items()
        }
        if login is not None:
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        body = None if question is None else json.dumps(question).encode()
        request = urllib.request.Request(self.credentials["PREFECT_API_URL"] + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def ask(self, path: str, question: object = None) -> object:
        """Answer of a call with the login and a CSRF token."""
        client = str(uuid.uuid4())
        token = self.call(f"/csrf-token?client={client}", login=self.login)[1]
        headers = {"Prefect_Csrf_Token": token["token"], "Prefect_Csrf_Client": client}
        status, answer = self.call(path, question, self.login, **headers)
        assert status < 300, answer
        return answer


def run_native(*arguments: str) -> str:
    done = run_python("-m", "deployments.native", *arguments, timeout_seconds=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    try:
        Postgres(Path("nowhere"), 0, "postgres").find_programs()
    except DeploymentError as error:
        pytest.skip(str(error))
    names = [f"--{name.replace('_', '-')}-port" for name in PORTS]
    ports = [str(word) for pair in zip(names, find_free_ports(len(names)), strict=True) for word in pair]
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o711)  # root's PostgreSQL runs as another user, who must be able to pass
        team = Team(Path(temporary, "team"))
        try:
            run_native("up", "--folder", str(team.folder), *ports)
            yield team
        finally:
            run_native("down", "--folder", str(team.folder))
        assert find_processes(team.folder) == []
        assert not is_supervised(team.folder)
        assert describe_state(TeamSetup.read(team.folder)) == dict.fromkeys(PROGRAMS, "stopped")
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", int(ports[1])), timeout=5)


def list_open_addresses(pid: int) -> set[str]:
    """Addresses that a process listens at, in the notation of `/proc/net/tcp`: IPv4 with its bytes reversed."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}


@pytest.mark.system(ci=True)
def test_everything_is_up(team: Team) -> None:
    lines = run_native("status", "--folder", str(team.folder)).splitlines()
    assert {tuple(line.split()) for line in lines} == {(name, "ready") for name in PROGRAMS}


@pytest.mark.system(ci=True)
@pytest.mark.parametrize("login", [None, "admin:wrong", "admin:", ":", "no password"])
def test_a_call_without_the_login_is_refused(team: Team, login: str | None) -> None:
    for path in ("/work_pools/hip-mri", "/admin/version", "/deployments/name/hip-pipeline/default"):
        assert team.call(path, login=login)[0] == 401
        assert team.call(path, login=team.login)[0] == 200
    assert team.call("/health", login=login) == (200, True), "health checks need no login"


@pytest.mark.system(ci=True)
def test_a_change_needs_the_csrf_token(team: Team) -> None:
    status, answer = team.call("/variables/", {"name": "forged", "value": 1}, login=team.login)
    assert (status, answer["detail"]) == (403, "Missing CSRF token.")
    headers = {"Prefect_Csrf_Token": "guessed", "Prefect_Csrf_Client": str(uuid.uuid4())}
    assert team.call("/variables/", {"name": "forged", "value": 1}, login=team.login, **headers)[0] == 403
    assert team.ask("/variables/filter", {}) == []


@pytest.mark.system
def test_pages_of_other_sites_cannot_read_answers(team: Team) -> None:
    for origin, allowed in (("http://evil.example", None), (team.credentials["PREFECT_API_URL"][:-4], True)):
        request = urllib.request.Request(team.credentials["PREFECT_API_URL"] + "/health", headers={"Origin": origin})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.headers.get("Access-Control-Allow-Origin") == (origin if allowed else None)


@pytest.mark.system(ci=True)
def test_everything_listens_on_this_machine_only(team: Team) -> None:
    addresses = set().union(*(list_open_addresses(pid) for pid in team.list_processes()))
    assert addresses == {"0100007F"}, "127.0.0.1"


@pytest.mark.system(ci=True)
def test_secrets_are_private(team: Team) -> None:
    files = ["credentials.env", "server.env", "dask/authority.pem", "dask/certificate.pem"]
    assert {stat.S_IMODE((team.folder / file).stat().st_mode) for file in files} == {0o600}
    password = read_environment(team.folder / "server.env")["PREFECT_SERVER_DATABASE_PASSWORD"]
    secrets = [team.login.partition(":")[2], password]
    texts = [Path(f"/proc/{pid}/cmdline").read_text() for pid in team.list_processes()]
    texts += [file.read_text(errors="replace") for file in (team.folder / "logs").iterdir()]
    texts += [Path(f"/proc/{team.pids['database']}/environ").read_text()]
    assert not [text for text in texts if any(secret in text for secret in secrets)]
    worker = Path(f"/proc/{team.pids['cpu-worker']}/environ").read_text()
    assert password not in worker
    umask = os.umask(0o077)
    os.umask(umask)
    assert f"Umask:\t{umask:04o}" in Path(f"/proc/{team.pids['cpu-worker']}/status").read_text()
    assert stat.S_IMODE((team.folder / "supervisor.sock").stat().st_mode) == 0o700


@pytest.mark.system(ci=True)
def test_the_database_requires_its_password(team: Team) -> None:
    setup = TeamSetup.read(team.folder)
    command = [str(setup.postgres.find_programs() / "psql"), "-h", "127.0.0.1", "-p", str(setup.ports["database"])]
    command += ["-U", "prefect", "-tAc", "select count(*) from deployment"]
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    refused = subprocess.run(command, env=environment | {"PGPASSWORD": "wrong"}, capture_output=True, check=False)
    assert b"password authentication failed" in refused.stderr
    password = read_environment(team.folder / "server.env")["PREFECT_SERVER_DATABASE_PASSWORD"]
    answered = subprocess.run(command, env=environment | {"PGPASSWORD": password}, capture_output=True, check=True)
    assert int(answered.stdout) >= 2, "Prefect does not keep its deployments there"


@pytest.mark.system(ci=True)
def test_dask_rejects_clients_without_the_certificate(team: Team) -> None:
    code = "from distributed import Client; print(Client(timeout=20).submit(pow, 2, 10).result(timeout=60))"
    environment = team.environment | {"PYTHONWARNINGS": "ignore"}
    inside = run_python("-c", code, environment=environment)
    assert inside.stdout == "1024\n", inside.stderr
    without_certificate = {name: value for name, value in environment.items() if "TLS" not in name}
    assert run_python("-c", code, environment=without_certificate).returncode == 1


@pytest.mark.system(ci=True)
def test_the_default_deployment_runs_to_its_end(team: Team, source_zip: Path, tmp_path: Path) -> None:
    config = SMALL | {"source": str(source_zip), "workspace": str(tmp_path / "workspace")}
    run_deployment(team, "hip-pipeline/default", config=config)
    assert (tmp_path / "workspace" / "runs" / "0001" / "report.html").exists()


@pytest.mark.system
def test_the_schedule_plans_retrainings_once_it_is_active(team: Team) -> None:
    """As Prefect's scheduler does it; with SQLAlchemy 2.1 it plans nothing, and no schedule fires."""
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(team.credentials["PREFECT_API_URL"], auth_string=team.login) as client:
        deployment = client.read_deployment_by_name("hip-retrain/scheduled")
        (schedule,) = deployment.schedules
        client.update_deployment_schedule(deployment.id, schedule.id, active=True)
        team.ask(f"/deployments/{deployment.id}/schedule", {"min_runs": 2})
        planned = {"deployments": {"id": {"any_": [str(deployment.id)]}}, "sort": "EXPECTED_START_TIME_ASC"}
        runs = team.ask("/flow_runs/filter", planned)
        client.update_deployment_schedule(deployment.id, schedule.id, active=False)
        assert team.ask("/flow_runs/filter", planned) == []
    assert len(runs) >= 2
    assert {run["state_name"] for run in runs} == {"Scheduled"}
    assert {run["expected_start_time"][8:16] for run in runs} == {"01T03:00"}


@pytest.mark.system
def test_an_event_starts_the_retraining(team: Team, source_zip: Path, tmp_path: Path) -> None:
    """The other trigger besides the schedule, which is inactive."""
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId

    small = {name: group for name, group in SMALL.items() if name != "source"}
    config = small | {"sources": [str(source_zip)], "workspace": str(tmp_path / "workspace"), "seed": 7}
    with SyncPrefectClient(team.credentials["PREFECT_API_URL"], auth_string=team.login) as client:
        deployment = client.read_deployment_by_name("hip-retrain/scheduled")
        assert [schedule.active for schedule in deployment.schedules] == [False]
        client.update_deployment(deployment.id, DeploymentUpdate(parameters={"config": config}))
        command = ["prefect", "event", "emit", "hip-mri.data-arrived", "--resource-id", "hip-mri.incoming"]
        assert run_python("-m", *command, environment=team.environment).returncode == 0
        of_deployment = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]))
        for _ in range(300):
            runs = client.read_flow_runs(flow_run_filter=of_deployment)
            if runs and runs[0].state is not None and runs[0].state.is_final():
                break
            time.sleep(1)
    assert [run.state_name for run in runs] == ["Unjudged"]  # the few patients of the source
    assert (tmp_path / "workspace" / "retrainings" / "0001" / "report.html").exists()


def run_deployment(team: Team, name: str, **parameters: object) -> None:
    """Run a deployment on the team's worker, to the state Completed."""
    command = ["-m", "prefect", "deployment", "run", name, "--watch", "--watch-timeout", "240"]
    for parameter, value in parameters.items():
        command += ["--param", f"{parameter}={json.dumps(value)}"]
    done = run_python(*command, environment=team.environment, timeout_seconds=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "'Completed'" in done.stdout


@pytest.mark.system
def test_fault_63_a_flow_run_without_heartbeats_is_marked_as_crashed(team: Team) -> None:
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(team.credentials["PREFECT_API_URL"], auth_string=team.login) as client:
        flow = client.create_flow_from_name("silent")
        running = {"type": "RUNNING", "name": "Running"}
        silent = str(team.ask("/flow_runs/", {"flow_id": str(flow), "state": running})["id"])
        resource = {"prefect.resource.id": f"prefect.flow-run.{silent}"}
        plan = read_automation()
        trigger = plan.trigger.model_copy(
            update={"match": type(plan.trigger.match)(resource), "within": timedelta(seconds=10)}
        )
        client.create_automation(plan.model_copy(update={"name": "of this test", "trigger": trigger}))
        for second in range(300):
            if second % 30 == 0:  # again, in case that the server had not loaded the automation yet
                now, number = datetime.now(UTC).isoformat(), str(uuid.uuid4())
                event = {"occurred": now, "event": "prefect.flow-run.heartbeat", "resource": resource, "id": number}
                team.ask("/events", [event])
            state = client.read_flow_run(uuid.UUID(silent)).state
            if state and state.is_crashed():
                break
            time.sleep(1)
    assert state is not None
    assert state.is_crashed()
    assert state.message == "No heartbeat for 120 seconds.", "that of the automation, whose limit this test shortens"


@pytest.mark.system
def test_the_automation_exists_once_and_stays_disabled(team: Team) -> None:
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(team.credentials["PREFECT_API_URL"], auth_string=team.login) as client:
        (present,) = client.read_automations_by_name(read_automation().name)
        assert present.enabled
        client.update_automation(present.id, read_automation().model_copy(update={"enabled": False}))
        changed_at = team.ask(f"/automations/{present.id}")["updated"]
        register_automation(client)
        assert team.ask(f"/automations/{present.id}")["updated"] == changed_at, "an update discards received heartbeats"
        (again,) = client.read_automations_by_name(read_automation().name)
        assert (again.id, again.enabled) == (present.id, False)


def wait_until_ready(team: Team) -> None:
    wait_for(lambda: set(describe_state(TeamSetup.read(team.folder)).values()) == {"ready"})


@pytest.mark.system
def test_up_again_starts_only_what_has_stopped(team: Team) -> None:
    before = team.pids
    team.call_supervisor("stopProcess", "dask-worker")
    assert describe_state(TeamSetup.read(team.folder))["dask-worker"] == "stopped"
    run_native("up", "--folder", str(team.folder))
    after = team.pids
    assert {name for name in PROGRAMS if after[name] != before[name]} == {"dask-worker"}
    assert 0 not in after.values()


@pytest.mark.system
def test_programs_that_crash_are_started_again(team: Team) -> None:
    """The database too: the server connects to it again."""
    before = team.pids
    crashed = {"database", "gpu-worker", "dask-worker"}
    for name in crashed:
        os.kill(before[name], signal.SIGKILL)
    wait_for(lambda: all(team.pids[name] not in (0, before[name]) for name in crashed))
    wait_until_ready(team)
    assert {name for name in PROGRAMS if team.pids[name] != before[name]} == crashed
    assert team.call("/work_pools/hip-mri", login=team.login)[0] == 200


@pytest.mark.system
def test_up_replaces_programs_whose_supervisor_was_killed(team: Team) -> None:
    os.kill(team.call_supervisor("getPID"), signal.SIGKILL)
    wait_for(lambda: not is_supervised(team.folder))
    assert "not supervised" in describe_state(TeamSetup.read(team.folder)).values()
    run_native("up", "--folder", str(team.folder))
    wait_until_ready(team)


@pytest.mark.system
def test_ports_cannot_change_under_what_runs(team: Team, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--folder", str(team.folder), "--server-port", "1"]) == 1
    assert "already running on other ports" in capsys.readouterr().err


def read_files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.name != ".lock"}


@pytest.mark.parametrize("action", ["up", "down"])
def test_a_second_command_names_the_first_and_makes_no_secrets(
    action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise two first commands at once would each make secrets, and one would print a wrong login."""
    write_json(tmp_path / "ports.json", PORTS)
    before = read_files(tmp_path)
    with hold_lock(tmp_path / ".lock", 0, "held by", "Wait"):
        assert main([action, "--folder", str(tmp_path)]) == 1
    message = f"error: {tmp_path} is being brought up or down by process {os.getpid()} on "
    assert capsys.readouterr().err.startswith(message)
    assert read_files(tmp_path) == before


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["up", "--folder", str(tmp_path / "file" / "team")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'file' / 'team'} could not be written")


@pytest.mark.parametrize("file", ["notes.txt", "sub/notes.txt", ".hidden", "ports.json"])
def test_up_refuses_a_folder_of_somebody_else(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text('{"http": 80}')
    assert main(["up", "--folder", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert str(tmp_path) in message
    assert Path(file).parts[0] in message
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / file]


def test_up_continues_where_an_interrupted_one_stopped(tmp_path: Path) -> None:
    setup = TeamSetup.read(tmp_path)
    (tmp_path / ".lock").touch()
    (tmp_path / ".hip-mri-1-ports.json").touch()
    setup.create_folder()
    setup.prepare()
    setup.create_folder()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "up, down, status"),
        (["stats", "--folder", "x"], "Did you mean status?"),
        (["up", "--fodler", "x"], "Did you mean --folder?"),
        (["up", "--folder", "x", "--server-port", "many"], "server_port"),
    ],
    ids=" ".join,
)
def test_a_command_line_that_cannot_be_used_ends_with_exit_code_2(words, said, capsys) -> None:
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line


@pytest.mark.parametrize("action", ["down", "status"])
def test_a_folder_without_a_setup_is_named(action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([action, "--folder", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert str(tmp_path) in message
    assert "--folder" in message
    assert list(tmp_path.iterdir()) == []
