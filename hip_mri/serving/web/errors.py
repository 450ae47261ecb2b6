"""Errors that are answered with a status code, a reason code and an explanation."""

from collections.abc import Mapping


class RequestError(Exception):
    """A request that is refused.

    Attributes:
        status: Status code of HTTP.
        reason: Reason code, such as `too_large`.
        headers: Further headers of the response.
    """

    def __init__(self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})
