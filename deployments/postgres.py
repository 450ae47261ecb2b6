"""A PostgreSQL server of one's own: loopback only, one role, its password checked by SCRAM."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deployments.processes import rights_of
from hip_mri.errors import DeploymentError

NAME: Final = "prefect"
"""Of the role and of the database."""
HOST: Final = "127.0.0.1"
_DEBIAN: Final = Path("/usr/lib/postgresql")


@dataclass(frozen=True)
class Postgres:
    """One database server and its folder.

    Attributes:
        folder: Holds the tables; created by `create`.
        port: Where it listens, on this machine only.
        user: Whose rights it runs with where the caller is root, which PostgreSQL refuses; otherwise the caller's own.
    """

    folder: Path
    port: int
    user: str

    @property
    def owner(self) -> str | None:
        return self.user if os.geteuid() == 0 else None

    @property
    def command(self) -> list[str]:
        return [
            *(str(self.find_programs() / "postgres"), "-D", str(self.folder), "-p", str(self.port)),
            *("-c", f"listen_addresses={HOST}", "-c", "unix_socket_directories="),
        ]

    def find_programs(self) -> Path:
        """Find the folder of PostgreSQL's programs: of the release that wrote the tables, or of the newest.

        Raises:
            DeploymentError: There is none.
        """
        version_file = self.folder / "PG_VERSION"
        release = version_file.read_text().strip() if version_file.exists() else None
        found = [file.parent for file in _DEBIAN.glob(f"{release or '*'}/bin/initdb")]
        if not found and (on_path := shutil.which("initdb")):
            found = [Path(on_path).resolve().parent]
        if not found:
            raise DeploymentError(
                f"PostgreSQL: no program `initdb`{f' of release {release}' if release else ''} on the PATH or below "
                f"{_DEBIAN}. Install it: `apt-get install postgresql` (Debian, Ubuntu) or `dnf install "
                "postgresql-server` (Fedora, RHEL)."
            )
        return max(found, key=lambda folder: int(folder.parent.name) if folder.parent.name.isdigit() else 0)

    def create(self, password: str) -> None:
        """Create the tables of an empty server, unless they are there.

        Args:
            password: Of the one role.

        Raises:
            DeploymentError: PostgreSQL or its user is missing, or the folder is closed to that user.
        """
        if self.folder.exists():
            return
        programs = self.find_programs()
        self._check_owner()
        with tempfile.TemporaryDirectory(dir=self.folder.parent, prefix=".postgres-") as temporary:
            place = Path(temporary)
            (place / "password").touch(mode=0o600)
            (place / "password").write_text(password)
            if self.owner:
                shutil.chown(place, self.owner)
                shutil.chown(place / "password", self.owner)
            self._run(
                [
                    *(str(programs / "initdb"), "--pgdata", str(place / "data"), "--username", NAME, "--auth"),
                    *("scram-sha-256", "--pwfile", str(place / "password"), "--encoding", "UTF8", "--locale", "C"),
                    *("--data-checksums", "--no-instructions"),
                ],
                user=self.owner,
            )
            (place / "data").rename(self.folder)

    def create_database(self, password: str) -> None:
        """Create the database in a running server, unless it is there."""
        command = [str(self.find_programs() / "createdb"), "--host", HOST, "--port", str(self.port)]
        self._run([*command, "--username", NAME, NAME], password, unless="already exists")

    def is_ready(self) -> bool:
        """Whether the server answers."""
        command = [str(self.find_programs() / "pg_isready"), "--quiet", "--host", HOST, "--port", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def _check_owner(self) -> None:
        """See that the server's user exists and can reach its folder."""
        try:
            reach = subprocess.run(["test", "-x", self.folder.parent], cwd="/", check=False, **rights_of(self.owner))
        except KeyError as error:
            raise DeploymentError(
                f"PostgreSQL refuses to run as root, and there is no user {self.user!r}. Start this as an ordinary "
                "user, or name another one with --database-user."
            ) from error
        if reach.returncode:
            raise DeploymentError(
                f"{self.folder.parent} is closed to the user {self.user!r}, whom PostgreSQL runs as. Give a folder "
                "that this user can reach, such as one below /srv, or start this as an ordinary user."
            )

    def _run(
        self, command: Sequence[str], password: str | None = None, user: str | None = None, unless: str = ""
    ) -> None:
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"} | ({"PGPASSWORD": password} if password else {})
        done = subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, check=False, **rights_of(user)
        )
        if done.returncode and not (unless and unless in done.stderr):
            raise DeploymentError(f"{Path(command[0]).name} failed:\n{done.stderr.strip()}")
