"""Process that talks to MLflow for `hip_mri.registry.tracking`: `python -m hip_mri.registry.mlflow_client OPTIONS`.

Its last line on standard output is a JSON object with the address of the `run`, or an `error`.
"""

import contextlib
import csv
import importlib
import json
import math
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import yaml

from hip_mri.config import SPLITS
from hip_mri.evaluation.metrics.table import METRICS
from hip_mri.evaluation.report.settings import disclose, flatten_settings
from hip_mri.hashes import digest_file
from hip_mri.run_files import (
    CHECKLIST_FILE,
    CONFIG_FILE,
    FIGURES_FOLDER,
    HISTORY_FILE,
    METRICS_FILE,
    MODEL_CARD_FILE,
    MODEL_FILE,
    REPORT_FILE,
)
from hip_mri.storage import read_json

ALIAS: Final = "champion"
"""Of the registered model's version that scores new images."""

RUN_TAG: Final = "hip_mri.metrics_sha256"
"""Tag with the SHA-256 of `metrics.json`, which contains the time of the run: a logged run is found by it."""

FILES: Final = {
    **dict.fromkeys((METRICS_FILE, REPORT_FILE, MODEL_CARD_FILE, CHECKLIST_FILE)),
    f"{FIGURES_FOLDER}/*.png": FIGURES_FOLDER,
    MODEL_FILE: "model",  # a registered model is a folder
}
"""Folder of MLflow for each file of a run that is uploaded, where it exists; none lists images. The largest is last."""

EXPERIMENT_KIND: Final = "custom_model_development"
"""Shows the pages on training in MLflow's UI, rather than those on language models."""

MAX_BATCH_SIZES: Final = {"params": 100, "metrics": 1000}
"""Most entries of one request, by the REST API of MLflow."""


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        uri: Address of the MLflow server or database file.
        name: Name of the experiment and of the registered model.
        timeout_seconds: For everything.
        run_folder: A run folder, or the folder of a version, which has fewer files.
        run_name: Such as `0003`.
        version: The version of the run that is the champion, such as `0002`; `None` logs the run only.
        model_sha256: Of the champion's model.
    """

    uri: str
    name: str
    timeout_seconds: float
    run_folder: Path
    run_name: str
    version: str | None = None
    model_sha256: str | None = None


def track(job: Job, client: Any) -> str:
    """Log a run, and mark it as champion if it has a version.

    Args:
        job: What is to be done.
        client: An `MlflowClient`.

    Returns:
        Address of the run.
    """
    experiment_id = _find_experiment(job, client)
    run_id = _find_run(job, client, experiment_id)
    if job.version:
        _mark_champion(job, client, run_id)
    place = f"{job.uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    return place if job.uri.startswith("http") else f"run {run_id} in {job.uri}"


def _find_experiment(job: Job, client: Any) -> str:
    """Find the experiment, or make it. A server decides where it keeps files; else they are beside the database."""
    if found := client.get_experiment_by_name(job.name):
        return found.experiment_id
    is_server = job.uri.startswith("http")
    folder = None if is_server else (_find_database(job.uri).parent / "mlartifacts").as_uri()
    return client.create_experiment(job.name, folder, {"mlflow.experimentKind": EXPERIMENT_KIND})


def _find_database(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///")).absolute()


def _find_run(job: Job, client: Any, experiment_id: str) -> str:
    """Find the MLflow run of a run, or make it; it is finished only after everything was logged."""
    tag = digest_file(job.run_folder / METRICS_FILE)
    found = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{tag}'", max_results=1)
    if found and found[0].info.status == "FINISHED":
        return found[0].info.run_id
    metrics = read_json(job.run_folder / METRICS_FILE)
    start, end = read_times(metrics)
    if not found:
        tags = {RUN_TAG: tag, "mlflow.note.content": "\n\n".join(metrics.get("notices", ()))}
        found = [client.create_run(experiment_id, start_time=start, run_name=f"run {job.run_name}", tags=tags)]
    run_id = found[0].info.run_id
    try:
        _log_values(job, client, run_id, metrics, end)
        _log_files(job, client, run_id)
    except BaseException:
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "2"
        with contextlib.suppress(Exception):
            client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED", end_time=end)
    return run_id


def _log_values(job: Job, client: Any, run_id: str, metrics: Mapping[str, Any], timestamp: int) -> None:
    """Log settings, metrics and losses; the same values again change nothing, as their time is that of the run."""
    entities = importlib.import_module("mlflow.entities")
    parameters = [entities.Param(*pair) for pair in read_parameters(job.run_folder).items()]
    values = [entities.Metric(key, value, timestamp, 0) for key, value in read_values(metrics).items()]
    losses = [entities.Metric(key, value, timestamp, epoch) for key, value, epoch in read_losses(job.run_folder)]
    for kind, entries in {"params": parameters, "metrics": values + losses}.items():
        size = MAX_BATCH_SIZES[kind]
        for first in range(0, len(entries), size):
            client.log_batch(run_id, **{kind: entries[first : first + size]})


def _log_files(job: Job, client: Any, run_id: str) -> None:
    # The server has answered by now; it may need longer to store a file than to answer.
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(math.ceil(job.timeout_seconds))
    for pattern, folder in FILES.items():
        for file in sorted(job.run_folder.glob(pattern)):
            client.log_artifact(run_id, str(file), folder)


def _mark_champion(job: Job, client: Any, run_id: str) -> None:
    """Register the run's model, if it is not registered, and move the alias to it."""
    if not client.search_registered_models(f"name='{job.name}'"):
        client.create_registered_model(job.name)
    found = client.search_model_versions(f"name='{job.name}' and run_id='{run_id}'")
    if not found:
        tags = {"hip_mri.version": job.version, "hip_mri.model_sha256": job.model_sha256}
        source = f"runs:/{run_id}/{FILES[MODEL_FILE]}"
        found = [client.create_model_version(job.name, source, run_id, tags, description=f"Version {job.version}")]
    client.set_registered_model_alias(job.name, ALIAS, found[0].version)


def read_times(metrics: Mapping[str, Any]) -> tuple[int, int]:
    """Read start and end of a run, in milliseconds since 1970."""
    end = datetime.fromisoformat(metrics["created"]).timestamp()
    return round(1000 * (end - sum(metrics["seconds"].values()))), round(1000 * end)


def read_parameters(run_folder: Path) -> dict[str, str]:
    """Read the settings of a run by dotted name; those that could identify a person or a place are withheld."""
    settings = flatten_settings(yaml.safe_load((run_folder / CONFIG_FILE).read_text()))
    # MLflow accepts no other characters in a name; names of classes can have any.
    return {re.sub(r"[^\w./ -]", "_", name): disclose(name, value) for name, value in settings.items()}


def read_values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Read the threshold and the metrics of each split, such as `test/auc`; those of the test set with their interval.

    Values that are not defined are left out.
    """
    values = {"threshold": metrics["threshold"]}
    values |= {f"test/{name}": metrics["test"][name] for name in ("num_images", "num_lesions", "num_groups")}
    for key, metric in METRICS.items():
        values |= {f"{split}/{key}": metric.get(metrics[split]) for split in SPLITS}
        lower, upper = metric.get(metrics["test"]["intervals"]) or (None, None)
        values |= {f"test/{key}_lower": lower, f"test/{key}_upper": upper}
    return {name: float(value) for name, value in values.items() if value is not None}


def read_losses(run_folder: Path) -> Iterator[tuple[str, float, int]]:
    """Read name, value and epoch of each loss and accuracy; those that are not finite are left out."""
    file = run_folder / HISTORY_FILE  # which the folder of a version does not have
    for row in csv.DictReader(file.read_text().splitlines()) if file.exists() else ():
        for column in ("loss", "accuracy", "val_loss", "val_accuracy"):
            if math.isfinite(value := float(row[column] or "nan")):
                yield f"epoch/{column}", value, int(row["epoch"])


def main(arguments: Sequence[str]) -> None:
    """Do the job, within its time limit, and print the result."""
    options = json.loads(arguments[0])
    job = Job(**{**options, "run_folder": Path(options["run_folder"])})
    signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, job.timeout_seconds)
    try:
        if not job.uri.startswith("http"):
            _find_database(job.uri).open("ab").close()  # MLflow tries for a minute to open one that it cannot write
        connect = importlib.import_module("mlflow").MlflowClient
        answer = {"run": track(job, connect(tracking_uri=job.uri, registry_uri=job.uri))}
    except Exception as error:  # whatever it is, the run goes on without MLflow
        cause = find_cause(error)
        answer = {"error": f"{type(cause).__name__}: {cause}"}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


def find_cause(error: BaseException) -> BaseException:
    """Find the error of the network or disk that led to an error of MLflow, whose text repeats it at length."""
    chain = [error]
    while following := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following)
    return next((it for it in reversed(chain) if isinstance(it, OSError)), error)


def _stop(*signal_and_frame: object) -> None:  # noqa: ARG001 - the signature is Python's
    raise TimeoutError("the time limit tracking.timeout_seconds was reached")


if __name__ == "__main__":
    main(sys.argv[1:])
