"""What runs for a team, and with which settings: the programs of `python -m deployments.native`."""

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deployments.credentials import Credentials, make_credentials, read_environment, write_environment
from deployments.dask_certificate import describe_certificate
from deployments.postgres import HOST, NAME, Postgres
from hip_mri.proxies import exempt_loopback
from hip_mri.storage import explain_write_errors

PROJECT: Final = Path(__file__).parents[1]
SETTINGS_FILE: Final = Path(__file__).with_name("settings.env")
NO_GPU: Final = {"CUDA_VISIBLE_DEVICES": "-1"}
"""Hides the GPUs from CUDA programs."""


@dataclass(frozen=True)
class Ports:
    """Where the programs listen, on this machine only.

    Attributes:
        server: Prefect's API and UI.
        database: PostgreSQL.
        cpu_worker: Tells whether the worker of the pool `hip-mri` is well.
        gpu_worker: The same for `hip-mri-gpu`.
        dask: Dask's scheduler.
        dashboard: Dask's dashboard.
    """

    server: int = 4200
    database: int = 5433  # 5432 is often taken by a PostgreSQL of the system
    cpu_worker: int = 4201
    gpu_worker: int = 4202
    dask: int = 8786
    dashboard: int = 8787


@dataclass(frozen=True)
class Program:
    """One program of the set-up.

    Attributes:
        name: Also that of its log file.
        command: Holds no secret.
        environment: All of it.
        ports: What must be free before it starts.
        is_ready: Whether it answers.
        user: Whose rights it runs with; `None` leaves the caller's.
        stop_signal: What it is asked to stop with.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    ports: tuple[int, ...]
    is_ready: Callable[[], bool]
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM


@dataclass(frozen=True)
class Topology:
    """All programs of a team on one machine.

    Attributes:
        folder: Holds database, secrets, logs and what runs.
        ports: Where they listen.
        database_user: Whose rights PostgreSQL runs with where the caller is root.
    """

    folder: Path
    ports: Ports
    database_user: str = "postgres"

    @property
    def logs_folder(self) -> Path:
        return self.folder / "logs"

    @property
    def credentials_file(self) -> Path:
        return self.folder / "credentials.env"

    @property
    def server_file(self) -> Path:
        return self.folder / "server.env"

    @property
    def dask_folder(self) -> Path:
        return self.folder / "dask"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.ports.server}"

    @property
    def postgres(self) -> Postgres:
        return Postgres(self.folder / "postgres", self.ports.database, self.database_user)

    def create_folder(self) -> None:
        """Create the folder, for a lock to lie in; nothing else.

        Raises:
            WorkspaceError: It cannot be created.
        """
        with explain_write_errors(self.folder):
            # PostgreSQL runs as another user where the caller is root, and must be able to pass.
            self.folder.mkdir(mode=0o711 if self.postgres.owner else 0o700, parents=True, exist_ok=True)

    def prepare(self) -> Credentials:
        """Create what lies in the folder, and secrets, for one caller at a time; what is there stays."""
        for name in ("logs", "prefect", "dask"):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        credentials = make_credentials(self.server_file)
        comment = f"Source this in a shell. The UI, {self.url}, asks for the value of PREFECT_API_AUTH_STRING."
        write_environment(self.credentials_file, self._client_environment(credentials), comment)
        return credentials

    def environment(self) -> dict[str, str]:
        """What every program but database and server runs with."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DASK_", "PG"))
        }
        exempt_loopback(inherited)  # all programs speak to each other on this machine
        return {
            **inherited,
            **read_environment(SETTINGS_FILE),
            **read_environment(self.credentials_file),
            "PREFECT_HOME": str(self.folder / "prefect"),
        }

    def list_programs(self) -> list[Program]:
        """The programs, in the order in which they are started."""
        return [self.database(), self.server(), *self.workers(), *self.dask()]

    def database(self) -> Program:
        """PostgreSQL; asked with SIGINT, it breaks off what clients are doing and shuts down properly."""
        return Program(
            "database",
            self.postgres.command,
            {"PATH": os.environ["PATH"], "LC_ALL": "C"},
            (self.ports.database,),
            self.postgres.is_ready,
            self.postgres.owner,
            signal.SIGINT,
        )

    def server(self) -> Program:
        """Prefect's server: API, UI, scheduler and automations."""
        environment = {
            **self.environment(),
            **read_environment(self.server_file),
            "PREFECT_SERVER_API_PORT": str(self.ports.server),
            "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"{self.url},http://localhost:{self.ports.server}",
            "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
            "PREFECT_SERVER_DATABASE_HOST": HOST,
            "PREFECT_SERVER_DATABASE_PORT": str(self.ports.database),
            "PREFECT_SERVER_DATABASE_NAME": NAME,
            "PREFECT_SERVER_DATABASE_USER": NAME,
        }
        command = [sys.executable, "-m", "prefect", "server", "start"]
        return Program("server", command, environment, (self.ports.server,), lambda: answers(f"{self.url}/api/health"))

    def workers(self) -> list[Program]:
        """Prefect's workers: they start the flow runs, as processes of their own."""
        return [
            self._worker("cpu-worker", "hip-mri", self.ports.cpu_worker, num_runs=2, extra=NO_GPU),
            self._worker("gpu-worker", "hip-mri-gpu", self.ports.gpu_worker, num_runs=1, extra={}),
        ]

    def dask(self) -> list[Program]:
        """Dask's scheduler and workers; who does not hold the certificate is turned away."""
        command = [sys.executable, "-m", "dask"]
        dashboard = f"http://{HOST}:{self.ports.dashboard}"
        scheduler = [
            *(*command, "scheduler", "--protocol", "tls", "--host", HOST, "--port", str(self.ports.dask)),
            *("--dashboard-address", f"{HOST}:{self.ports.dashboard}"),
        ]
        worker = [
            *(*command, "worker", f"tls://{HOST}:{self.ports.dask}", "--protocol", "tls", "--host", HOST),
            *("--nworkers", "2", "--nthreads", "1", "--resources", "CPU=1"),
            *("--dashboard-address", f"{HOST}:0", "--local-directory", str(self.dask_folder)),
        ]
        ports = (self.ports.dask, self.ports.dashboard)
        return [
            Program("dask-scheduler", scheduler, self.environment(), ports, lambda: answers(f"{dashboard}/health")),
            Program(
                "dask-worker", worker, {**self.environment(), **NO_GPU}, (), lambda: count_dask_workers(dashboard) >= 2
            ),
        ]

    def _worker(self, name: str, pool: str, port: int, num_runs: int, extra: Mapping[str, str]) -> Program:
        command = [
            *(sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", name, "--type", "process"),
            *("--limit", str(num_runs), "--install-policy", "never", "--no-create-pool-if-not-found"),
            "--with-healthcheck",
        ]
        health = {"PREFECT_WORKER_WEBSERVER_HOST": HOST, "PREFECT_WORKER_WEBSERVER_PORT": str(port)}
        environment = {**self.environment(), **health, **extra}
        return Program(name, command, environment, (port,), lambda: answers(f"http://{HOST}:{port}/health"))

    def _client_environment(self, credentials: Credentials) -> dict[str, str]:
        return {
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_API_AUTH_STRING": credentials.login,
            "DASK_SCHEDULER_ADDRESS": f"tls://{HOST}:{self.ports.dask}",
            **describe_certificate(self.dask_folder),
        }


def answers(url: str) -> bool:
    """Whether a program on this machine answers at an address, and well."""
    return _get(url) is not None


def count_dask_workers(dashboard: str) -> int:
    """How many workers a scheduler has, by its dashboard's address."""
    content = _get(f"{dashboard}/json/counts.json")
    return json.loads(content)["workers"] if content else 0


def _get(url: str) -> bytes | None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach this machine's ports
    try:
        with direct.open(url, timeout=5) as answer:
            return answer.read()
    except OSError:
        return None
