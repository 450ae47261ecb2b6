"""The commands of `hip-mri models`, on the versions of a workspace."""

import sys
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg, CliSubCommand

from flows.cli.base_commands import Command, CommandGroup, WorkspaceCommand
from hip_mri.addresses import LocalName
from hip_mri.config import TrackingSettings
from hip_mri.errors import ExportError, ReleaseError, TrackingError
from hip_mri.registry.audit import find_system_user, read_decisions
from hip_mri.registry.champion import promote, read_champion, roll_back
from hip_mri.registry.registration import register_version
from hip_mri.registry.release_checks import check_audit_log
from hip_mri.registry.tracking import check_tracking, track_champion
from hip_mri.registry.versions import list_versions, name_version, read_version
from hip_mri.workspace import Workspace


class ListModels(WorkspaceCommand):
    """List all versions with their test AUC, which one is the champion, and which ones await approval."""

    def execute(self) -> None:
        from hip_mri.promotion.comparison_records import find_waiting  # noqa: PLC0415 - loads pandas

        workspace = self.find_workspace()
        champion = read_champion(workspace)
        waiting = [it.challenge.challenger for it in find_waiting(workspace)]
        for version in list_versions(workspace):
            auc = version.read_metrics()["test"]["auc"]
            shown = "not known" if auc is None else f"{auc:.3f}"
            mark = "  champion" if version == champion else "  awaits approval" if version in waiting else ""
            print(f"{version.name}  run {version.run}  {version.registered_at}  test AUC {shown}{mark}")


class ShowHistory(WorkspaceCommand):
    """List all decisions on versions: what was decided, how, by whom, and why.

    Fails if the record was changed.
    """

    def execute(self) -> None:
        workspace = self.find_workspace()
        for it in read_decisions(workspace):
            action = f"{it.action} {'to' if it.action == 'rollback' else 'of'} {name_version(it.version)}"
            print(f"{it.order}  {it.decided_at}  {action}  {it.decided_how}  {it.decided_by}  {it.reason}")
        if differences := check_audit_log(workspace):
            raise ReleaseError(f"release: {'; '.join(differences)}. Restore {workspace.audit_file} from a backup.")


class RegisterModel(WorkspaceCommand):
    """Register a finished run as a version."""

    run: CliPositionalArg[Path]
    """Folder of a finished run, such as workspace/runs/0003."""

    def execute(self) -> None:
        print(register_version(self.find_workspace(), self.run).folder)


def mark_champion(workspace: Workspace, settings: TrackingSettings) -> None:
    """Mark the champion in MLflow, where the settings ask for it; a failure is a warning, since it is champion."""
    if settings.mlflow_uri:
        try:
            track_champion(workspace, settings)
        except TrackingError as error:
            print(f"warning: {error}", file=sys.stderr)


class PromoteModel(WorkspaceCommand):
    """Make a version the champion without the gate."""

    version: CliPositionalArg[int]
    """Number of the version, such as 0003."""

    reason: str
    """Reason, which is kept in the history."""

    tracking: TrackingSettings = TrackingSettings()

    def execute(self) -> None:
        check_tracking(self.tracking)
        workspace = self.find_workspace()
        version = read_version(workspace, self.version)
        if read_champion(workspace) == version:
            print(f"warning: {version.name} is the champion already; nothing is recorded", file=sys.stderr)
        print(promote(workspace, version, self.reason).folder)
        mark_champion(workspace, self.tracking)


class DecideOnModel(WorkspaceCommand):
    """Base class of the answers to a retraining that awaits approval."""

    version: CliPositionalArg[int]
    """Number of the version, such as 0003."""

    reason: str
    """Reason, which is kept in the history."""

    tracking: TrackingSettings = TrackingSettings()

    def decide(self, *, promote: bool) -> None:
        """End the retraining by the recorded comparison, and print the folder of its report."""
        from hip_mri.promotion.comparison_records import find_waiting_version  # noqa: PLC0415 - loads pandas
        from hip_mri.promotion.conclusion import Answer, conclude_retraining  # noqa: PLC0415

        check_tracking(self.tracking)
        workspace, user = self.find_workspace(), find_system_user()
        with workspace.hold():
            compared = find_waiting_version(workspace, self.version)
            print(conclude_retraining(workspace, compared, Answer(promote, self.reason, user), user).folder)
        mark_champion(workspace, self.tracking)


class ApproveModel(DecideOnModel):
    """Make a version that awaits approval the champion, if the champion is the one it was compared with.

    A flow run that is suspended for the answer ends with this decision when it is resumed.
    """

    def execute(self) -> None:
        self.decide(promote=True)


class DeclineModel(DecideOnModel):
    """Keep the champion instead of a version that awaits approval."""

    def execute(self) -> None:
        self.decide(promote=False)


class RollBackModel(WorkspaceCommand):
    """Make the previous champion, or a given former one, the champion again."""

    to: int | None = None
    """Number of a former champion, such as 0003."""

    reason: str
    """Reason, which is kept in the history."""

    tracking: TrackingSettings = TrackingSettings()

    def execute(self) -> None:
        check_tracking(self.tracking)
        workspace = self.find_workspace()
        print(roll_back(workspace, self.to, reason=self.reason).folder)
        mark_champion(workspace, self.tracking)


class TrackModel(WorkspaceCommand):
    """Mark the champion in MLflow; needs --tracking.mlflow-uri."""

    tracking: TrackingSettings = TrackingSettings()

    def execute(self) -> None:
        check_tracking(self.tracking, is_needed=True)
        print(track_champion(self.find_workspace(), self.tracking) or "There is no champion.")


class ExportModel(WorkspaceCommand):
    """Export the whole network of a model to ONNX, OpenVINO or TensorFlow Lite, for research only.

    The graph takes gray levels 0-255 and returns the probability of a lesion. `metadata.json` says how images are
    preprocessed before it. The last line on standard output is the folder.
    """

    folder: CliPositionalArg[Path]
    """New folder for the export."""

    format: Literal["onnx", "openvino", "tflite"]
    """Format of the graph; `onnx` and `tflite` need the extra `export`."""

    model: LocalName = "champion"
    """Model: `champion`, the number of a version, or the folder of a run or a version."""

    def execute(self) -> None:
        from hip_mri.serving.export.writing import export_model  # noqa: PLC0415 - loads pandas
        from hip_mri.serving.served_model import find_model  # noqa: PLC0415

        export_model(find_model(self.find_workspace(), self.model), self.format, self.folder)
        print(self.folder)


class CheckExport(Command):
    """Check an export: hashes, metadata, preprocessing, and that the graph gives the recorded scores.

    With --model also that it is an export of this model. Fails if anything differs.
    """

    folder: CliPositionalArg[Path]
    """Folder of the export."""

    model: LocalName | None = None
    """Model that it should be an export of: `champion`, the number of a version, or the folder of a run or a version.
    """

    workspace: Path = Path("workspace")
    """Workspace of the model."""

    def execute(self) -> None:
        from hip_mri.serving.export.checking import check_against_model, check_export  # noqa: PLC0415 - loads pandas
        from hip_mri.serving.served_model import find_model  # noqa: PLC0415

        check = check_export(self.folder)
        problems = check.problems
        if self.model is not None:
            problems += check_against_model(check, find_model(Workspace(self.workspace.resolve()), self.model))
        if problems:
            raise ExportError(f"export: {self.folder}: {'; '.join(problems)}. Export again.")
        metadata = check.metadata
        print(
            f"{metadata.model.name}, {metadata.format}: {len(metadata.files)} files as recorded, scores of "
            f"{len(check.scores)} images differ from those of Keras by at most {check.difference:.1e}"
        )


class Models(CommandGroup):
    """List, register, approve, promote, roll back, track and export versions of the model."""

    list: CliSubCommand[ListModels]
    history: CliSubCommand[ShowHistory]
    register_run: CliSubCommand[RegisterModel] = Field(alias="register")  # `register` is a method of abstract classes
    approve: CliSubCommand[ApproveModel]
    decline: CliSubCommand[DeclineModel]
    promote: CliSubCommand[PromoteModel]
    rollback: CliSubCommand[RollBackModel]
    track: CliSubCommand[TrackModel]
    export: CliSubCommand[ExportModel]
    check_export: CliSubCommand[CheckExport]
