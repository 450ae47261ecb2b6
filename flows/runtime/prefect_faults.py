"""Explains why Prefect's server does not start or answer: one line with the cause and what to change."""

import os
import re
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

from flows.runtime.prefect_settings import API_URL
from hip_mri.errors import DeploymentError
from hip_mri.proxies import find_proxy

DATABASE_URLS: Final = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
"""Variables that name another database than the one in Prefect's home."""

ANSWER_TIMEOUT_SECONDS: Final = 8.0
"""How long a named server may take to connect, and as long again to answer."""

LOCKED_TIMEOUT_SECONDS: Final = 8.0
"""How long another process may keep the database locked; a working server holds it for less than one."""

NOT_PREFECT: Final = (
    "what answers there is not Prefect's API",
    "Correct the address, which ends in /api, such as http://127.0.0.1:4200/api",
)
"""Problem and advice."""

_CAUSES: Final = {
    r"Can't locate revision identified by '(?P<found>[^']*)'": (
        "its database was made by another version of Prefect, most likely a newer one (revision {found})",
        "Install that version",
    ),
    r"database is locked": ("another process keeps its database locked", "End that process"),
    r"disk is full|No space left on device|Disk quota exceeded": (
        "the disk of its database is full",
        "Make room there",
    ),
    r"file is not a database|malformed": (
        "its database is damaged",
        "Move it away, which loses the history of runs",
    ),
    r"unable to open database file|readonly database|Read-only file system|Permission denied": (
        "its database cannot be written",
        "Make it writable",
    ),
}
"""Cause and advice by what the log of a server says."""


def check_home(home: Path) -> None:
    """Check that a server of the run's own can keep its database; the server itself takes seconds or minutes to fail.

    Args:
        home: Prefect's home folder; is created.

    Raises:
        DeploymentError: The folder cannot be written, or the database is damaged, read-only or locked.
    """
    if any(os.environ.get(name) for name in DATABASE_URLS):  # the database is elsewhere
        return
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=home).close()
    except OSError as error:
        raise DeploymentError(
            f"prefect: its home folder {home} cannot be written ({error.strerror}). Set PREFECT_HOME to a folder that "
            f"you may write to, or {API_URL} to the address of a running server."
        ) from error
    database_file = home.absolute() / "prefect.db"
    if database_file.exists():
        address = f"{database_file.as_uri()}?mode=rw"
        try:
            with closing(
                sqlite3.connect(address, timeout=LOCKED_TIMEOUT_SECONDS, isolation_level=None, uri=True)
            ) as database:
                database.execute("BEGIN IMMEDIATE")  # needs what a writer needs
                database.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise DeploymentError(explain_start(str(error), home)) from error


def explain_start(log: str, home: Path) -> str:
    """The message for a server of the run's own that did not start.

    Args:
        log: What the server wrote.
        home: Prefect's home folder.
    """
    named = next((f"the one that {name} names" for name in DATABASE_URLS if os.environ.get(name)), None)
    for pattern, (cause, change) in _CAUSES.items():
        if found := re.search(pattern, log):
            reason = f"{cause.format(**found.groupdict())}; the database is {named or home / 'prefect.db'}"
            advice = f"{change}, set PREFECT_HOME to another folder"
            break
    else:
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b: ", line)]
        reason, advice = (errors or lines or ["it wrote no log"])[-1], "Correct that"
    return (
        f"prefect: the server of this run did not start ({reason}). {advice}, or set {API_URL} to the address of a "
        "running server."
    )


def check_named_server(address: str) -> None:
    """Ask the named server for its version, as a flow does.

    Args:
        address: Of the server, without user and password.

    Raises:
        DeploymentError: It does not answer, refuses, or is no Prefect API.
    """
    import httpx  # noqa: PLC0415 - loaded with Prefect
    from prefect.client.base import ServerType  # noqa: PLC0415 - loaded with the flow
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings  # noqa: PLC0415

    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(httpx_settings={"timeout": ANSWER_TIMEOUT_SECONDS}, sync_client=True) as client,
        ):
            is_cloud = client.server_type == ServerType.CLOUD
            answer = client.request("GET", "/health" if is_cloud else "/admin/version").json()
            if is_cloud or isinstance(answer, str):
                return
            problem, advice = NOT_PREFECT
    except httpx.HTTPStatusError as error:
        problem, advice = _explain_status(error.response.status_code)
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        problem = f"this is not an address that begins with http:// or https:// ({error})"
        advice = "Correct it, such as http://127.0.0.1:4200/api"
    except httpx.TransportError as error:
        problem, advice = _explain_transport(str(error) or type(error).__name__, address)
    except ValueError:  # no JSON
        problem, advice = NOT_PREFECT
    if os.environ.get(API_URL):
        source, change = API_URL, f"unset {API_URL}"
    else:
        source = "the Prefect profile or a settings file"
        change = "choose another profile, `prefect profile use ephemeral`,"
    raise DeploymentError(
        f"prefect: the server at {address}, which {source} names, cannot be used: {problem}. {advice}, or {change} to "
        "run with a server of the run's own."
    ) from None


def _explain_status(status: int) -> tuple[str, str]:
    """Problem and advice for an answer that is an error."""
    if status in (401, 403):
        advice = "Set PREFECT_API_AUTH_STRING to what its administrator gave you (PREFECT_API_KEY for Prefect Cloud)"
        return f"it refuses this user (status {status})", advice
    if status == 407:
        return f"a proxy in front of it asks for a user and a password (status {status})", "Correct HTTPS_PROXY"
    if status >= 500:
        return f"it reports an internal error (status {status})", "See its log and start it again"
    problem, advice = NOT_PREFECT
    return f"{problem} (status {status})", advice


def _explain_transport(cause: str, address: str) -> tuple[str, str]:
    """Problem and advice where no answer came."""
    if proxy := find_proxy(address):
        advice = f"Correct {proxy.variable}, add the server's name to NO_PROXY where it is reached directly"
        return f"no answer comes through the proxy that {proxy.variable} names ({cause})", advice
    if "CERTIFICATE_VERIFY_FAILED" in cause:
        advice = "Set PREFECT_API_SSL_CERT_FILE to a file of the certificates that sign it"
        return f"its certificate is not trusted ({cause})", advice
    return f"no server answers ({cause})", "Start it with `prefect server start`, correct the address"
