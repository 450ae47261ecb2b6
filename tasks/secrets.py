"""Reads addresses from Prefect's Secret blocks, inside the task that needs them: they are no parameter of a task."""

from typing import cast

from prefect.blocks.system import Secret

from hip_mri.errors import SourceError
from hip_mri.sources.references import SECRET, resolve_reference


def resolve_source(source: str | None) -> str | None:
    """Read the source from a Secret block where it names one; see `hip_mri.sources.references.resolve_reference`."""
    return resolve_reference(source, _read_block)


def _read_block(name: str) -> str:
    try:
        block = cast("Secret[str]", Secret.load(name))  # outside of an event loop it is no coroutine
    except ValueError:
        raise SourceError(
            f"source: Prefect has no Secret block {name}, which {SECRET}{name} names. Create it in the UI, under "
            "Blocks, with a path or an address as its value."
        ) from None
    return str(block.get()).strip()
