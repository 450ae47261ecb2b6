"""The application: paths, their parameters and responses."""

import logging
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp

from hip_mri.errors import DeploymentError, EvaluationError
from hip_mri.images.reading import SUPPORTED
from hip_mri.serving.web.access import RestrictedAccess, check_token
from hip_mri.serving.web.errors import RequestError
from hip_mri.serving.web.pages import add_pages
from hip_mri.serving.web.responses import make_error_response
from hip_mri.serving.web.schemas import ErrorResponse, Health, ModelName, Predictions, ServiceDescription
from hip_mri.serving.web.service import RETRY_LATER, ScoringService, Wanted
from hip_mri.serving.web.uploads import read_files

logger = logging.getLogger(__name__)

DESCRIPTION: Final = (
    "Scores hip MRI images with one model. For research only: not a medical device, not for diagnosis or treatment. "
    "Images are kept in memory until they are scored, and file names are not read."
)

FORM: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {
                        "images": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": f"Image files: {SUPPORTED}. Each is recognized by its content.",
                        }
                    },
                }
            }
        },
    }
}
"""Body of `POST /predict`. It is read by `uploads.read_files`, so FastAPI does not know it."""

REFUSALS: Final = {
    400: "The form is damaged, or contains no file",
    401: "The token is missing or wrong",
    408: "The request arrived too slowly",
    413: "The request has too many bytes, files or images",
    415: "The request is not a form",
    422: "None of the images can be read, or a parameter has an unusable value",
    503: "The service is busy; see the header Retry-After",
}
"""Meaning of status codes."""


def make_app(service: ScoringService, token: str | None, *, only_loopback: bool) -> ASGIApp:
    """Make the application.

    Args:
        service: Scores the images.
        token: Token that requests must contain; `None` for no token.
        only_loopback: Whether only requests to this machine itself are answered.
    """
    app = FastAPI(title="hip-mri", version="1", description=DESCRIPTION, docs_url=None, redoc_url=None)
    _add_error_handlers(app)
    _add_operations(app, service, token)
    add_pages(app, needs_token=token is not None)
    return RestrictedAccess(app, only_loopback=only_loopback)


def _add_error_handlers(app: FastAPI) -> None:
    async def answer(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the signature is Starlette's
        return make_error_response(_explain(error))

    for kind in (RequestError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)


def _explain(error: Exception) -> RequestError:
    """Describe an error for the client; what can contain paths of this machine stands in the log alone."""
    match error:
        case RequestError():
            return error
        case RequestValidationError():
            names = ", ".join(str(fault["loc"][-1]) for fault in error.errors())
            return RequestError(422, "unusable_parameter", f"Parameters with an unusable value: {names}.")
        case HTTPException():
            return RequestError(error.status_code, "not_available", f"{error.detail}. See /docs.", error.headers)
        case ClientDisconnect():
            return RequestError(400, "disconnected", "The connection was closed before the request had arrived.")
    return _explain_failure(error)


def _explain_failure(error: Exception) -> RequestError:
    logger.error("A request failed", exc_info=error)
    match error:
        case EvaluationError():
            return RequestError(500, "no_score", str(error))
        case DeploymentError():
            return RequestError(503, "no_decoder", "The program that decodes images does not start.", RETRY_LATER)
    return RequestError(500, "failed", "The service could not answer. Its log has the cause.")


def _add_operations(app: FastAPI, service: ScoringService, token: str | None) -> None:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    bearer = HTTPBearer(auto_error=False, description="Token of the service, if it needs one")

    def authorize(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        check_token(given and given.credentials, token)

    @app.post(
        "/predict",
        summary="Score images",
        dependencies=[Depends(authorize)],
        response_model=Predictions,
        responses=_list_refusals(*REFUSALS),
        response_description="Results of the images",
        openapi_extra=FORM,
    )
    async def predict(
        request: Request,
        pictures: Annotated[bool, Query(description="Whether the preprocessed images are returned.")] = False,
        heat_maps: Annotated[bool, Query(description="Whether Grad-CAM heat maps are returned.")] = False,
    ) -> Any:
        """Score one or several image files, sent as fields `images` of a form.

        A file of several slices has one result for each. An unreadable file has the state `unreadable` and the reason.
        """
        limits = service.limits
        with service.admit():
            files = await read_files(
                request.headers.get("content-type", ""),
                request.stream(),
                limits.max_request_bytes,
                limits.max_images,
                limits.upload_timeout_seconds,
            )
            images = await service.score_files(files, Wanted(pictures, heat_maps))
        if all(image["state"] == "unreadable" for image in images):
            return make_error_response(_explain_unreadable(images), images)
        scorer = service.model.scorer
        return {"notices": scorer.notices, "model": _name_model(service), "images": images}

    @app.get(
        "/model",
        summary="The model",
        dependencies=[Depends(authorize)],
        response_description="The model",
        responses=_list_refusals(401),
    )
    async def get_model() -> ServiceDescription:
        """The model that scores, with the notices that must be shown, and the limits of the service."""
        return ServiceDescription.model_validate(describe_service(service) | {"loaded_at": started})

    @app.get("/health", summary="State of the service", response_description="The service is running")
    async def get_health() -> Health:
        """Whether the service accepts requests. Needs no token."""
        return Health(status="ok", num_active=service.num_active)


def _list_refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorResponse, "description": REFUSALS[status]} for status in statuses}


def _explain_unreadable(images: list[dict[str, Any]]) -> RequestError:
    first = images[0]
    others = f" This is the first of {len(images)} images, none of which can be read." if len(images) > 1 else ""
    message = first["message"] or f"the image cannot be used ({first['reason']})"
    return RequestError(422, first["reason"], f"{message[0].upper()}{message[1:]}.{others}")


def _name_model(service: ScoringService) -> ModelName:
    model = service.model.scorer.model
    return ModelName(name=model.name, sha256=model.network.sha256, threshold=model.threshold)


def describe_service(service: ScoringService) -> dict[str, Any]:
    """Describe the model and the limits; see `schemas.ServiceDescription`."""
    scorer, limits = service.model.scorer, service.limits
    features, rule = scorer.network.features, scorer.model.conformal
    return _name_model(service).model_dump() | {
        "notices": scorer.notices,
        "error_rate": None if rule.reason else rule.error_rate,
        "backbone": features.backbone.title,
        "engine": features.choice.engine,
        "precision": features.choice.precision,
        "image_size": features.preprocessing.image_size,
        "has_heat_maps": service.model.explains,
        "novelty_limit": scorer.novelty and scorer.novelty.limit,
        "max_request_bytes": limits.max_request_bytes,
        "max_images": limits.max_images,
        "formats": SUPPORTED,
    }
