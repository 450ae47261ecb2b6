"""Checks of compose.yaml, settings.env, supervisord.conf and the Dockerfile without a container engine."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.credentials import read_environment
from deployments.dask_certificate import describe_certificate
from deployments.register import PREFECT_FILES, WORK_POOLS, join_prefect_files

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "deployments"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"register", "dask-certificate"}
each_service = pytest.mark.parametrize("name", SERVICES)


def known_settings() -> set[str]:
    """All environment variables that Prefect reads."""
    from prefect.settings import Settings
    from pydantic import AliasChoices, BaseModel

    def walk(model: type[BaseModel]) -> set[str]:
        names: set[str] = set()
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                names |= walk(field.annotation)
                continue
            names.add(model.model_config.get("env_prefix", "") + name)
            if isinstance(field.validation_alias, AliasChoices):
                names |= {choice for choice in field.validation_alias.choices if isinstance(choice, str)}
        return {name.upper() for name in names}

    return walk(Settings)


def test_every_prefect_setting_exists() -> None:
    named = set(read_environment(FOLDER / "settings.env"))
    named |= {name for service in SERVICES.values() for name in service.get("environment", {})}
    named |= set(re.findall(r"\bPREFECT_[A-Z_]+[A-Z]\b", (FOLDER / "supervisord.conf").read_text()))
    prefect = {name for name in named if name.startswith("PREFECT_")}
    assert len(prefect) > 20
    assert prefect - known_settings() == set()


def test_the_settings_of_a_team_are_strict() -> None:
    settings = read_environment(FOLDER / "settings.env")
    assert settings["PREFECT_SERVER_API_HOST"] == "127.0.0.1"
    assert settings["PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED"] == "true"
    assert settings["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert settings["DO_NOT_TRACK"] == "1"
    connections = [settings[f"PREFECT_SERVER_DATABASE_SQLALCHEMY_{name}"] for name in ("POOL_SIZE", "MAX_OVERFLOW")]
    assert sum(map(int, connections)) < 90, "PostgreSQL allows 100 by default, three of them for its superusers"
    assert not [name for name in settings if "AUTH_STRING" in name or "PASSWORD" in name]


@each_service
def test_ports_are_published_on_the_loopback_interface(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))
    assert SERVICES[name].get("network_mode") in (None, "none")


@each_service
def test_the_file_contains_no_secret(name: str) -> None:
    secret = {
        key: value
        for key, value in SERVICES[name].get("environment", {}).items()
        if key.endswith(("PASSWORD", "AUTH_STRING"))
    }
    assert all(re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", value) for value in secret.values()), "refuse to start without"


def test_the_example_contains_no_secret() -> None:
    example = read_environment(FOLDER / "example.env")
    needed = set(re.findall(r"\$\{([A-Z_]+):\?", (FOLDER / "compose.yaml").read_text()))
    offered = set(re.findall(r"\$\{([A-Z_]+):-", (FOLDER / "compose.yaml").read_text()))
    assert {name for name, value in example.items() if not value} == needed
    assert set(example) == needed | offered


@each_service
def test_services_have_health_checks_or_wait_for_healthy_ones(name: str) -> None:
    service = SERVICES[name]
    assert "healthcheck" in service or "depends_on" in service or name in ONE_SHOT
    for other, condition in service.get("depends_on", {}).items():
        expected = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
        assert condition == {"condition": expected}
        assert other in ONE_SHOT or "healthcheck" in SERVICES[other]


@each_service
def test_images_are_pinned_and_programs_run_with_few_rights(name: str) -> None:
    service = SERVICES[name]
    assert re.search(r":\d+\.\d+(\.\d+)?(-\w+)?$", service["image"])
    if "build" in service:
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["build"]["dockerfile"] == "deployments/Dockerfile"
        assert service["env_file"] == "settings.env"


def test_volumes_are_declared_and_used() -> None:
    volumes = [volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert {volume for volume in volumes if not volume.startswith("$")} == set(COMPOSE["volumes"])


def test_only_the_gpu_worker_reserves_a_gpu() -> None:
    reserved = [name for name, service in SERVICES.items() if "deploy" in service]
    assert reserved == ["gpu-worker"]
    assert SERVICES["gpu-worker"]["profiles"] == ["gpu"]
    assert SERVICES["gpu-worker"]["build"]["args"]["REQUIREMENTS"] == "requirements-gpu.lock"
    assert "CUDA_VISIBLE_DEVICES" not in SERVICES["gpu-worker"]["environment"]


def test_every_work_pool_has_a_worker_and_every_deployment_a_work_pool() -> None:
    pools = [
        service["command"][service["command"].index("--pool") + 1]
        for service in SERVICES.values()
        if "--pool" in service.get("command", [])
    ]
    assert set(pools) == set(WORK_POOLS)
    joined = join_prefect_files(PROJECT / file for file in PREFECT_FILES)
    assert joined["name"] == "hip-mri"
    assert {"default", "gpu"} <= {deployment["name"] for deployment in joined["deployments"]}
    assert {deployment["work_pool"]["name"] for deployment in joined["deployments"]} == set(WORK_POOLS)


def test_dask_uses_tls_only() -> None:
    expected = describe_certificate(Path("/certificates"))
    for name in ("dask-scheduler", "dask-worker", "cpu-worker", "gpu-worker"):
        assert expected.items() <= SERVICES[name]["environment"].items()
        assert any(volume.startswith("certificates:/certificates") for volume in SERVICES[name]["volumes"])
    for name in ("dask-scheduler", "dask-worker"):
        command = SERVICES[name]["command"]
        assert command[command.index("--protocol") + 1] == "tls"


def test_the_image_contains_locked_packages_and_runs_without_root() -> None:
    lines = (FOLDER / "Dockerfile").read_text()
    assert re.search(r"^FROM python:3\.11\.\d+-slim-\w+$", lines, re.MULTILINE)
    assert "--require-hashes --requirement" in lines
    assert re.findall(r"^USER (\w+)$", lines, re.MULTILINE) == ["hip"]
    sources = [word for line in re.findall(r"^COPY (.+)$", lines, re.MULTILINE) for word in line.split()[:-1]]
    assert "." not in sources
    for source in sources:
        assert source == "${REQUIREMENTS}" or (PROJECT / source).exists()


def test_all_installations_use_the_same_uv() -> None:
    files = ("Makefile", "deployments/Dockerfile", "hip.ipynb", "docs/deployment.md")
    versions = {name: set(re.findall(r"uv==[\d.]+", (PROJECT / name).read_text())) for name in files}
    assert len(set().union(*versions.values())) == 1, versions
    assert all(versions.values()), versions


def test_the_build_context_holds_only_what_the_image_contains() -> None:
    rules = (PROJECT / ".dockerignore").read_text().split("\n")
    rules = [rule for rule in rules if rule and not rule.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    lines = (FOLDER / "Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (.+)$", lines, re.MULTILINE) for word in line.split()[:-1]}
    locks = {"requirements.lock", "requirements-gpu.lock"}
    assert allowed - {"deployments/settings.env"} == (copied - {"${REQUIREMENTS}"}) | locks
    assert "deployments/*.env" in rules, "secrets must not be copied into images"
