"""Tell a Prefect server what the team runs: `python -m deployments.register`.

Needs `PREFECT_API_URL`, and `PREFECT_API_AUTH_STRING` where the server asks for it. Work pools and the automation are
created where they are missing; deployments become what prefect.yaml and deployments/gpu.yaml say.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

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
    """Register everything; returns 1 where something could not be, otherwise 0."""
    with get_client(sync_client=True) as client:
        register_work_pools(client)
        register_automation(client)
    deploy = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file"]
    started = [subprocess.Popen([*deploy, file], cwd=PROJECT) for file in PREFECT_FILES]
    codes = [process.wait() for process in started]
    return int(any(codes))


def register_work_pools(client: SyncPrefectClient) -> None:
    """Create the work pools that are missing; those that are there keep their settings."""
    for name, description in WORK_POOLS.items():
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=name, type="process", description=description))


if __name__ == "__main__":
    sys.exit(main())
