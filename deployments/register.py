"""Tell a Prefect server what the team runs: `python -m deployments.register`.

Needs `PREFECT_API_URL`, and `PREFECT_API_AUTH_STRING` where the server asks for it. Work pools and the automation are
created where they are missing; deployments become what prefect.yaml and deployments/gpu.yaml say.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound

from deployments.automations import register_automation

PROJECT: Final = Path(__file__).parents[1]
WORK_POOLS: Final = {
    "hip-mri": "Machines without a GPU, or whose GPU is left to others.",
    "hip-mri-gpu": "Machines with a GPU; each worker runs one flow at a time.",
}
PREFECT_FILES: Final = ("prefect.yaml", "deployments/gpu.yaml")


def main() -> int:
    """Register everything; returns the exit code of `prefect deploy`."""
    with get_client(sync_client=True) as client:
        register_work_pools(client)
        register_automation(client)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(join_prefect_files(PROJECT / name for name in PREFECT_FILES), file)
        file.flush()
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", file.name]
        return subprocess.call(command, cwd=PROJECT)


def join_prefect_files(files: Iterable[Path]) -> dict[str, Any]:
    """Put the deployments of several files into one: Prefect and the flows are then loaded once, not once a file."""
    contents = [yaml.safe_load(file.read_text()) for file in files]
    return {**contents[0], "deployments": [deployment for content in contents for deployment in content["deployments"]]}


def register_work_pools(client: SyncPrefectClient) -> None:
    """Create the work pools that are missing; those that are there keep their settings."""
    for name, description in WORK_POOLS.items():
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=name, type="process", description=description))


if __name__ == "__main__":
    sys.exit(main())
