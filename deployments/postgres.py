"""Creates and checks a PostgreSQL server for Prefect: loopback only, one role with a password (SCRAM)."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hip_mri.errors import DeploymentError

NAME: Final = "prefect"
"""Name of the role and of the database."""
HOST: Final = "127.0.0.1"
_DEBIAN: Final = Path("/usr/lib/postgresql")


@dataclass(frozen=True)
class Postgres:
    """A database server and its folder.

    Attributes:
        folder: Data directory, created by `create`.
        port: On the loopback interface.
        user: Runs the server if the caller is root, which PostgreSQL refuses; otherwise the caller runs it.
    """

    folder: Path
    port: int
    user: str

    @property
    def owner(self) -> str | None:
        return self.user if os.geteuid() == 0 else None

    def find_programs(self) -> Path:
        """Find the folder of PostgreSQL's programs, of the release that created the data directory or of the newest.

        Raises:
            DeploymentError: They are not installed.
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
        """Create the data directory unless it exists.

        Args:
            password: Of the role.

        Raises:
            DeploymentError: PostgreSQL or its user is missing, or that user cannot access the parent folder.
        """
        if self.folder.exists():
            return
        programs = self.find_programs()
        self._check_owner()
        with tempfile.TemporaryDirectory(dir=self.folder.parent, prefix=".postgres-") as temporary:
            folder = Path(temporary)
            (folder / "password").touch(mode=0o600)
            (folder / "password").write_text(password)
            if self.owner:
                shutil.chown(folder, self.owner)
                shutil.chown(folder / "password", self.owner)
            self._run(
                [
                    *(str(programs / "initdb"), "--pgdata", str(folder / "data"), "--username", NAME, "--auth"),
                    *("scram-sha-256", "--pwfile", str(folder / "password"), "--encoding", "UTF8", "--locale", "C"),
                    *("--data-checksums", "--no-instructions"),
                ],
                user=self.owner,
            )
            (folder / "data").rename(self.folder)

    def create_database(self, password: str) -> None:
        """Create the database in the running server unless it exists."""
        command = [str(self.find_programs() / "createdb"), "--host", HOST, "--port", str(self.port)]
        self._run([*command, "--username", NAME, NAME], password, ignored_error="already exists")

    def is_ready(self) -> bool:
        """Whether the server answers."""
        command = [str(self.find_programs() / "pg_isready"), "--quiet", "--host", HOST, "--port", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def _check_owner(self) -> None:
        """Check that the server's user exists and can access the parent folder."""
        try:
            access = subprocess.run(
                ["test", "-x", self.folder.parent], cwd="/", check=False, **_drop_rights(self.owner)
            )
        except KeyError as error:
            raise DeploymentError(
                f"PostgreSQL refuses to run as root, and there is no user {self.user!r}. Call this as an ordinary "
                "user, or name an existing user with --database-user."
            ) from error
        if access.returncode:
            raise DeploymentError(
                f"{self.folder.parent} cannot be accessed by the user {self.user!r}, who runs PostgreSQL. Give a "
                "folder that this user can access, such as one below /srv, or call this as an ordinary user."
            )

    def _run(
        self, command: Sequence[str], password: str | None = None, user: str | None = None, ignored_error: str = ""
    ) -> None:
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"} | ({"PGPASSWORD": password} if password else {})
        done = subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, check=False, **_drop_rights(user)
        )
        if done.returncode and not (ignored_error and ignored_error in done.stderr):
            raise DeploymentError(f"{Path(command[0]).name} failed:\n{done.stderr.strip()}")


def _drop_rights(user: str | None) -> dict[str, Any]:
    """Arguments of `subprocess.run` for the rights of a user, without the groups of the caller.

    Raises:
        KeyError: There is no such user.
    """
    return {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
