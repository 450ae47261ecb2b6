"""Addresses that stand in Prefect's Secret blocks, read inside the task that needs them and handed to nobody else."""

from typing import cast

from prefect.blocks.system import Secret

from hip_mri.errors import SourceError
from hip_mri.sources.references import SECRET, resolve_reference


def resolve_source(source: str | None) -> str | None:
    """Look up the source that another one names; see `hip_mri.sources.references.resolve_reference`."""
    return resolve_reference(source, _read_block)


def _read_block(name: str) -> str:
    try:
        block = cast("Secret[str]", Secret.load(name))  # outside of an event loop it is no coroutine
    except ValueError:
        raise SourceError(
            f"source: Prefect has no Secret block {name}, which {SECRET}{name} names. Make one in the UI under Blocks, "
            "with a path or an address as its value."
        ) from None
    return str(block.get()).strip()
