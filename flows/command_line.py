"""The command line of every flow: one option per setting, one clear message on failure, the result as the last line."""

import contextlib
import importlib
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO, cast
from uuid import UUID

from pydantic import ValidationError

from flows.native_stderr import filter_native_stderr
from flows.network_checks import prepare_network
from flows.prefect_server import PrefectServer, open_server
from flows.prefect_settings import load_prefect
from flows.stopping import end_process, watcher
from hip_mri.config import Settings
from hip_mri.errors import DeploymentError, HipMriError, SettingsError, SourceError
from hip_mri.models.keras_settings import choose_backend, import_keras
from hip_mri.storage import is_unrecoverable
from hip_mri.workspace import Workspace

WITHOUT_INPUT: Final = (("source",), ("sources",))
"""Settings whose value an error does not repeat: an address can hold a token."""

HELP: Final = frozenset({"-h", "--help"})

logger = logging.getLogger("hip_mri.command_line")


@dataclass(frozen=True)
class Command:
    """A flow that is started from the command line.

    Attributes:
        config: The flow's settings; each becomes an option.
        flow: Where the flow is, as `prefect.yaml` names it: `flows.pipeline:hip_pipeline`. It takes the settings as
            its one parameter, and what it returns becomes the last line on standard output.
        program: What the user types, for the help.
        description: What it does, for the help.
        find_held: Which part of the workspace the flow keeps all others out of.
        needs_keras: Whether the flow always needs Keras, so that it loads while a server of the run's own starts.
    """

    config: type[Settings]
    flow: str
    program: str
    description: str
    find_held: Callable[[Workspace], Workspace] = lambda workspace: workspace
    needs_keras: bool = False


def main(command: Command, arguments: Sequence[str] | None = None) -> int:
    """Run a flow as the command line asks.

    Args:
        command: Which flow.
        arguments: Without the program's name; `None` takes those of the process.

    Returns:
        Exit code: 0 when everything was written, 1 when not, 130 when stopped by Ctrl-C, 143 by SIGTERM.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        with watcher.end_in_order():
            _run_command(command, words)
    except KeyboardInterrupt:
        watcher.print_stopped()
        return watcher.exit_code
    except Exception as error:
        if watcher.received:  # whatever the interruption was turned into on its way
            watcher.print_stopped()
            return watcher.exit_code
        if not (message := _explain(error)):
            raise
        print(f"error: {message}", file=sys.stderr)
        return 1
    return 0


def run_program(command: Command) -> NoReturn:
    """Run a flow as the whole program; a run that was stopped does not wait for its threads."""
    exit_code = main(command)
    if watcher.received:
        end_process(watcher.exit_code)
    sys.exit(exit_code)


def _run_command(command: Command, words: Sequence[str]) -> None:
    if not HELP.isdisjoint(words):
        read_config(command, words)  # prints the help and exits
    prepare_network()
    with open_server() as server:
        config = read_config(command, words)
        choose_backend()  # one that cannot be used ends the run now, not in the middle
        _check_sources(config)
        if folder := getattr(config, "workspace", None):
            command.find_held(Workspace.at(folder)).check_free()
        print(run_flow(command.flow, config, server, needs_keras=command.needs_keras))


def _explain(error: Exception) -> str:
    """The message for the user; empty where the error is a fault of this program."""
    if isinstance(error, HipMriError):
        return str(error)
    if is_unrecoverable(error):
        return f"{error}. Make room on the disk, or mend it, then start again: finished work is kept."
    return ""


def _check_sources(config: Settings) -> None:
    """See that the sources are there; the terminal alone is told which is not."""
    from hip_mri.sources.fetch import check_source  # noqa: PLC0415 - loads NumPy, a tenth of a second

    for source in (getattr(config, "source", None), *getattr(config, "sources", ())):
        try:
            check_source(source)
        except SourceError as error:
            raise SourceError(f"{error} It was given as {source!r}.") from error


def read_config(command: Command, arguments: Sequence[str]) -> Settings:
    """Read settings from the command line, over those of `--config`, over the defaults.

    Args:
        command: Whose settings.
        arguments: Such as `["--training.epochs", "3"]`; dashes and underscores in names mean the same.

    Returns:
        The settings, of the class that the command names.

    Raises:
        SettingsError: An option or a value cannot be used; all offenders are named.
    """
    _check_encoding(arguments)
    # These take a tenth of a second, in which the server starts already.
    from pydantic import create_model  # noqa: PLC0415
    from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict  # noqa: PLC0415
    from pydantic_settings.exceptions import SettingsError as OptionError  # noqa: PLC0415

    class CommandLine(BaseSettings):
        model_config = SettingsConfigDict(
            cli_kebab_case=True,
            cli_hide_none_type=True,
            cli_avoid_json=True,
            cli_exit_on_error=False,
            nested_model_default_partial_update=True,
            use_attribute_docstrings=True,
        )

        config: Path | None = None
        """YAML file with settings, nested as the dots in the options; options on the command line win over it."""

    words = [_with_dashes(word) if word.startswith("--") else word for word in arguments]
    bases = cast("tuple[type[BaseSettings], ...]", (command.config, CommandLine))
    options = create_model("Options", __base__=bases, __doc__=command.description)
    try:
        given = CliSettingsSource(options, cli_parse_args=words, cli_prog_name=command.program)()
        file = given.pop("config", None)
        return command.config.model_validate(_merge(_read_yaml(Path(file)), given) if file else given)
    except OptionError as error:
        told = re.sub(r"\S*:/\S*", "...", str(error).removeprefix("error parsing CLI: "))  # addresses hold passwords
        raise SettingsError(f"{told}. See --help for all options.") from None
    except ValidationError as error:
        raise SettingsError(_describe(error)) from error


def _check_encoding(arguments: Sequence[str]) -> None:
    """See that all arguments are text: Prefect keeps settings as UTF-8, which not every name of a file is."""
    for place, word in enumerate(arguments):
        if not word.isprintable() and any("\udc80" <= letter <= "\udcff" for letter in word):
            named = next((other for other in reversed(arguments[: place + 1]) if other.startswith("--")), "an argument")
            option = named.partition("=")[0].encode(errors="replace").decode()
            or_link = "" if option == "--workspace" else ", or give a link to it, as `ln -s` makes one"
            raise SettingsError(
                f"{option}: the value has bytes that are not UTF-8, which Prefect cannot keep. Rename the file or "
                f"folder{or_link}."
            )


def run_flow(flow: str, config: Settings, server: PrefectServer, *, needs_keras: bool) -> str:
    """Run a flow in this process, with Prefect's own lines kept off the terminal.

    Args:
        flow: Module and name, as `flows.pipeline:hip_pipeline`.
        config: Every setting.
        server: What the flow reports to. It starts while the flow's module loads Prefect.
        needs_keras: Whether to load Keras, too, while a server of the run's own starts.

    Returns:
        What the flow returns, such as the folder of the finished run.

    Raises:
        DeploymentError: Prefect's server does not answer, or no longer.
    """
    filter_native_stderr()
    logging.raiseExceptions = False  # else Prefect writes of every line that a dying server does not take
    show_progress_lines(sys.stderr)
    logger.info("Starting Prefect ...")
    load_prefect()
    module, _, name = flow.partition(":")
    run = getattr(importlib.import_module(module), name)  # only now: Prefect reads the environment when it is imported
    if needs_keras and server.is_own:
        threading.Thread(target=_load_keras).start()
    server.wait_until_ready()
    try:
        with report_hard_end(run) as watched:
            return watched(config)
    except Exception as error:
        if not _is_of_the_server(error):
            raise
        if server.is_own:
            raise DeploymentError(
                f"prefect: the server of this run does not answer any more ({error}). Start again: finished work is "
                "kept."
            ) from error
        raise DeploymentError(
            f"prefect: the server that PREFECT_API_URL or the profile names does not answer ({error}). Start it, or "
            "unset PREFECT_API_URL to run without one; then start again: finished work is kept."
        ) from error


@contextmanager
def report_hard_end(run: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Report a flow run as crashed where the process ends before Prefect could do so.

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


def _load_keras() -> None:
    with contextlib.suppress(SettingsError):  # the step that needs Keras reports it
        import_keras()


def _is_of_the_server(error: Exception) -> bool:
    """Whether a call of Prefect's server failed for good; its client has tried again by then."""
    import httpx  # noqa: PLC0415 - Prefect has loaded it; before that it is a tenth of a second

    return any(
        isinstance(it, httpx.TransportError) or (isinstance(it, httpx.HTTPStatusError) and it.response.is_server_error)
        for it in (error, error.__cause__)
    )


def show_progress_lines(stream: TextIO) -> None:
    """Write what the library reports while it works, one line at a time; a second call moves the lines elsewhere."""
    handler = logging.StreamHandler(stream)
    handler.name = "progress"
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    library = logging.getLogger("hip_mri")
    library.handlers = [*(other for other in library.handlers if other.name != handler.name), handler]
    library.setLevel(logging.INFO)


def _with_dashes(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 - most commands need none

    try:
        content = yaml.safe_load(file.read_text()) or {}
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SettingsError(f"config: {file} cannot be read ({reason}). Give a YAML file.") from error
    except yaml.MarkedYAMLError as error:  # as a whole it repeats the line, which can hold a password
        mark = error.problem_mark
        place = f", in line {mark.line + 1}" if mark else ""
        raise SettingsError(f"config: {file} is not YAML ({error.problem}{place}).") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML lets through what Python says of a 45th day, of a tag that does not fit, and of deep nesting.
        raise SettingsError(f"config: {file} is not YAML ({error}).") from error
    if not isinstance(content, dict):
        raise SettingsError(f"config: {file} must hold names and values, as `training: {{epochs: 3}}`.")
    return content


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        known = merged.get(name)
        merged[name] = _merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def _describe(error: ValidationError) -> str:
    """One line per setting that cannot be used."""
    return "\n".join(
        f"{'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg'].removeprefix('Value error, ')}"
        + (
            ""
            if fault["loc"][:1] in WITHOUT_INPUT or ":/" in str(fault["input"])
            else f" (received {fault['input']!r})"
        )
        for fault in error.errors(include_url=False)
    )
