"""Secrets of a set-up: made once, kept in files that only their owner can read, handed on in the environment."""

import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hip_mri.errors import DeploymentError
from hip_mri.storage import write_bytes


@dataclass(frozen=True)
class Credentials:
    """What a set-up knows and nobody else does.

    Attributes:
        login: `user:password` that the API and the UI ask for.
        database_password: Of the one role in PostgreSQL.
    """

    login: str
    database_password: str


def read_environment(file: Path) -> dict[str, str]:
    """Read a file of `NAME=value` lines; `export` before them, comments and empty lines are skipped.

    Raises:
        DeploymentError: The file cannot be read, or a line is something else.
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
        file: Replaced.
        environment: Names and values.
        comment: Its first line.
    """
    lines = [f"# {comment}", *(f"export {name}={shlex.quote(value)}" for name, value in environment.items())]
    write_bytes(file, ("\n".join(lines) + "\n").encode(), is_private=True)


def make_credentials(server_file: Path) -> Credentials:
    """Make the secrets of a set-up, or read those that were made before.

    Args:
        server_file: Holds what the Prefect server alone must know.
    """
    if not server_file.exists():
        secret = {
            "PREFECT_SERVER_API_AUTH_STRING": f"admin:{secrets.token_hex(16)}",
            "PREFECT_SERVER_DATABASE_PASSWORD": secrets.token_hex(16),
        }
        write_environment(server_file, secret, "For the Prefect server alone.")
    known = read_environment(server_file)
    try:
        return Credentials(known["PREFECT_SERVER_API_AUTH_STRING"], known["PREFECT_SERVER_DATABASE_PASSWORD"])
    except KeyError as error:
        raise DeploymentError(f"{server_file} lacks {error.args[0]}. Restore the file from a backup.") from error
