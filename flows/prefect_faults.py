"""Why Prefect's server does not start or answer, in one line that names the cause and what to change."""

import os
import re
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

from flows.prefect_settings import API_URL, DATABASE_URLS, say_how_to_go_without_it, say_what_names_it
from hip_mri.errors import DeploymentError
from hip_mri.proxies import find_proxy

SECONDS_TO_ANSWER: Final = 8.0
"""How long a named server may take to connect, and as long again to answer."""

SECONDS_LOCKED: Final = 8.0
"""How long another process may keep the database locked; a server that works holds it for less than one."""

_OTHER_HOME: Final = "or set PREFECT_HOME to another folder"

_CAUSES: Final = (
    (
        r"Can't locate revision identified by '(?P<found>[^']*)'",
        "its database was made by another version of Prefect, most likely a newer one (revision {found})",
        f"Install that version, {_OTHER_HOME}",
    ),
    (
        r"database is locked",
        "another process keeps its database locked",
        f"End that process, {_OTHER_HOME}",
    ),
    (
        r"disk is full|No space left on device|Disk quota exceeded",
        "the disk of its database is full",
        f"Make room there, {_OTHER_HOME}",
    ),
    (
        r"file is not a database|malformed",
        "its database is damaged",
        f"Move it away, which loses the history of runs, {_OTHER_HOME}",
    ),
    (
        r"unable to open database file|readonly database|Read-only file system|Permission denied",
        "its database cannot be written",
        f"Give yourself the right to write there, {_OTHER_HOME}",
    ),
)
"""What the log of a server says, what it means, and what helps."""


def check_home(home: Path) -> None:
    """See that a server of the run's own can keep its database, before it takes seconds or minutes to fail.

    Args:
        home: Prefect's home folder; is created.

    Raises:
        DeploymentError: The folder cannot be written, or the database is damaged, read-only or locked.
    """
    if any(os.environ.get(name) for name in DATABASE_URLS):  # it lies elsewhere
        return
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=home).close()
    except OSError as error:
        raise DeploymentError(
            f"prefect: its home folder {home} cannot be written ({error.strerror}). Set PREFECT_HOME to a folder that "
            f"you may write to, or {API_URL} to the address of a server that runs."
        ) from error
    if (home / "prefect.db").exists():
        try:
            _check_database(home / "prefect.db")
        except sqlite3.Error as error:
            raise DeploymentError(explain_start(str(error), home)) from error


def _check_database(file: Path) -> None:
    address = f"file:{_escape(file)}?mode=rw"
    with closing(sqlite3.connect(address, timeout=SECONDS_LOCKED, isolation_level=None, uri=True)) as database:
        database.execute("BEGIN IMMEDIATE")  # what a writer needs
        database.execute("ROLLBACK")


def _escape(file: Path) -> str:
    from urllib.parse import quote  # noqa: PLC0415 - used here alone

    return quote(os.fsencode(file.absolute()))


def explain_start(log: str, home: Path) -> str:
    """What a server's log says of why it did not start.

    Args:
        log: Its lines.
        home: Prefect's home folder.

    Returns:
        The message for the user.
    """
    place = home / "prefect.db"
    if named := next((name for name in DATABASE_URLS if os.environ.get(name)), None):
        place = f"the one that {named} names"
    for pattern, cause, advice in _CAUSES:
        if found := re.search(pattern, log):
            return (
                f"prefect: the server of this run did not start: {cause.format(**found.groupdict())} ({place}). "
                f"{advice}, or {API_URL} to the address of a server that runs."
            )
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b: ", line)]
    reason = (errors or lines or ["it says nothing"])[-1]
    return (
        f"prefect: the server of this run did not start ({reason}). Correct that, or set {API_URL} to the address of a "
        "server that runs; then start again."
    )


def check_named_server(shown: str) -> None:
    """Ask the server that is named for its version, as a flow does, and explain what goes wrong.

    Args:
        shown: Its address, without user and password.

    Raises:
        DeploymentError: It does not answer, refuses, or is no Prefect API.
    """
    import httpx  # noqa: PLC0415 - loaded with Prefect
    from prefect.client.base import ServerType  # noqa: PLC0415 - loaded with the flow
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings  # noqa: PLC0415

    place = f"{shown}, which {say_what_names_it()}"
    without = say_how_to_go_without_it()
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(httpx_settings={"timeout": SECONDS_TO_ANSWER}, sync_client=True) as client,
        ):
            is_cloud = client.server_type == ServerType.CLOUD
            answer = client.request("GET", "/health" if is_cloud else "/admin/version").json()
            if not is_cloud and not isinstance(answer, str):
                raise ValueError  # some other program's
    except httpx.HTTPStatusError as error:
        raise DeploymentError(_explain_status(error.response.status_code, place, without)) from None
    except (httpx.ConnectError, httpx.TimeoutException, httpx.TransportError) as error:
        raise DeploymentError(_explain_transport(error, shown, place, without)) from None
    except ValueError:  # no JSON
        raise DeploymentError(_explain_status(None, place, without)) from None
    except (httpx.InvalidURL, UnicodeError) as error:
        raise DeploymentError(
            f"prefect: {place}, is not an address ({error}). Correct it, such as http://127.0.0.1:4200/api, {without}."
        ) from None


def _explain_status(status: int | None, place: str, without: str) -> str:
    if status in (401, 403):
        return (
            f"prefect: the server at {place}, refuses this user (status {status}). Set PREFECT_API_AUTH_STRING to "
            f"what its administrator gave you (PREFECT_API_KEY for Prefect Cloud), {without}."
        )
    if status == 407:
        return f"prefect: a proxy in front of {place}, wants a user and a password (status 407). See HTTPS_PROXY."
    if status is None or status < 500:
        found = "no JSON" if status is None else f"status {status}"
        return (
            f"prefect: what answers at {place}, is not Prefect's API ({found}). The address of a server ends in /api, "
            f"such as http://127.0.0.1:4200/api: correct it, {without}."
        )
    return (
        f"prefect: the server at {place}, has a fault of its own (status {status}). See its log and start it again, "
        f"{without}."
    )


def _explain_transport(error: Exception, shown: str, place: str, without: str) -> str:
    import httpx  # noqa: PLC0415 - loaded with Prefect

    cause = str(error) or type(error).__name__
    if isinstance(error, httpx.UnsupportedProtocol):
        return (
            f"prefect: {place}, is not an address of a server. Give one that begins with http:// or https://, such as "
            f"http://127.0.0.1:4200/api, {without}."
        )
    if proxy := find_proxy(shown):
        return (
            f"prefect: no answer comes from {place}, through the proxy that {proxy.variable} names ({cause}). Correct "
            f"{proxy.variable}, or add the server's name to NO_PROXY where it is reached directly, {without}."
        )
    if "CERTIFICATE_VERIFY_FAILED" in cause:
        return (
            f"prefect: the certificate of {place}, is not trusted ({cause}). Set PREFECT_API_SSL_CERT_FILE to a file "
            f"of the certificates that sign it, {without}."
        )
    return (
        f"prefect: no server answers at {place} ({cause}). Start it with `prefect server start`, or correct the "
        f"address, {without}."
    )
