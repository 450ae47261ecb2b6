"""Registers work pools, deployments and the automation with a Prefect server: `python -m deployments.register`.

Needs `PREFECT_API_URL`, and `PREFECT_API_AUTH_STRING` if the server requires a login. Existing work pools keep their
settings; deployments are updated from prefect.yaml and deployments/gpu.yaml, the
automation from deployments/automation.yaml.
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
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from deployments import PROJECT

WORK_POOLS: Final = {
    "hip-mri": "Machines without a GPU, or whose GPU is not to be used.",
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
    """Join the deployments of several files, so that one call of `prefect deploy` loads Prefect and the flows once."""
    contents = [yaml.safe_load(file.read_text()) for file in files]
    return {**contents[0], "deployments": [deployment for content in contents for deployment in content["deployments"]]}


def register_work_pools(client: SyncPrefectClient) -> None:
    """Create the work pools that do not exist."""
    for name, description in WORK_POOLS.items():
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=name, type="process", description=description))


def read_automation() -> AutomationCore:
    """Read the automation that marks flow runs without heartbeats as crashed."""
    return AutomationCore.model_validate(yaml.safe_load((PROJECT / "deployments/automation.yaml").read_text()))


def register_automation(client: SyncPrefectClient) -> None:
    """Create the automation, or update the existing one; a disabled automation stays disabled."""
    automation = read_automation()
    existing = client.read_automations_by_name(automation.name)
    if not existing:
        client.create_automation(automation)
    for one in existing:
        wanted = automation.model_copy(update={"enabled": one.enabled})
        if wanted.model_dump() != one.model_dump(exclude={"id"}):  # an update discards the heartbeats received so far
            client.update_automation(one.id, wanted)


if __name__ == "__main__":
    sys.exit(main())
