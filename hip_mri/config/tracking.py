"""Settings of tracking runs with MLflow."""

from pydantic import Field

from hip_mri.addresses import TrackingAddress
from hip_mri.config.base import Settings


class TrackingSettings(Settings):
    """Settings of logging runs to MLflow, which is disabled by default and needs the extra `mlflow`."""

    mlflow_uri: TrackingAddress | None = None
    """MLflow server, such as `http://127.0.0.1:5000`, or database file, such as `sqlite:////srv/mlflow.db`. Each run is
    logged there with its settings, metrics, losses, figures, report and model. The champion is marked by the alias
    `champion`. Figures and report show images of patients."""

    name: str = Field(default="hip-mri", pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,99}$")
    """Name of the experiment and of the registered model. Workspaces with different champions need different names."""

    timeout_seconds: float = Field(default=30, ge=1, le=3600)
    """Maximum time for logging a run, its upload included. A run that is not logged in this time is finished all the
    same."""
