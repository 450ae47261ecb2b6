"""Addresses of sources, as settings may hold them: never with a password, a token or a signature in them."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field

_SCHEME: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/")
"""How an address such as `s3://bucket/folder` begins, also after `Path` took one of its slashes; no drive `C:/`."""

_HARMLESS: Final = (
    "id|usp|export|confirm|authuser|resourcekey|ouid|rtpof|sd|hl|pli|dl|download|raw|versionId|generation"
)
"""What may stand in the query of an address: words of share links and choices of a version, none a credential."""

_SECRET: Final = rf"^[a-zA-Z][a-zA-Z0-9+.-]*://(?:[^/?#]*@|[^?#]*[?#](?!(?:(?:{_HARMLESS})=[^&=#]*(?:&|$))*$))"
"""An address with a user, or with a query or fragment that can hold a token or a signature."""


def find_scheme(path: str) -> str | None:
    """The scheme, such as `s3`, where a path is an address, also one that went through `Path`; else `None`."""
    return found[1] if (found := _SCHEME.match(path)) else None


def _check_secret(source: str) -> str:
    if re.search(_SECRET, source):
        raise ValueError(
            "the address holds a user, a password, a token or a signature, and settings are kept and shown. Put the "
            "whole address into a variable of the environment and give env:NAME, or into a Secret block of Prefect's "
            "and give secret:NAME"
        )
    return source


SourceAddress = Annotated[
    str,
    AfterValidator(_check_secret),
    # In the schema too, so that a Prefect server refuses it before it keeps it.
    Field(json_schema_extra={"not": {"type": "string", "pattern": _SECRET}}),
]
"""Where images come from; never with a secret in it."""
