"""The pages of the service: the one that scores images, and the description of the interface.

They load only files of the service itself, so that they work without a network.
"""

import re
from importlib.resources import files
from typing import Any, Final

from fastapi import FastAPI
from jinja2 import Undefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from hip_mri.evaluation.report.templates import load_templates
from hip_mri.images.reading import SUPPORTED
from hip_mri.serving.scorer import CLINICAL_NOTICE

_TEMPLATES: Final = load_templates("hip_mri.serving.web").overlay(undefined=Undefined)
"""Parts of an OpenAPI description may be missing."""
_TEMPLATES.filters["code"] = lambda text: Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))

ASSETS: Final = {
    "page.js": ("text/javascript", (("hip_mri.serving.web", "page.js"),)),
    "page.css": ("text/css", (("hip_mri.evaluation.report", "report.css"), ("hip_mri.serving.web", "page.css"))),
}
"""Media type and parts of each file that the pages load."""


def add_pages(app: FastAPI, *, needs_token: bool) -> None:
    """Add the pages to the application.

    Args:
        app: Has all operations that are described.
        needs_token: Whether the page asks for a token.
    """
    page = _render("page.html.jinja", needs_token=needs_token, formats=SUPPORTED, notices=[CLINICAL_NOTICE])
    api = _resolve(app.openapi(), app.openapi())
    description = _render("api.html.jinja", api=api, needs_token=needs_token, notices=[CLINICAL_NOTICE])
    _add_static(app, "/", HTMLResponse(page))
    _add_static(app, "/docs", HTMLResponse(description))
    _add_static(app, "/favicon.ico", Response(status_code=204))
    for name, (kind, parts) in ASSETS.items():
        content = "\n".join(files(package).joinpath(file).read_text() for package, file in parts)
        _add_static(app, f"/assets/{name}", PlainTextResponse(content, media_type=kind))


def _add_static(app: FastAPI, path: str, response: Response) -> None:
    async def get() -> Response:
        return response

    app.add_api_route(path, get, methods=["GET"], include_in_schema=False, response_class=Response)


def _render(template: str, **values: Any) -> str:
    return _TEMPLATES.get_template(template).render(**values)


def _resolve(node: Any, root: dict[str, Any]) -> Any:
    """Replace each reference of an OpenAPI description by what it refers to. None of them is recursive."""
    if isinstance(node, list):
        return [_resolve(item, root) for item in node]
    if not isinstance(node, dict):
        return node
    if (reference := node.get("$ref")) is not None:
        target: Any = root
        for name in reference.removeprefix("#/").split("/"):
            target = target[name]
        return _resolve(target, root)
    return {name: _resolve(value, root) for name, value in node.items()}
