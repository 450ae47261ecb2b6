"""Resolves sources that settings refer to by name, because the address itself is confidential.

Settings are shown in the Prefect UI, kept in its database and repeated in the run folder. So an address with a
password, a token or a signature stands in the environment (`env:HIP_SOURCE`) or in a Secret block of Prefect's
(`secret:hip-source`), and the settings say where.
"""

import os
from collections.abc import Callable
from typing import Final

from hip_mri.errors import SourceError

ENVIRONMENT: Final = "env:"
"""Begins a source that names a variable of the environment."""

SECRET: Final = "secret:"
"""Begins a source that names a Secret block of Prefect's."""


def resolve_reference(source: str | None, read_secret: Callable[[str], str] | None = None) -> str | None:
    """Look up the source that another one names; any other is returned as it is.

    Args:
        source: As the settings have it.
        read_secret: Gives the content of a Secret block by its name; without it, references to one stay as they are.

    Raises:
        SourceError: The variable is not set, or what it names is a reference again.
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
            f"source: the environment has no variable {name}, which {ENVIRONMENT}{name} names. Set it to a path or an "
            "address where the flow runs: in this shell, or in that of the worker."
        )
    return value


def _check_resolved(source: str) -> str:
    if source.startswith((ENVIRONMENT, SECRET)):
        raise SourceError("source: what it names is the name of another place again. Write a path or an address there.")
    return source
