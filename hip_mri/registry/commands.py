"""Versions and the champion, by command: `python -m hip_mri.registry.commands list workspace`.

list WORKSPACE                   every version, with its test AUC and whether it serves
history WORKSPACE                every change of champion
register WORKSPACE RUN           make a version of a finished run
promote WORKSPACE 0003 --reason WHY
                                 make a version the champion past the gate, as a person may
rollback WORKSPACE [--to 0003]   let the champion before the present one serve again, or a given one
export-mlflow WORKSPACE 0003 --tracking-uri URI
                                 show a version to an MLflow tracking server
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hip_mri.errors import HipMriError, ReleaseError, list_offenders
from hip_mri.hashes import HASHES, compare_hashes, read_hashes
from hip_mri.registry.champion import promote, read_champion, read_history, roll_back
from hip_mri.registry.versions import (
    MODEL,
    RECORD,
    Version,
    describe_version,
    list_unreported,
    list_versions,
    name_version,
    read_version,
)
from hip_mri.storage import find_next_number, publish_folder, read_json, write_json
from hip_mri.workspace import Workspace

FILES: Final = (MODEL, "metrics.json", "predictions.csv", "manifest.csv", "config.yaml")
"""Files of a run that every version has."""

RESULTS: Final = (MODEL, "predictions.csv", "manifest.csv")
"""Those that are the same, byte for byte, when a run is repeated."""

FURTHER_FILES: Final = ("novelty.npz",)
"""Files of a run that a version takes along where the run has them."""


def register_version(workspace: Workspace, run_folder: Path, *, is_challenger: bool = False) -> Version:
    """Make a version of a finished run; the same run always gives the same version.

    Args:
        workspace: The version is published, whole or not at all, below its `releases/versions`.
        run_folder: Such as `workspace/runs/0003`; every file must be the one that the run recorded.
        is_challenger: Whether a retraining made it. One that was killed is run again, and finds what it registered by
            its model, its scores and its images.

    Returns:
        The new version, or the one that this run already has.

    Raises:
        ReleaseError: The folder is no finished run, or a file of it was changed.
        WorkspaceError: The disk is full or not writable.
    """
    run_folder = run_folder.resolve()
    files = _check_run(run_folder)
    with workspace.hold_releases():
        for registered in list_versions(workspace):
            if registered.run == run_folder.name and registered.files == files:
                return registered
        for unreported in list_unreported(workspace) if is_challenger else ():
            if all(unreported.files[name] == files[name] for name in RESULTS):
                return unreported
        number, history = find_next_number(workspace.versions_folder), read_history(workspace)
        version = Version(
            number=number,
            folder=workspace.versions_folder / name_version(number),
            run=run_folder.name,
            parent=history[-1].version if history else None,
            files=files,
            test_set_sha256=read_json(run_folder / "metrics.json")["test_set"]["sha256"],
            registered_at=datetime.now(UTC).isoformat(timespec="seconds"),
            is_challenger=is_challenger,
        )
        _publish(version, run_folder)
        return version


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 done, 2 refused with one message."""
    given = _make_parser().parse_args(arguments)
    try:
        if not given.workspace.is_dir():
            raise ReleaseError(f"release: {given.workspace} is no folder. Give the workspace of a pipeline.")
        given.act(Workspace(given.workspace.resolve()), given)
    except HipMriError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _check_run(folder: Path) -> dict[str, str]:
    """Hashes of the files that a version takes from a run, once all of the run's files are as recorded."""
    if not (folder / HASHES).is_file():
        raise ReleaseError(f"release: {folder} is no finished run: it has no {HASHES}. Give a folder below runs.")
    differences = compare_hashes(folder)
    if differences:
        raise ReleaseError(
            f"release: {folder} is not as its run left it: {list_offenders(differences)}. Restore it, or train again."
        )
    recorded = read_hashes(folder)
    missing = [name for name in FILES if name not in recorded]
    if missing:
        raise ReleaseError(
            f"release: {folder} has no {list_offenders(missing)}, which a version needs. Train again: a finished run "
            "has them all."
        )
    return {name: recorded[name] for name in (*FILES, *FURTHER_FILES) if name in recorded}


def _publish(version: Version, run_folder: Path) -> None:
    with publish_folder(version.folder) as fresh:
        for name in version.files:
            shutil.copyfile(run_folder / name, fresh / name)  # no links: what is written into a run must not serve
        write_json(fresh / RECORD, describe_version(version))


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hip_mri.registry.commands",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    acts = {
        "list": _list,
        "history": _tell_history,
        "register": _register,
        "promote": _promote,
        "rollback": _roll_back,
        "export-mlflow": _export,
    }
    for name, act in acts.items():
        command = commands.add_parser(name, help=act.__doc__, description=act.__doc__)
        command.add_argument("workspace", type=Path, help="folder of the pipeline, such as workspace")
        command.set_defaults(act=act)
        if name == "register":
            command.add_argument("run", type=Path, help="folder of a finished run, such as workspace/runs/0003")
        if name == "promote":
            command.add_argument("version", type=int, help="such as 0003")
            command.add_argument("--reason", required=True, help="kept in the history")
        if name == "rollback":
            command.add_argument("--to", type=int, metavar="VERSION", help="a former champion, such as 0003")
            command.add_argument("--reason", default="rolled back by hand", help="kept in the history")
        if name == "export-mlflow":
            command.add_argument("version", type=int, help="such as 0003")
            command.add_argument("--tracking-uri", required=True, help="such as http://127.0.0.1:5000")
    return parser


def _list(workspace: Workspace, _: argparse.Namespace) -> None:
    """List every version, with its test AUC and whether it serves."""
    champion = read_champion(workspace)
    for version in list_versions(workspace):
        serves = "  champion" if champion and champion.number == version.number else ""
        auc = version.read_metrics()["test"]["auc"]
        told = "not known" if auc is None else f"{auc:.3f}"
        print(f"{version.name}  run {version.run}  {version.registered_at}  test AUC {told}{serves}")


def _tell_history(workspace: Workspace, _: argparse.Namespace) -> None:
    """Tell every change of champion."""
    for change in read_history(workspace):
        print(
            f"{change.order}  {change.changed_at}  {change.action} of {name_version(change.version)}: {change.reason}"
        )


def _register(workspace: Workspace, given: argparse.Namespace) -> None:
    """Make a version of a finished run."""
    print(register_version(workspace, given.run).folder)


def _promote(workspace: Workspace, given: argparse.Namespace) -> None:
    """Make a version the champion past the gate, as a person may."""
    version = read_version(workspace, given.version)
    print(promote(workspace, version, f"past the gate: {given.reason}").folder)


def _roll_back(workspace: Workspace, given: argparse.Namespace) -> None:
    """Let the champion before the present one serve again, or a given one."""
    print(roll_back(workspace, given.to, given.reason).folder)


def _export(workspace: Workspace, given: argparse.Namespace) -> None:
    """Show a version to an MLflow tracking server."""
    from hip_mri.registry.mlflow_export import NAME, export_version  # noqa: PLC0415 - loads what takes seconds

    print(f"{NAME} version {export_version(read_version(workspace, given.version), given.tracking_uri)}")


if __name__ == "__main__":
    sys.exit(main())
