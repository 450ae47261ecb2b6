"""Runs a flow in this process, with a Prefect server of its own where none is named."""

import contextlib
import functools
import importlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO
from uuid import UUID

from flows.runtime.interrupts import watcher
from flows.runtime.native_stderr import filter_native_stderr
from flows.runtime.network_checks import prepare_network
from flows.runtime.prefect_server import PrefectServer, open_server
from flows.runtime.prefect_settings import load_prefect
from hip_mri.config import Settings, TrainingConfig
from hip_mri.errors import DeploymentError, SettingsError, SourceError
from hip_mri.models.keras_settings import choose_backend, import_keras
from hip_mri.registry.tracking import check_tracking
from hip_mri.workspace import Workspace

logger = logging.getLogger("hip_mri.flow_runs")  # a child of `hip_mri`, whose lines are shown


def start_flow(flow: str, config: Settings, *, is_serving: bool = False) -> str:
    """Check what can be checked before Prefect loads, then run a flow.

    Args:
        flow: Module and name, such as `flows.pipeline:hip_pipeline`. Its parameter is `config`.
        config: Every setting.
        is_serving: Whether the flow scores images: it locks only that part of the workspace. It always needs Keras,
            which is loaded while a server of the run's own starts.

    Returns:
        What the flow returns, such as the folder of the finished run.

    Raises:
        HipMriError: The flow failed, or cannot be started.
    """
    prepare_network()
    with open_server() as server:
        choose_backend()  # one that cannot be used fails now, not during the run
        _check_sources(config)
        if isinstance(config, TrainingConfig):
            check_tracking(config.tracking)
            _check_files(config)
        if folder := getattr(config, "workspace", None):
            workspace = Workspace.at(folder)
            (workspace.serving if is_serving else workspace).check_free()
        return run_flow(flow, config, server, needs_keras=is_serving)


def run_flow(flow: str, config: Settings, server: PrefectServer, *, needs_keras: bool) -> str:
    """Run a flow in this process while the server starts, and show progress instead of Prefect's own log lines.

    Raises:
        DeploymentError: Prefect's server does not answer.
    """
    filter_native_stderr()
    logging.raiseExceptions = False  # else Prefect writes a traceback per log line that an ended server does not take
    show_progress_lines(sys.stderr)
    logger.info("Starting Prefect ...")
    load_prefect()
    module, _, name = flow.partition(":")
    run = getattr(importlib.import_module(module), name)  # after `open_server`: Prefect reads the environment once
    if needs_keras and server.is_own:
        threading.Thread(target=_load_keras).start()
    server.wait_until_ready()
    try:
        with report_hard_end(run) as watched:
            return call_flow(watched, config)
    except Exception as error:
        if not _is_server_error(error):
            raise
        if server.is_own:
            cause, step = "the server of this run", "Start again"
        else:
            cause = "the server that PREFECT_API_URL or the profile names"
            step = "Start it, or unset PREFECT_API_URL to run without one; then start again"
        raise DeploymentError(f"prefect: {cause} does not answer ({error}). {step}: finished work is kept.") from error


def call_flow(run: Callable[..., Any], config: Settings) -> str:
    """Call a flow, and return its result also where the server no longer has it.

    Prefect's client repeats the request that ends a flow run if a slow server does not answer in time. The server may
    have stored the state at the first request; it then answers with that state, without the result.

    Args:
        run: A flow that returns a state; any other function is only called.
        config: Its argument.
    """
    from prefect import Flow  # noqa: PLC0415 - loaded by the flow's module
    from prefect.exceptions import MissingResult  # noqa: PLC0415

    if not isinstance(run, Flow):
        return run(config)
    returned: list[Any] = []
    function = run.fn

    @functools.wraps(function)
    def keep_result(*arguments: Any, **options: Any) -> Any:
        state = function(*arguments, **options)
        returned.append(state.data)
        return state

    kept = run.with_options()
    kept.fn = keep_result
    try:
        return kept(config)
    except MissingResult:
        if not returned:
            raise
        return returned[-1]


@contextmanager
def report_hard_end(run: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Report a flow run as crashed if the process ends before Prefect could do so.

    Args:
        run: A flow; any other function is yielded as it is.

    Yields:
        The flow to call.
    """
    from prefect import Flow  # noqa: PLC0415 - loaded by the flow's module
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.states import Crashed  # noqa: PLC0415

    flow_run_ids: list[UUID] = []

    def report() -> None:
        with get_client(sync_client=True) as client:
            for flow_run_id in flow_run_ids:
                client.set_flow_run_state(flow_run_id, Crashed(message="The process was stopped by a signal."), True)

    def remember(flow: Any, flow_run: Any, state: Any) -> None:  # noqa: ARG001 - the signature is Prefect's
        flow_run_ids.append(flow_run.id)

    with watcher.on_hard_end(report):
        yield run.with_options(on_running=[remember]) if isinstance(run, Flow) else run


def show_progress_lines(stream: TextIO) -> None:
    """Write the library's log to a stream, one line per message; a second call replaces the stream."""
    handler = logging.StreamHandler(stream)
    handler.name = "progress"
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    library = logging.getLogger("hip_mri")
    library.handlers = [*(other for other in library.handlers if other.name != handler.name), handler]
    library.setLevel(logging.INFO)


def _check_sources(config: Settings) -> None:
    """Check that the sources exist. The message repeats the source, since it is shown in the terminal only."""
    from hip_mri.sources.fetch import check_source  # noqa: PLC0415 - loads NumPy, a tenth of a second

    for source in (getattr(config, "source", None), *getattr(config, "sources", ())):
        try:
            check_source(source)
        except SourceError as error:
            raise SourceError(f"{error} It was given as {source!r}.") from error


def _check_files(config: TrainingConfig) -> None:
    """Check the weights file and the tables of patients, splits and corrections, as the flow does later."""
    if config.model.weights not in ("imagenet", "random"):
        from hip_mri.models.backbones.weights import find_weights_file  # noqa: PLC0415 - loads HDF5

        find_weights_file(config.model.weights, config.model.backbone)
    data = config.data
    if data.patients_file or data.split_files:
        from hip_mri.dataset.identities import check_patient_tables  # noqa: PLC0415 - loads pandas

        keep_given_split = data.given_split == "keep"
        check_patient_tables(
            (), data.patients_file, data.class_names, data.split_files, keep_given_split=keep_given_split
        )
    if data.corrections_file:
        from hip_mri.sources.tables.corrections import read_corrections  # noqa: PLC0415 - loads pandas

        read_corrections(data.corrections_file, data.class_names)


def _load_keras() -> None:
    with contextlib.suppress(SettingsError):  # the step that needs Keras reports it
        import_keras()


def _is_server_error(error: Exception) -> bool:
    """Whether a request to Prefect's server failed, after the retries of Prefect's client."""
    import httpx  # noqa: PLC0415 - Prefect has loaded it; before that it takes a tenth of a second

    return any(
        isinstance(it, httpx.TransportError) or (isinstance(it, httpx.HTTPStatusError) and it.response.is_server_error)
        for it in (error, error.__cause__)
    )
