"""What Prefect's settings say: whether a server is named, which one, and where Prefect keeps its files."""

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

DATABASE_URLS: Final = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
"""Variables that name another database than the one in Prefect's home."""


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
    """See that Prefect can read its settings files; what it says of a damaged one is a traceback.

    Raises:
        DeploymentError: One is damaged or cannot be read.
    """
    profiles = Path(environment.get("PREFECT_PROFILES_PATH") or find_home(environment) / "profiles.toml")
    for file in (profiles, folder / "prefect.toml"):
        try:
            tomllib.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:  # damaged TOML and text that is none are ValueErrors
            reason = getattr(error, "strerror", None) or error
            raise DeploymentError(
                f"prefect: its settings file {file} cannot be read ({reason}). Mend it, or remove it to use Prefect's "
                "defaults."
            ) from error


def drop_empty_api_url() -> None:
    """Take an empty PREFECT_API_URL for one that is not set; Prefect would take it for the address of a server."""
    if not os.environ.get(API_URL, "-").strip():
        del os.environ[API_URL]


def may_name_a_server(environment: Mapping[str, str], folder: Path) -> bool:
    """Whether anything that Prefect reads may name a server, or forbid one of the run's own; loads nothing.

    Prefect reads the environment, the files `.env`, `prefect.toml` and `pyproject.toml` in the current folder, and the
    profiles in its home. A "no" is certain; a "yes" is not.
    """
    if "prefect" in sys.modules:  # asking it costs nothing
        return True
    if any(re.fullmatch(r"PREFECT_\w*(API_URL|PROFILE|EPHEMERAL|TEST)\w*", name.upper()) for name in environment):
        return True
    files = {
        find_home(environment) / "profiles.toml": "api|ephemeral",
        folder / "prefect.toml": "api|ephemeral|profiles|home",
        folder / "pyproject.toml": r"tool\.prefect",
        folder / ".env": "prefect",
    }
    return any(_mentions(file, words) for file, words in files.items())


def _mentions(file: Path, words: str) -> bool:
    try:
        return re.search(words, file.read_text(errors="replace"), re.IGNORECASE) is not None
    except FileNotFoundError:
        return False
    except OSError:
        return True


def load_prefect() -> None:
    """Import Prefect, which reads its settings.

    Raises:
        DeploymentError: A setting has a value that Prefect refuses.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - Prefect loads it

    printed = io.StringIO()
    try:
        with redirect_stderr(printed):  # it prints the fault, too
            import prefect.context  # noqa: F401, PLC0415 - seconds, beside which a server can start
    except ValidationError as error:
        group = "".join(f"_{word}" for word in re.findall("[A-Z][a-z]+", error.title.removesuffix("Settings")))
        told = "; ".join(
            f"PREFECT{group}_{'_'.join(map(str, fault['loc']))}".upper() + f": {fault['msg']}"
            for fault in error.errors()
            if fault["type"] != "default_factory_not_called"
        )
        raise DeploymentError(
            f"prefect: its settings cannot be used ({told}). Correct them in the environment, in the profile or in "
            "prefect.toml."
        ) from None  # it repeats values, which can be passwords
    sys.stderr.write(printed.getvalue())


def find_named_server() -> str | None:
    """Ask Prefect for the address of the server that is named, for messages without user and password.

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


def say_what_names_it() -> str:
    """What names the server."""
    return f"{API_URL} names" if os.environ.get(API_URL) else "the Prefect profile or a settings file names"


def say_how_to_go_without_it() -> str:
    """What to change to run with a server of the run's own."""
    change = (
        f"unset {API_URL}" if os.environ.get(API_URL) else "choose another profile, `prefect profile use ephemeral`,"
    )
    return f"or {change} to run with a server of the run's own"
