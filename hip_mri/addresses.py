"""Validates addresses of sources, shortens them for messages and removes their credentials."""

import re
from pathlib import Path
from typing import Annotated, Final, TypeVar

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema
from pydantic.config import JsonDict

_Local = TypeVar("_Local", str, Path)

WITHHELD: Final = "given, not shown"
"""Replaces a value that can identify a person or a folder of the machine."""

_SCHEME: Final = re.compile(r"\s*([a-zA-Z][a-zA-Z0-9+.-]+):/")
"""Start of an address such as `s3://bucket/folder`, also if `Path` removed a slash; not of a drive `C:/`."""

_HARMLESS: Final = (
    "id|usp|export|confirm|authuser|resourcekey|ouid|rtpof|sd|hl|pli|dl|download|raw|versionId|generation"
)
"""Fields of a query that contain no credential: those of share links and versions."""

_SECRET: Final = rf"^{_SCHEME.pattern}+(?:[^/?#]*@|[^?#]*[?#](?!(?:(?:{_HARMLESS})=[^&=#]*(?:&|$))*$))"
"""An address with a user, or with a query or fragment that can contain a token or signature, even if mistyped."""

_NAMELESS: Final = r"^\s*(?:env|secret):(?![A-Za-z0-9_-]+\s*$)"
"""A reference without a valid name, such as one followed by an address."""

_CREDENTIAL: Final = re.compile(
    r"(?i)(?:x-amz-|x-goog-).*|awsaccesskeyid|googleaccessid|key-pair-id|policy|expires|signature"
    r"|s(?:ig|v|e|p|r|t|s|rt|pr|ip|ks|ke|kv|kt|koid|ktid)|(?:.*[_-])?(?:token|auth|password|secret)|api[_-]?key"
)
"""Fields of a query that contain credentials: those of S3, Google Cloud Storage, CloudFront and Azure, and others."""


def find_scheme(source: str) -> str | None:
    """Return the scheme of an address, such as `s3`, also after conversion by `Path`; `None` for other sources."""
    return found[1] if (found := _SCHEME.match(source)) else None


def show_place(address: str) -> str:
    """Shorten an address to its host for messages, which reach logs: `https://example.org/...`."""
    scheme, _, rest = address.partition("://")
    host = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    return f"{scheme}://{host}/..."


def strip_credentials(address: str) -> str:
    """Remove the parts of an address that change with its token or signature.

    Other fields of the query are kept: they can identify the file.
    """
    place, _, query = re.sub(r"(?<=://)[^/?#]*@|#.*", "", address).partition("?")
    kept = [field for field in query.split("&") if field and not _CREDENTIAL.fullmatch(field.partition("=")[0])]
    return place + ("?" + "&".join(kept) if kept else "")


def strip_credentials_in_text(text: str) -> str:
    """Remove the credentials from all addresses in a text, such as the error message of a library."""
    return re.sub(r"://\S+", lambda found: strip_credentials(found[0]), text)


def refuse_address(path: _Local) -> _Local:
    """Raise `ValueError` for an address in the place of a local path. The message does not contain it."""
    if scheme := find_scheme(str(path)):
        raise ValueError(
            f"an address that begins with {scheme}: cannot stand here; give a path on this machine, for several "
            "machines one on a disk that all of them mount at the same path. A source of images may be an address"
        )
    return path


def _refuse(pattern: str, advice: str) -> JsonDict:
    """Part of a JSON schema that refuses a text; see `hip_mri.config.base`, which removes the text from the message."""
    return {"not": {"type": "string", "pattern": pattern, "$comment": advice}}


def _require(pattern: str, advice: str) -> JsonDict:
    """Part of a JSON schema that refuses all other texts, likewise."""
    return {"not": {"type": "string", "not": {"pattern": pattern}, "$comment": advice}}


def _check_secret(source: str) -> str:
    if re.search(_NAMELESS, source):
        raise ValueError(
            "behind env: and secret: stands the name of a variable of the environment or of a Secret block of "
            "Prefect's, of letters, digits, - and _, and never what it holds"
        )
    if re.search(_SECRET, source):
        raise ValueError(
            "the address holds a user, a password, a token or a signature, and settings are kept and shown. Put the "
            "whole address into a variable of the environment and give env:NAME, or into a Secret block of Prefect's "
            "and give secret:NAME"
        )
    return source.strip()


SourceAddress = Annotated[
    str,
    AfterValidator(_check_secret),
    # Also in the schema, so that a Prefect server rejects it before storing it.
    Field(json_schema_extra=_refuse(f"{_SECRET}|{_NAMELESS}", "env:NAME or secret:NAME in place of credentials")),
]
"""Address of a source of images, without credentials."""

_NO_ADDRESS: Final = _refuse(f"^{_SCHEME.pattern}", "a path on this machine in place of an address")

LocalPath = Annotated[Path, AfterValidator(refuse_address), Field(json_schema_extra=_NO_ADDRESS)]
"""A path on this machine; the schema rejects addresses, which can contain a password."""

LocalName = Annotated[str, AfterValidator(refuse_address), Field(json_schema_extra=_NO_ADDRESS)]
"""A path on this machine, or a keyword."""

_PRESET: Final = r"^hf://[\w.-]{1,96}/[\w.-]{1,96}$"
"""A preset of the Hugging Face hub, without credentials."""


def _refuse_other_address(weights: str) -> str:
    return weights if re.fullmatch(_PRESET, weights) else refuse_address(weights)


WeightsName = Annotated[
    str,
    AfterValidator(_refuse_other_address),
    Field(
        json_schema_extra=_refuse(f"^(?!{_PRESET[1:]}){_SCHEME.pattern}", "a path on this machine, or hf://OWNER/NAME")
    ),
]
"""A path on this machine, a keyword, or the address of a preset."""

_TRACKING: Final = (
    r"^(https?://(\[[0-9a-fA-F:.]+\]|[^\s/?#@:\[\]]+)(:[0-9]{1,5})?(/[^\s?#@]*)?|sqlite:///[^?#\r\n]*[^?#\r\n/])$"
)
"""A server or a database file, without a user and a query, which can contain credentials."""


def _check_tracking(address: str) -> str:
    if not re.fullmatch(_TRACKING, address):
        raise ValueError(
            "give the address of an MLflow server, such as http://127.0.0.1:5000, or a database file, such as "
            "sqlite:////srv/mlflow.db, without user, password and query. MLflow reads a login from the variables "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, of the environment"
        )
    return address


TrackingAddress = Annotated[
    str,
    AfterValidator(_check_tracking),
    Field(json_schema_extra=_require(_TRACKING, "http://HOST:PORT or sqlite:///FILE")),
]
"""Address of an MLflow server or database file, without credentials."""

_DASK: Final = r"^((tcp|tls)://[^\s@/?#]+:[0-9]+|env:[A-Za-z_][A-Za-z0-9_]*)$"

DaskAddress = Annotated[
    str,
    StringConstraints(pattern=_DASK),
    WithJsonSchema({"type": "string", **_require(_DASK, "tcp://HOST:PORT, tls://HOST:PORT or env:NAME")}),
]
"""Address of a Dask scheduler, without credentials, or the environment variable that holds it."""
