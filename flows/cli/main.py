"""Entry point of the command `hip-mri`: signals, error messages and exit codes.

`python flows/pipeline.py` and the files of the other flows run the same code. The module imports only the standard
library, so that signals are handled before slow imports.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from flows.runtime.interrupts import end_process, watcher

if TYPE_CHECKING:
    from flows.cli.base_commands import Program

DONE: Final = 0
FAILED: Final = 1
"""Exit code after one line that begins with `error:`; a signal exits with 128 plus its number."""
USAGE: Final = 2
"""Exit code if the command line or the settings file cannot be used; nothing was started."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `hip-mri` as the whole program.

    Args:
        arguments: Command and options; `None` uses those of the process.
    """
    watcher.start()
    exit_code = run_command(sys.argv[1:] if arguments is None else arguments)
    if watcher.received:
        end_process(watcher.exit_code)  # does not wait for threads
    sys.exit(exit_code)


def run_if_main(module: str, command: str) -> None:
    """Run a command of `hip-mri` with the options of the process if a flow's file is the main program.

    Call it before Prefect is imported: the command starts a Prefect server while Prefect loads, and imports the file
    again under its module name. It does not return then.

    Args:
        module: `__name__` of the calling module.
        command: Name of the command.
    """
    if module == "__main__":
        main([command, *sys.argv[1:]])


def run_command(arguments: Sequence[str], program: "type[Program] | None" = None) -> int:
    """Run a command; errors of the user and of the machine are printed in one line, others are raised.

    Args:
        arguments: Command and options, such as `["run", "--seed", "3"]`.
        program: What was called; `hip-mri` by default.

    Returns:
        Exit code.
    """
    try:
        with watcher.end_in_order():
            return _run(arguments, program)
    except KeyboardInterrupt:
        watcher.print_stopped()
        return watcher.exit_code
    except Exception:
        if watcher.received is None:
            raise
        watcher.print_stopped()  # the exception is a consequence of the interrupt
        return watcher.exit_code


def _run(arguments: Sequence[str], program: "type[Program] | None") -> int:
    # These imports take 0.2 s, and a signal in the meantime is handled.
    from flows.cli.arguments import read_command  # noqa: PLC0415
    from flows.cli.commands import HipMri  # noqa: PLC0415
    from hip_mri.disk_errors import is_unrecoverable  # noqa: PLC0415
    from hip_mri.errors import HipMriError, SettingsError  # noqa: PLC0415

    try:
        command = read_command(arguments, program or HipMri)
    except SettingsError as error:
        return _fail(str(error), USAGE)
    try:
        command.execute()
    except HipMriError as error:
        return _fail(str(error), FAILED)
    except OSError as error:
        if watcher.received or not is_unrecoverable(error):
            raise
        return _fail(f"{error}. Make room on the disk, or repair it, then start again: finished work is kept.", FAILED)
    return DONE


def _fail(message: str, exit_code: int) -> int:
    if watcher.received is None:  # else the message is a consequence of the interrupt
        print(f"error: {message}", file=sys.stderr)
        return exit_code
    watcher.print_stopped()
    return watcher.exit_code
