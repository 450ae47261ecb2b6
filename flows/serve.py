"""Serves all deployments of `prefect.yaml` from this process, without work pool and worker: `python flows/serve.py`.

`hip-mri serve` is another program: the web service that scores images, in `hip_mri/serving/web/`.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx
import yaml
from prefect import serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Schedule
from prefect.settings import get_current_settings

from hip_mri.addresses import strip_credentials
from hip_mri.errors import DeploymentError

PREFECT_FILE: Final = Path(__file__).parents[1] / "prefect.yaml"


def main() -> None:
    """Register the deployments, and run them until a signal ends the process."""
    entries = yaml.safe_load(PREFECT_FILE.read_text())["deployments"]
    deployments = [read_deployment(entry) for entry in entries]
    try:
        check_server(deployments)
    except DeploymentError as error:
        sys.exit(f"error: {error}")
    for entry in entries:
        os.environ.update(entry["work_pool"]["job_variables"]["env"])  # flow runs inherit it, as from a worker
    serve(*deployments)


def read_deployment(entry: dict[str, Any]) -> RunnerDeployment:
    """Read one entry of `prefect.yaml`, without its work pool. A name that `serve` does not know is an error."""
    given = {name: value for name, value in entry.items() if name != "work_pool"}
    given["schedules"] = [Schedule(**schedule) for schedule in given.get("schedules", ())]
    given["concurrency_limit"] = ConcurrencyLimitConfig(**given["concurrency_limit"])
    return RunnerDeployment.from_entrypoint(**given)


def check_server(deployments: Sequence[RunnerDeployment]) -> None:
    """Check that a server answers, and that workers do not run the same deployments.

    Raises:
        DeploymentError: No server is named, it does not answer, or deployments belong to a work pool.
    """
    url = get_current_settings().api.url
    if not url:
        raise DeploymentError(
            "PREFECT_API_URL is not set. Start a server with `prefect server start`, and set PREFECT_API_URL to its "
            "address, such as http://127.0.0.1:4200/api."
        )
    try:
        pools = find_work_pools(deployments)
    except httpx.HTTPError as error:
        raise DeploymentError(
            f"The Prefect server at {strip_credentials(url)}, which PREFECT_API_URL or the profile names, cannot be "
            f"used ({error}). Start it, correct the address, or set PREFECT_API_AUTH_STRING if it requires a login."
        ) from error
    if pools:
        listed = ", ".join(f"{name} (work pool {pool})" for name, pool in pools.items())
        raise DeploymentError(
            f"Workers run these deployments: {listed}. Start a worker instead, or delete each of them first: "
            f"prefect deployment delete {next(iter(pools))}"
        )


def find_work_pools(deployments: Sequence[RunnerDeployment]) -> dict[str, str]:
    """Find the work pools to which `prefect deploy` has assigned deployments of the same names."""
    pools = {}
    with get_client(sync_client=True) as client:
        for deployment in deployments:
            with suppress(ObjectNotFound):
                if pool := client.read_deployment_by_name(deployment.full_name).work_pool_name:
                    pools[deployment.full_name] = pool
    return pools


if __name__ == "__main__":
    main()
