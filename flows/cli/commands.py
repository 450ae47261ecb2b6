"""The commands of `hip-mri`: their options, and the library function or flow that each one runs."""

import sys
from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg, CliSubCommand, CliToggleFlag

from flows.cli.base_commands import Command, FlowCommand, Program, SettingsCommand, WorkspaceCommand
from flows.cli.model_commands import Models
from hip_mri.config import CompareConfig, PipelineConfig, PredictConfig, RetrainConfig, ServeConfig, TrackingSettings
from hip_mri.errors import EvaluationError, ReleaseError, WorkspaceError, list_offenders
from hip_mri.promotion.error_budget import check_ledger
from hip_mri.registry.release_checks import check_audit_log, verify_releases
from hip_mri.registry.tracking import check_tracking, track_run
from hip_mri.workspace import Workspace


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


class Serve(ServeConfig, SettingsCommand):
    """Start a web service and a page that score images with one model, for research only, not for diagnosis.

    Without --model it uses the champion of the workspace. Prints its address when it is ready, and answers until Ctrl-C
    or SIGTERM. `python flows/serve.py` is another program, which runs the flows on a Prefect server.
    """

    settings = ServeConfig

    def execute(self) -> None:
        from flows.cli.flow_runs import show_progress_lines  # noqa: PLC0415 - not needed by other commands
        from flows.runtime.native_stderr import filter_native_stderr  # noqa: PLC0415
        from hip_mri.serving.web.start import start_service  # noqa: PLC0415 - loads Keras

        filter_native_stderr()
        show_progress_lines(sys.stderr)
        start_service(self.read_settings(), lambda address: print(address, flush=True))


class Retrain(RetrainConfig, FlowCommand):
    """Add new images, train on all images, and promote the new model if it passes the gate.

    Progress is written to standard error; the last line on standard output is the folder of the report, or the reason
    why nothing was trained.
    """

    settings = RetrainConfig
    flow = "flows.retrain:hip_retrain"


class Compare(CompareConfig, FlowCommand):
    """Compare candidates for the model by cross-validation on the training split; the test set is not used.

    Without --config it compares eight candidates. Progress is written to standard error; the last line on standard
    output is the folder with report, table and the settings of the chosen candidate, for `hip-mri run --config`.
    """

    settings = CompareConfig
    flow = "flows.compare:hip_compare"


class Verify(Command):
    """Compute every metric of a finished run again from its tables, and compare the hashes of its files.

    With the folder of a comparison, does the same for it.

    Also checks the record of the decisions on versions in the same workspace; with a workspace instead of a run, checks
    this record, the files of every version, and the ledger of comparisons. Fails if anything differs.
    """

    run: CliPositionalArg[Path]
    """Folder of a finished run, such as workspace/runs/0001, of a comparison, or of a workspace."""

    def execute(self) -> None:
        from hip_mri.evaluation.verify import list_unrecorded, verify_run  # noqa: PLC0415 - loads SciPy
        from hip_mri.model_comparison.verify import is_comparison, verify_comparison  # noqa: PLC0415 - see above

        folder = self.run.resolve()
        if is_workspace := Workspace(folder).releases_folder.is_dir():
            differences, notes = verify_releases(Workspace(folder)), []
            try:
                check_ledger(Workspace(folder))
            except ReleaseError as error:
                differences.append(str(error))
        elif is_comparison(folder):
            differences, notes = verify_comparison(folder), []
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


class Names(WorkspaceCommand):
    """Look up the file names of images, which can identify patients. Prints a CSV table."""

    image_ids: CliPositionalArg[tuple[str, ...]] = ()
    """Ids of images from quarantine.csv or predictions.csv; without any, all images are listed."""

    predictions: str | None = Field(default=None, pattern=r"^[0-9]{4,9}$")
    """Number of a batch that `hip-mri predict` scored, such as 0001; then ids are those of its predictions.csv or
    examinations.csv."""

    def execute(self) -> None:
        from hip_mri.dataset.pseudonyms import look_up_names  # noqa: PLC0415 - loads pandas
        from hip_mri.serving.prediction_names import look_up_prediction_names  # noqa: PLC0415 - see above

        workspace = self.find_workspace()
        if self.predictions is None:
            found, listed_in = look_up_names(workspace, self.image_ids), "The manifest"
        else:
            found = look_up_prediction_names(workspace.predictions_folder / self.predictions, self.image_ids)
            listed_in = f"names.csv of {self.predictions}"
        found.to_csv(sys.stdout, index=False)
        if unknown := sorted(set(self.image_ids) - set(found.filter(["image_id", "examination"]).to_numpy().ravel())):
            raise WorkspaceError(
                f"{listed_in} lists no image {list_offenders(unknown)}. Give ids from quarantine.csv or "
                "predictions.csv of a run in this workspace, or from a batch with --predictions."
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
    serve: CliSubCommand[Serve]
    retrain: CliSubCommand[Retrain]
    compare: CliSubCommand[Compare]
    verify: CliSubCommand[Verify]
    track: CliSubCommand[Track]
    models: CliSubCommand[Models]
    names: CliSubCommand[Names]
    prune: CliSubCommand[Prune]
    demo: CliSubCommand[Demo]
