"""Responses to requests that are refused, always as JSON."""

from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse

from hip_mri.serving.web.errors import RequestError
from hip_mri.serving.web.schemas import ErrorDetails, ErrorResponse


def make_error_response(error: RequestError, images: Sequence[dict[str, Any]] = ()) -> JSONResponse:
    """Describe why a request was refused, with the results of its images if there are any."""
    details = ErrorDetails(reason=error.reason, message=str(error))
    content = ErrorResponse.model_validate({"error": details, "images": images}).model_dump()
    return JSONResponse(content, error.status, error.headers)
