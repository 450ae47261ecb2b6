"""Exports a version to an MLflow tracking server.

MLflow gets a copy of the model, its metrics and its settings; no table of images, and no setting that could identify a
person or a place. The workspace stays the record of champions, comparisons and hashes.
"""

import importlib
import os
from typing import Any, Final

import yaml

from hip_mri.addresses import strip_credentials, strip_credentials_in_text
from hip_mri.errors import ReleaseError
from hip_mri.evaluation.report.settings import disclose, flatten_settings
from hip_mri.registry.versions import RECORD, Version, check_version
from hip_mri.run_files import CONFIG_FILE, METRICS_FILE, MODEL_FILE
from hip_mri.storage import digest_file

NAME: Final = "hip-mri"
"""Name of the experiment and of the registered model."""

ARTIFACTS: Final = (MODEL_FILE, METRICS_FILE, RECORD)
"""Files that are uploaded."""

TEST_MEASURES: Final = ("auc", "average_precision", "brier", "calibration_slope", "num_images", "num_lesions")
DECISION_MEASURES: Final = ("sensitivity", "specificity", "ppv", "npv", "accuracy", "f1")


def export_version(version: Version, tracking_uri: str, name: str = NAME) -> str:
    """Log a version as an MLflow run and register its model. The same version again changes nothing.

    Args:
        version: All of its files are checked first.
        tracking_uri: Such as `http://127.0.0.1:5000` or `sqlite:///mlflow.db`. The server decides where it keeps
            artifacts.
        name: Name of the experiment and of the registered model.

    Returns:
        MLflow's number of the registered model's version.

    Raises:
        ReleaseError: A file of the version was changed, MLflow is not installed, or the server refuses.
    """
    check_version(version)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        connect = importlib.import_module("mlflow.tracking").MlflowClient
        failure = importlib.import_module("mlflow.exceptions").MlflowException
    except ModuleNotFoundError as error:
        raise ReleaseError(
            f"release: MLflow is not installed ({error.name} is missing). Install it: pip install 'hip-mri[mlflow]'"
        ) from error
    try:
        client = connect(tracking_uri=tracking_uri)
        return _find_exported(client, version, name) or _export(client, version, name)
    except (failure, OSError) as error:
        raise ReleaseError(
            f"release: version {version.name} could not be exported to MLflow at {strip_credentials(tracking_uri)} "
            f"({strip_credentials_in_text(str(error))}). Check the address, such as http://127.0.0.1:5000, "
            "and that the server runs and lets you write, then export again: nothing is registered twice."
        ) from None  # the error repeats the address


def _find_exported(client: Any, version: Version, name: str) -> str | None:
    """Find the MLflow version that an earlier export registered."""
    registered = client.search_model_versions(f"name='{name}'")
    same = [found for found in registered if _describe(version).items() <= dict(found.tags).items()]
    return str(same[0].version) if same else None


def _export(client: Any, version: Version, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    number = experiment.experiment_id if experiment else client.create_experiment(name)
    run = client.create_run(number, run_name=f"version {version.name}", tags=_describe(version)).info
    is_finished = False
    try:
        for setting, value in read_parameters(version).items():
            client.log_param(run.run_id, setting, value)
        for measure, value in read_measures(version).items():
            client.log_metric(run.run_id, measure, value)
        for file in ARTIFACTS:
            client.log_artifact(run.run_id, str(version.folder / file))
        if not client.search_registered_models(f"name='{name}'"):
            client.create_registered_model(name)
        made = client.create_model_version(
            name, source=f"{run.artifact_uri}/{MODEL_FILE}", run_id=run.run_id, tags=_describe(version)
        )
        is_finished = True
    finally:
        client.set_terminated(run.run_id, "FINISHED" if is_finished else "FAILED")
    return str(made.version)


def read_parameters(version: Version) -> dict[str, str]:
    """Read the settings of a version by dotted name; those that could identify a person or a place are withheld."""
    settings = yaml.safe_load((version.folder / CONFIG_FILE).read_text())
    return {name: disclose(name, value) for name, value in flatten_settings(settings).items()}


def read_measures(version: Version) -> dict[str, float]:
    """Read the threshold and the test metrics of a version, without those that are not defined."""
    metrics = version.read_metrics()
    test, decisions = metrics["test"], metrics["test"].get("at_threshold") or {}
    measures = {"threshold": metrics.get("threshold")}
    measures |= {f"test_{name}": test.get(name) for name in TEST_MEASURES}
    measures |= {f"test_{name}": decisions.get(name) for name in DECISION_MEASURES}
    return {name: float(value) for name, value in measures.items() if value is not None}


def _describe(version: Version) -> dict[str, str]:
    """Return the tags by which an exported version is found."""
    return {
        "hip_mri.version": version.name,
        "hip_mri.model_sha256": version.model_sha256,
        "hip_mri.data_sha256": version.data_sha256,
        "hip_mri.record_sha256": digest_file(version.folder / RECORD),
    }
