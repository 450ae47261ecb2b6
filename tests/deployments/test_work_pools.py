"""Work pools and deployments for Docker and Kubernetes, checked against Prefect's schemas."""

import asyncio
import json
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import prefect
import pytest
import yaml
from docker.types import HostConfig
from prefect.client.schemas.actions import DeploymentCreate
from prefect.client.schemas.objects import FlowRun
from prefect.server.schemas.actions import WorkPoolCreate
from prefect.utilities.importtools import import_object
from prefect.utilities.templating import apply_values

from deployments import PROJECT
from deployments.register import PREFECT_FILES, join_prefect_files

METADATA_FILE = Path(prefect.__file__).parent / "server/api/collections_data/views/aggregate-worker-metadata.json"
WORKERS = {kind: worker for group in json.loads(METADATA_FILE.read_text()).values() for kind, worker in group.items()}
"""Descriptions of all kinds of workers, as Prefect's server offers them."""
NEWER = {"container_create_kwargs"}
"""Fields that prefect-docker 0.7 has and that Prefect's description does not list yet."""
KINDS = ("docker", "kubernetes")
TEMPLATES = {kind: json.loads((PROJECT / f"deployments/{kind}.json").read_text()) for kind in KINDS}
FILES = {kind: yaml.safe_load((PROJECT / f"deployments/{kind}.yaml").read_text()) for kind in KINDS}
DEPLOYMENTS = [(kind, place) for kind in KINDS for place in range(len(FILES[kind]["deployments"]))]
each_kind = pytest.mark.parametrize("kind", KINDS)
each_deployment = pytest.mark.parametrize(("kind", "place"), DEPLOYMENTS)
ENVIRONMENT = {"HIP_DATA_FOLDER": "/srv/data", "HIP_USER_ID": "1000", "HIP_REGISTRY": "registry.example.com/team"}


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def read_deployment(kind: str, place: int) -> dict[str, Any]:
    """A deployment as `prefect deploy` registers it: with environment variables and the outputs of the build step."""
    deployment = FILES[kind]["deployments"][place]
    (step,) = deployment["build"]
    (inputs,) = apply_values(step, {}).values()
    return apply_values(deployment, {inputs["id"]: {"image": f"{inputs['image_name']}:2026-01-01"}})


def configure(kind: str, place: int) -> dict[str, Any]:
    """The configuration of a job, as a worker resolves it."""
    template, variables = TEMPLATES[kind], read_deployment(kind, place)["work_pool"]["job_variables"]
    properties = template["variables"]["properties"]
    defaults = {name: schema["default"] for name, schema in properties.items() if "default" in schema}
    return apply_values(template["job_configuration"], defaults | variables)


@each_kind
def test_the_server_accepts_the_template(kind: str) -> None:
    assert WorkPoolCreate(name="x", type=kind, base_job_template=TEMPLATES[kind]).type == kind


@each_kind
def test_the_template_has_fields_and_types_of_the_worker(kind: str) -> None:
    given, default = TEMPLATES[kind], WORKERS[kind]["default_base_job_configuration"]
    assert given["job_configuration"].keys() <= default["job_configuration"].keys() | NEWER
    common = given["variables"]["properties"].keys() & default["variables"]["properties"].keys()
    assert {"image", "env", "name", "labels", "command"} <= common
    for name in common:
        assert given["variables"]["properties"][name]["type"] == default["variables"]["properties"][name]["type"]


@each_deployment
def test_the_variables_of_each_deployment_fit_its_work_pool(kind: str, place: int) -> None:
    deployment = read_deployment(kind, place)
    assert deployment["work_pool"]["name"] == f"hip-mri-{kind}"
    variables = deployment["work_pool"]["job_variables"]
    assert variables.keys() <= TEMPLATES[kind]["variables"]["properties"].keys()
    created = DeploymentCreate(name="x", flow_id=uuid.uuid4(), job_variables=variables)
    created.check_valid_configuration(TEMPLATES[kind])


def test_a_deployment_without_a_data_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the results would be lost with the container."""
    monkeypatch.delenv("HIP_DATA_FOLDER")
    with pytest.raises(Exception, match=":/data"):
        test_the_variables_of_each_deployment_fit_its_work_pool("docker", 0)


@each_kind
def test_all_flows_are_deployed_with_the_environment_of_the_other_deployments(kind: str) -> None:
    joined = join_prefect_files(PROJECT / file for file in PREFECT_FILES)["deployments"]
    deployed = FILES[kind]["deployments"]
    assert {deployment["entrypoint"] for deployment in deployed} == {entry["entrypoint"] for entry in joined}
    assert [import_object(deployment["entrypoint"]).name for deployment in deployed]
    for other in joined:
        for deployment in deployed:
            assert other["work_pool"]["job_variables"]["env"].items() <= (
                deployment["work_pool"]["job_variables"]["env"].items()
            )
            assert deployment["concurrency_limit"] == other["concurrency_limit"]


@each_deployment
def test_only_deployments_for_gpus_request_one_and_have_its_packages(kind: str, place: int) -> None:
    deployment, configuration = read_deployment(kind, place), configure(kind, place)
    is_gpu = deployment["name"] == f"{kind}-gpu"
    (inputs,) = deployment["build"][0].values()
    assert (inputs.get("build_args", {}).get("REQUIREMENTS") == "requirements-gpu.lock") == is_gpu
    assert (PROJECT / inputs["dockerfile"]).exists()
    assert ("hip-mri-gpu:" in deployment["work_pool"]["job_variables"]["image"]) == is_gpu
    if kind == "kubernetes":
        (container,) = configuration["job_manifest"]["spec"]["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == ({"nvidia.com/gpu": "1"} if is_gpu else {})
        return
    requests = configuration["container_create_kwargs"].get("device_requests")
    assert requests == ([{"Driver": "nvidia", "Count": 1, "Capabilities": [["gpu"]]}] if is_gpu else None)


@each_deployment
def test_results_are_written_to_the_data_volume_by_an_ordinary_user(kind: str, place: int) -> None:
    configuration = configure(kind, place)
    (step,) = FILES[kind]["pull"]
    assert step == {"prefect.deployments.steps.set_working_directory": {"directory": "/data"}}
    if kind == "docker":
        host = HostConfig(
            "1.43",
            binds=configuration["volumes"],
            network_mode=configuration["network_mode"],
            **configuration["container_create_kwargs"],
        )
        assert host["Binds"] == ["/srv/data:/data"]
        assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges:true"])
        return
    pod = configuration["job_manifest"]["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    claims = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
    assert (mounts, claims) == ({"data": "/data"}, {"data": "hip-mri-data"})
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 1000, "the user of the image"


@each_deployment
def test_the_worker_accepts_the_configuration(kind: str, place: int) -> None:
    """With the packages of the extra `containers`, which the lock files do not include."""
    worker = pytest.importorskip(f"prefect_{kind}.worker")
    configured = getattr(worker, f"{kind.title()}WorkerJobConfiguration")
    variables = read_deployment(kind, place)["work_pool"]["job_variables"]
    # Without a client, Prefect would start a server; it is called for blocks and variables only.
    job = asyncio.run(configured.from_template_and_values(TEMPLATES[kind], variables, client=object()))
    job.prepare_for_flow_run(FlowRun(flow_id=uuid.uuid4(), name="brave-cat"))
    assert job.env.items() >= variables["env"].items()
    if kind == "kubernetes":
        assert asyncio.run(read_manifest(job.job_manifest)) == job.job_manifest, "fields that Kubernetes does not know"


async def read_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """Read a job by Kubernetes' own schema, which drops unknown fields, and write it again."""
    from kubernetes_asyncio.client import ApiClient

    async with ApiClient() as client:
        response = SimpleNamespace(data=json.dumps(manifest))
        return client.sanitize_for_serialization(client.deserialize(response, "V1Job"))
