"""Checks who may use the service, and adds the headers that restrict what its pages may load.

A page of another site can make a browser send requests to this machine. Requests with a foreign `Origin` are refused,
and on loopback also those with a foreign `Host`, as after DNS rebinding: a name that first stands for the server of the
page and then for 127.0.0.1.
"""

import contextlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hip_mri.errors import SettingsError
from hip_mri.serving.web.errors import RequestError
from hip_mri.serving.web.responses import make_error_response

MIN_TOKEN_LENGTH: Final = 16

LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine in `Host`."""

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Source: OWASP Secure Headers Project."""


def read_token(reference: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Read the token that `env:NAME` or `file:PATH` refers to.

    Raises:
        SettingsError: There is none, or it is too short or not ASCII.
    """
    if reference is None:
        return None
    kind, _, place = reference.partition(":")
    if kind == "env" and place not in environment:
        raise SettingsError(f"token: the environment variable {place} is not set. Set it to the token.")
    try:
        token = environment.get(place, "") if kind == "env" else Path(place).expanduser().read_text()
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        raise SettingsError(f"token: {reference} cannot be read ({error}). Give a text file with the token.") from error
    token = token.strip()
    if len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable():
        raise SettingsError(
            f"token: {reference} has {len(token)} characters; at least {MIN_TOKEN_LENGTH} printable ASCII characters "
            "are needed. Create one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def check_token(given: str | None, token: str | None) -> None:
    """Compare the token of a request with that of the service, in constant time.

    Raises:
        RequestError: A token is needed, and this one is missing or wrong.
    """
    if token is not None and not hmac.compare_digest((given or "").encode(), token.encode()):
        state = "has another token" if given else "has no token"
        message = f"The request {state}. Send the token of the service as `Authorization: Bearer TOKEN`."
        raise RequestError(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})


class RestrictedAccess:
    """Wraps an application: refuses foreign origins and hosts, and adds `SECURITY_HEADERS` to all responses.

    Args:
        app: The application.
        only_loopback: Whether `Host` must name this machine.
    """

    def __init__(self, app: ASGIApp, *, only_loopback: bool) -> None:
        self._app, self._only_loopback = app, only_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        try:
            self._check(Headers(scope=scope))
        except RequestError as error:
            await make_error_response(error)(scope, receive, send_with_headers)
        else:
            with contextlib.suppress(Exception):  # was answered and logged; Starlette raises it again
                await self._app(scope, receive, send_with_headers)

    def _check(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._only_loopback and _remove_port(host) not in LOOPBACK_NAMES:
            message = "The service answers only requests to this machine itself, such as http://127.0.0.1:8300."
            raise RequestError(421, "foreign_host", message)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise RequestError(403, "foreign_origin", "Pages of other sites may not use this service.")


def _remove_port(host: str) -> str:
    name, _, port = host.lower().rpartition(":")
    return name if name and port.isdecimal() else host.lower()
