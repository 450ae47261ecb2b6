"""Reads Prefect's settings: whether a server is named, which one, and where Prefect keeps its files."""

import io
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Final

from hip_mri.addresses import strip_credentials
from hip_mri.errors import DeploymentError

API_URL: Final = "PREFECT_API_URL"


def find_home(environment: Mapping[str, str]) -> Path:
    """The folder of Prefect's profiles and its database.

    Raises:
        DeploymentError: The user has no home folder. Prefect cannot be loaded then, even with PREFECT_HOME.
    """
    try:
        default = Path.home() / ".prefect"
        return Path(environment.get("PREFECT_HOME") or default).expanduser()
    except RuntimeError as error:
        raise DeploymentError(
            f"prefect: this user (id {os.getuid()}) has no home folder: HOME is not set, and the system does not know "
            "the user. Set HOME to a folder that you may write to, such as HOME=/tmp."
        ) from error


def check_settings_files(environment: Mapping[str, str], folder: Path) -> None:
    """Check that Prefect can read its settings files; it would end with a traceback.

    Raises:
        DeploymentError: One is damaged or cannot be read.
    """
    profiles = Path(environment.get("PREFECT_PROFILES_PATH") or find_home(environment) / "profiles.toml")
    for file in (profiles, folder / "prefect.toml"):
        try:
            tomllib.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:  # ValueError: invalid TOML or UTF-8
            reason = getattr(error, "strerror", None) or error
            raise DeploymentError(
                f"prefect: its settings file {file} cannot be read ({reason}). Correct it, or remove it to use "
                "Prefect's defaults."
            ) from error


def may_name_a_server(environment: Mapping[str, str], folder: Path) -> bool:
    """Whether a setting may name a server, or forbid one of the run's own, without loading Prefect.

    Prefect reads the environment, the files `.env`, `prefect.toml` and `pyproject.toml` in the current folder, and the
    profiles in its home. `True` means that Prefect has to be asked.
    """
    if "prefect" in sys.modules:  # asking it costs nothing
        return True
    if any(re.fullmatch(r"PREFECT_\w*(API_URL|PROFILE|EPHEMERAL|TEST)\w*", name.upper()) for name in environment):
        return True
    patterns = {
        find_home(environment) / "profiles.toml": "api|ephemeral",
        folder / "prefect.toml": "api|ephemeral|profiles|home",
        folder / "pyproject.toml": r"tool\.prefect",
        folder / ".env": "prefect",
    }
    for file, pattern in patterns.items():
        try:
            if re.search(pattern, file.read_text(errors="replace"), re.IGNORECASE):
                return True
        except FileNotFoundError:
            continue
        except OSError:
            return True
    return False


def load_prefect() -> None:
    """Import Prefect, which reads its settings.

    Raises:
        DeploymentError: A setting has a value that Prefect refuses.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - Prefect loads it

    printed = io.StringIO()
    try:
        with redirect_stderr(printed):  # Prefect prints the error, too
            import prefect.context  # noqa: F401, PLC0415 - seconds, in which a server can start
    except ValidationError as error:
        group = "".join(f"_{name}" for name in re.findall("[A-Z][a-z]+", error.title.removesuffix("Settings")))
        faults = "; ".join(
            f"PREFECT{group}_{'_'.join(map(str, fault['loc']))}".upper() + f": {fault['msg']}"
            for fault in error.errors()
            if fault["type"] != "default_factory_not_called"
        )
        raise DeploymentError(
            f"prefect: its settings cannot be used ({faults}). Correct them in the environment, in the profile or in "
            "prefect.toml."
        ) from None  # the error repeats values, which can be passwords
    sys.stderr.write(printed.getvalue())


def find_named_server() -> str | None:
    """The address of the server that Prefect's settings name, without user and password.

    Raises:
        DeploymentError: None is named, and the settings allow no server of the run's own.
    """
    from prefect.context import get_settings_context  # noqa: PLC0415 - see `load_prefect`

    context = get_settings_context()
    settings = context.settings
    if settings.api.url:
        return strip_credentials(settings.api.url)
    if not settings.server.ephemeral.enabled:
        raise DeploymentError(
            "prefect: no server is named, and PREFECT_SERVER_EPHEMERAL_ENABLED (also called "
            f"PREFECT_SERVER_ALLOW_EPHEMERAL_MODE) is off, in the environment or in the profile {context.profile.name} "
            f"of {settings.profiles_path}, so that none may be started. Set PREFECT_API_URL to the address of a "
            "server, or PREFECT_SERVER_EPHEMERAL_ENABLED=true."
        )
    return None
