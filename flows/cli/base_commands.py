"""Base classes of commands: the fields of a class are its options or its commands."""

from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

from hip_mri.config import Settings
from hip_mri.errors import WorkspaceError
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


class SettingsCommand(Command):
    """Base class of commands with many settings, which a file can contain."""

    config: Path | None = None
    """YAML file with settings, nested as the dots in the options. Options override it."""

    settings: ClassVar[type[Settings]]
    """The settings without `config`."""

    def read_settings(self) -> Any:
        """Return the settings that were given, as `settings`."""
        return self.settings.model_validate(self.model_dump(exclude={"config"}, exclude_unset=True))


class FlowCommand(SettingsCommand):
    """Base class of commands that run a flow; `settings` is its parameter."""

    flow: ClassVar[str]
    """Module and name of the flow, as in `prefect.yaml`."""

    is_serving: ClassVar[bool] = False
    """Whether the flow scores images; it then locks only that part of the workspace, and always needs Keras."""

    def execute(self) -> None:
        from flows.cli.flow_runs import start_flow  # noqa: PLC0415 - not needed by other commands

        print(start_flow(self.flow, self.read_settings(), is_serving=self.is_serving))


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
