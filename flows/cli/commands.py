"""The commands of `hip-mri`: their options, and the library function or flow that each one runs."""

import sys
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, CliPositionalArg, CliSubCommand, CliToggleFlag, SettingsConfigDict

from hip_mri.config import PipelineConfig, PredictConfig, RetrainConfig, Settings, TrackingSettings
from hip_mri.errors import EvaluationError, ReleaseError, TrackingError, WorkspaceError, list_offenders
from hip_mri.promotion.error_budget import check_ledger
from hip_mri.registry.audit import find_system_user, read_decisions
from hip_mri.registry.champion import promote, read_champion, roll_back
from hip_mri.registry.registration import register_version
from hip_mri.registry.release_checks import check_audit_log, verify_releases
from hip_mri.registry.tracking import check_tracking, track_champion, track_run
from hip_mri.registry.versions import list_versions, name_version, read_version
from hip_mri.workspace import Workspace


class Command(Settings):
    """Base class of commands; the fields are the options."""

    def execute(self) -> None:
        """Run the command and print its result."""
        raise NotImplementedError


class CommandGroup(BaseModel):
    """Base class of groups of commands; the fields are the commands."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Program(CommandGroup, BaseSettings):
    """Base class of programs; the fields are their commands."""

    model_config = SettingsConfigDict(
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_exit_on_error=False,
        cli_enforce_required=True,
        cli_use_class_docs_for_groups=True,
        nested_model_default_partial_update=True,
    )

    program: ClassVar[str]
    """How it is called."""


class FlowCommand(Command):
    """Base class of commands that run a flow; the fields are its settings."""

    config: Path | None = None
    """YAML file with settings, nested as the dots in the options. Options override it."""

    settings: ClassVar[type[Settings]]
    """Parameter of the flow."""

    flow: ClassVar[str]
    """Module and name of the flow, as in `prefect.yaml`."""

    is_serving: ClassVar[bool] = False
    """Whether the flow scores images; it then locks only that part of the workspace, and always needs Keras."""

    def execute(self) -> None:
        from flows.cli.flow_runs import start_flow  # noqa: PLC0415 - not needed by other commands

        settings = self.settings.model_validate(self.model_dump(exclude={"config"}, exclude_unset=True))
        print(start_flow(self.flow, settings, is_serving=self.is_serving))


class Run(PipelineConfig, FlowCommand):
    """Train and evaluate a classifier of hip MRI images: normal or osseous lesion.

    Without --source it uses synthetic images. Progress is written to standard error; the last line on standard output
    is the folder of the finished run.
    """

    settings = PipelineConfig
    flow = "flows.pipeline:hip_pipeline"


class Predict(PredictConfig, FlowCommand):
    """Score hip MRI images with a trained model, for research only, not for diagnosis.

    Without --source it scores synthetic images; without --model it uses the champion of the workspace. Progress is
    written to standard error; the last line on standard output is the folder with the table, the sheet and the names.
    """

    settings = PredictConfig
    flow = "flows.predict:hip_predict"
    is_serving = True


class Retrain(RetrainConfig, FlowCommand):
    """Add new images, train on all images, and promote the new model if it passes the gate.

    Progress is written to standard error; the last line on standard output is the folder of the report, or the reason
    why nothing was trained.
    """

    settings = RetrainConfig
    flow = "flows.retrain:hip_retrain"


class Verify(Command):
    """Compute every metric of a finished run again from its tables, and compare the hashes of its files.

    Also checks the record of the decisions on versions in the same workspace; with a workspace instead of a run, checks
    this record, the files of every version, and the ledger of comparisons. Fails if anything differs.
    """

    run: CliPositionalArg[Path]
    """Folder of a finished run, such as workspace/runs/0001, or of a workspace."""

    def execute(self) -> None:
        from hip_mri.evaluation.verify import list_unrecorded, verify_run  # noqa: PLC0415 - loads SciPy

        folder = self.run.resolve()
        if is_workspace := Workspace(folder).releases_folder.is_dir():
            differences, notes = verify_releases(Workspace(folder)), []
            try:
                check_ledger(Workspace(folder))
            except ReleaseError as error:
                differences.append(str(error))
        else:
            differences, notes = verify_run(folder), list_unrecorded(folder)
            differences += check_audit_log(Workspace(folder.parent.parent))
        for line in (*differences, *notes):
            print(line)
        if differences:
            step = "Restore it from a backup" if is_workspace else "Restore the run, or run it again"
            raise EvaluationError(f"{self.run}: {len(differences)} differences. {step}.")
        print(f"{self.run}: everything is as recorded")


class Track(Command):
    """Log a finished run to MLflow, unless it is there already; needs --tracking.mlflow-uri."""

    run: CliPositionalArg[Path]
    """Folder of a finished run, such as workspace/runs/0001."""

    tracking: TrackingSettings = TrackingSettings()

    def execute(self) -> None:
        check_tracking(self.tracking, is_needed=True)
        print(track_run(self.run.resolve(), self.tracking))


class WorkspaceCommand(Command):
    """Base class of commands on a workspace."""

    workspace: CliPositionalArg[Path]
    """Folder of the pipeline, such as workspace."""

    def find_workspace(self) -> Workspace:
        """Return the workspace.

        Raises:
            WorkspaceError: There is no such folder.
        """
        if not self.workspace.is_dir():
            raise WorkspaceError(f"workspace: {self.workspace} is not a folder. Give the workspace of a pipeline.")
        return Workspace(self.workspace.resolve())


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


class Models(CommandGroup):
    """List, register, approve, promote, roll back and track versions of the model."""

    list: CliSubCommand[ListModels]
    history: CliSubCommand[ShowHistory]
    register_run: CliSubCommand[RegisterModel] = Field(alias="register")  # `register` is a method of abstract classes
    approve: CliSubCommand[ApproveModel]
    decline: CliSubCommand[DeclineModel]
    promote: CliSubCommand[PromoteModel]
    rollback: CliSubCommand[RollBackModel]
    track: CliSubCommand[TrackModel]


class Names(WorkspaceCommand):
    """Look up the file names of images, which can identify patients. Prints a CSV table."""

    image_ids: CliPositionalArg[tuple[str, ...]] = ()
    """Ids of images from quarantine.csv or predictions.csv; without any, all images are listed."""

    def execute(self) -> None:
        from hip_mri.dataset.pseudonyms import look_up_names  # noqa: PLC0415 - loads pandas

        found = look_up_names(self.find_workspace(), self.image_ids)
        found.to_csv(sys.stdout, index=False)
        if unknown := sorted(set(self.image_ids) - set(found["image_id"])):
            raise WorkspaceError(
                f"The manifest lists no image {list_offenders(unknown)}. Give ids from quarantine.csv or "
                "predictions.csv of a run in this workspace."
            )


class Prune(WorkspaceCommand):
    """List cached files that neither the latest run nor a champion uses; with --yes remove them.

    Everything that is removed can be computed again.
    """

    yes: CliToggleFlag[bool] = False
    """Remove the files."""

    def execute(self) -> None:
        from hip_mri.registry.prune_caches import plan_pruning, prune  # noqa: PLC0415 - loads NumPy

        workspace = self.find_workspace()
        removals = prune(workspace) if self.yes else plan_pruning(workspace)
        for removal in removals:
            print(f"{removal.num_bytes / 1e6:10.1f} MB  {removal.kind}  {removal.path}")
        total = sum(removal.num_bytes for removal in removals) / 1e6
        print(f"{total:10.1f} MB  " + ("removed" if self.yes else "can be removed with --yes"))


class Demo(Command):
    """Write a zip file with synthetic images, such as new images for `hip-mri retrain`."""

    file: CliPositionalArg[Path]
    """Zip file to write, such as incoming/month-1.zip; it must not exist."""

    seed: int = Field(default=0, ge=0)
    """Random seed. Each seed draws other patients; 0 draws those of `hip-mri run` without --source."""

    num_patients: int = 290
    """Number of patients, at least 5, each with 1 to 3 images."""

    def execute(self) -> None:
        from hip_mri.synthetic.demo import write_demo_zip  # noqa: PLC0415 - loads OpenCV

        if self.file.exists():
            raise WorkspaceError(f"{self.file} exists. Give the name of a new file, or delete this one.")
        print(write_demo_zip(self.file, self.seed, self.num_patients))


class HipMri(Program):
    """Train, evaluate and use a classifier of hip MRI images.

    Exit codes: 0 done; 1 failed, after a line that begins with "error:"; 2 the command line or the settings file cannot
    be used; 129, 130 and 143 stopped by SIGHUP, Ctrl-C or SIGTERM.
    """

    program = "hip-mri"

    run: CliSubCommand[Run]
    predict: CliSubCommand[Predict]
    retrain: CliSubCommand[Retrain]
    verify: CliSubCommand[Verify]
    track: CliSubCommand[Track]
    models: CliSubCommand[Models]
    names: CliSubCommand[Names]
    prune: CliSubCommand[Prune]
    demo: CliSubCommand[Demo]
