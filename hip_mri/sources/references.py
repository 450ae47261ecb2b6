"""Resolves sources that settings refer to by name, because the address itself is confidential.

Settings are shown in the Prefect UI, stored in its database and copied to the run folder. So an address with a
password, a token or a signature is given in the environment (`env:HIP_SOURCE`) or in a Secret block of Prefect
(`secret:hip-source`), and the settings contain only its name.
"""

import os
from collections.abc import Callable
from typing import Final

from hip_mri.errors import SourceError

ENVIRONMENT: Final = "env:"
"""Prefix of a source that refers to an environment variable."""

SECRET: Final = "secret:"
"""Prefix of a source that refers to a Secret block of Prefect."""


def resolve_reference(source: str | None, read_secret: Callable[[str], str] | None = None) -> str | None:
    """Resolve a source that is a reference; any other is returned unchanged.

    Args:
        source: The source in the settings.
        read_secret: Returns the content of a Secret block by its name; without it, such references are not resolved.

    Raises:
        SourceError: The variable is not set, or contains another reference.
    """
    if source is None:
        return None
    if source.startswith(ENVIRONMENT):
        return _check_resolved(_read_environment(source.removeprefix(ENVIRONMENT)))
    if source.startswith(SECRET) and read_secret is not None:
        return _check_resolved(read_secret(source.removeprefix(SECRET)))
    return source


def _read_environment(name: str) -> str:
    if not (value := os.environ.get(name, "").strip()):
        raise SourceError(
            f"source: {ENVIRONMENT}{name} refers to an environment variable that is not set. Set {name} to a path or "
            "an address in the environment of the process that runs the flow."
        )
    return value


def _check_resolved(source: str) -> str:
    if source.startswith((ENVIRONMENT, SECRET)):
        raise SourceError(
            "source: the reference refers to another reference. Replace the latter by a path or an address."
        )
    return source
