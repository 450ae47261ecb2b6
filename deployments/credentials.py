"""Secrets of a team's set-up: generated once, kept in files that only their owner can read."""

import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path

from hip_mri.errors import DeploymentError
from hip_mri.storage import write_bytes


def read_environment(file: Path) -> dict[str, str]:
    """Read a file of `NAME=value` lines, with or without `export`; comments and empty lines are skipped.

    Raises:
        DeploymentError: The file cannot be read, or a line has another form.
    """
    environment = {}
    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        raise DeploymentError(f"{file} cannot be read ({error.strerror}).") from error
    for number, line in enumerate(lines, 1):
        words = shlex.split(line, comments=True)
        if words:
            name, equals, value = words[-1].partition("=")
            if not equals or words[:-1] not in ([], ["export"]):
                raise DeploymentError(f"{file}, line {number}: expected NAME=value.")
            environment[name] = value
    return environment


def write_environment(file: Path, environment: Mapping[str, str], comment: str) -> None:
    """Write a file that a shell can source and only its owner can read.

    Args:
        file: Is replaced.
        environment: Names and values.
        comment: First line.
    """
    lines = [f"# {comment}", *(f"export {name}={shlex.quote(value)}" for name, value in environment.items())]
    write_bytes(file, ("\n".join(lines) + "\n").encode(), is_private=True)


def make_credentials(server_file: Path) -> tuple[str, str]:
    """Read the secrets of a set-up; generate them if the file does not exist.

    Args:
        server_file: Environment of the Prefect server.

    Returns:
        Login of the API and the UI as `user:password`, and the password of the role in PostgreSQL.

    Raises:
        DeploymentError: The file lacks one of them.
    """
    login, password = names = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_SERVER_DATABASE_PASSWORD"
    if not server_file.exists():
        generated = {login: f"admin:{secrets.token_hex(16)}", password: secrets.token_hex(16)}
        write_environment(server_file, generated, "Secrets of the Prefect server.")
    environment = read_environment(server_file)
    if missing := [name for name in names if name not in environment]:
        raise DeploymentError(f"{server_file} lacks {', '.join(missing)}. Restore the file from a backup.")
    return environment[login], environment[password]
