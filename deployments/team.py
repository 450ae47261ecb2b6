"""Folder, ports, secrets and environment of the programs that a team shares on one machine."""

import os
import pwd
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import httpx

from deployments.credentials import make_credentials, read_environment, write_environment
from deployments.dask_certificate import describe_certificate
from deployments.postgres import HOST, Postgres
from hip_mri.disk_errors import explain_write_errors
from hip_mri.errors import DeploymentError, list_offenders
from hip_mri.proxies import exempt_loopback
from hip_mri.storage import UNFINISHED, read_json, write_json

LOCK: Final = ".lock"
"""File of the folder that one `up` or `down` at a time locks."""

SETTINGS_FILE: Final = Path(__file__).with_name("settings.env")

PORTS: Final = {
    "server": 4200,  # Prefect's API and UI
    "database": 5433,  # 5432 is often taken by a PostgreSQL of the system
    "cpu_worker": 4201,  # health check of the worker of the pool `hip-mri`
    "gpu_worker": 4202,  # health check of the worker of the pool `hip-mri-gpu`
    "dask": 8786,  # scheduler
    "dashboard": 8787,  # of Dask
}
"""Default ports; all are on the loopback interface."""

PROGRAMS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "database": (("database",), ""),
    "server": (("server",), "/api/health"),
    "cpu-worker": (("cpu_worker",), "/health"),
    "gpu-worker": (("gpu_worker",), "/health"),
    "dask-scheduler": (("dashboard", "dask"), "/health"),
    "dask-worker": ((), ""),
}
"""Programs of `supervisord.conf`: names of their ports, and path of an HTTP health check at the first of them."""


@dataclass(frozen=True)
class TeamSetup:
    """The programs of a team on one machine.

    Attributes:
        folder: Holds database, secrets, ports and logs.
        ports: As in `PORTS`.
        database_user: Runs PostgreSQL if the caller is root.
    """

    folder: Path
    ports: dict[str, int]
    database_user: str = "postgres"

    @classmethod
    def read(cls, folder: Path, database_user: str = "postgres", **ports: int | None) -> Self:
        """Read the set-up of a folder, or plan a new one.

        Args:
            folder: Where it is or will be started.
            database_user: Runs PostgreSQL if the caller is root.
            **ports: As in `PORTS`; `None` keeps the recorded port, or the default.

        Raises:
            DeploymentError: The folder contains a `ports.json` that this program did not write.
        """
        default = cls(folder, PORTS, database_user)
        recorded = read_json(default.ports_file) if default.ports_file.exists() else {}
        if not isinstance(recorded, dict) or not recorded.keys() <= PORTS.keys():
            raise DeploymentError(f"{default.ports_file} was not written by `up`. Give another --folder.")
        given = {name: port for name, port in ports.items() if port is not None}
        return replace(default, ports=PORTS | recorded | given)

    @property
    def ports_file(self) -> Path:
        return self.folder / "ports.json"

    @property
    def credentials_file(self) -> Path:
        return self.folder / "credentials.env"

    @property
    def dask_folder(self) -> Path:
        return self.folder / "dask"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.ports['server']}"

    @property
    def postgres(self) -> Postgres:
        return Postgres(self.folder / "postgres", self.ports["database"], self.database_user)

    def is_ready(self, program: str) -> bool:
        """Whether a program answers; programs that users have added count as ready."""
        if program == "database":
            return self.postgres.is_ready()
        if program == "dask-worker":
            counts = _get(self.ports["dashboard"], "/json/counts.json")
            return counts is not None and counts.json()["workers"] >= 2
        ports, path = PROGRAMS.get(program, ((), ""))
        return not path or _get(self.ports[ports[0]], path) is not None

    def create_folder(self) -> None:
        """Create the empty folder, unless it is one of this program.

        Raises:
            DeploymentError: It contains other files.
            WorkspaceError: It cannot be created.
        """
        with explain_write_errors(self.folder):
            # The user that runs PostgreSQL, if another one, needs access to the folder below.
            self.folder.mkdir(mode=0o711 if self.postgres.owner else 0o700, parents=True, exist_ok=True)
            found = sorted(entry.name for entry in self.folder.iterdir())
        # Before `ports.json`, an `up` that was interrupted has written the lock at most, and a temporary file.
        foreign = [name for name in found if name != LOCK and not name.startswith(UNFINISHED)]
        if foreign and not self.ports_file.exists():
            raise DeploymentError(
                f"{self.folder} is not empty and was not created by `up`: it contains {list_offenders(foreign)}. "
                "Give an empty folder or a new one with --folder."
            )

    def prepare(self) -> str:
        """Create sub-folders and files; existing secrets are kept. Returns the password of the database."""
        write_json(self.ports_file, self.ports)  # first: the folder is recognized by it
        for name in ("logs", "prefect", "dask"):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        login, database_password = make_credentials(self.folder / "server.env")
        environment = {
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_API_AUTH_STRING": login,
            "DASK_SCHEDULER_ADDRESS": f"tls://{HOST}:{self.ports['dask']}",
            **describe_certificate(self.dask_folder),
        }
        comment = f"Source this in a shell. The UI, {self.url}, asks for the value of PREFECT_API_AUTH_STRING."
        write_environment(self.credentials_file, environment, comment)
        return database_password

    def environment(self) -> dict[str, str]:
        """Environment of supervisord and its programs, with the variables that `supervisord.conf` reads."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DASK_", "PG"))
        }
        exempt_loopback(inherited)  # all programs call each other on this machine
        return {
            **inherited,
            **read_environment(SETTINGS_FILE),
            **read_environment(self.credentials_file),
            "TEAM_FOLDER": str(self.folder),
            "TEAM_PYTHON": sys.executable,
            "TEAM_UMASK": f"{_read_umask():o}",
            "TEAM_POSTGRES": str(self.postgres.find_programs()),
            "TEAM_DATABASE_USER": self.postgres.owner or pwd.getpwuid(os.geteuid()).pw_name,
            **{f"TEAM_{name.upper()}_PORT": str(port) for name, port in self.ports.items()},
        }


def _get(port: int, path: str) -> httpx.Response | None:
    """Response of a program of this machine; `None` if it does not answer, or reports an error."""
    try:
        response = httpx.get(f"http://{HOST}:{port}{path}", timeout=5, trust_env=False)  # without a proxy
    except httpx.HTTPError:
        return None
    return response if response.is_success else None


def _read_umask() -> int:
    """Umask of this process; supervisord would otherwise use 022, with which others can read new files."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
