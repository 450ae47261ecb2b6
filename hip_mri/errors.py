"""The exceptions of the library; their messages are written for the user.

Every message says what failed, on which file or setting, what was found, what is needed and the next step.
"""

from collections.abc import Sequence
from typing import Self


class HipMriError(Exception):
    """Base of all errors of this library."""


class SettingsError(HipMriError):
    """A setting has an unusable value."""


class SourceError(HipMriError):
    """The source of the images cannot be used."""


class FetchError(SourceError):
    """A remote source could not be fetched; trying again can help."""


class LimitError(SourceError):
    """The source exceeds a limit of the settings, which can be raised."""


class ArchiveError(SourceError):
    """The file is not an archive that can be read safely."""


class ImageError(HipMriError):
    """One image cannot be used.

    Attributes:
        reason: Reason code for `quarantine.csv`, such as `not_an_image`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        """Pickle with the reason; the default would call this class with the message alone."""
        return type(self), (self.reason, str(self))


class SplitError(HipMriError):
    """The images cannot be split as asked."""


class WeightsError(HipMriError):
    """Pretrained weights are missing or do not fit."""


class TrainingError(HipMriError):
    """Training gave no usable model."""


class EvaluationError(HipMriError):
    """Scores cannot be turned into metrics, figures or a report."""


class DriftError(HipMriError):
    """New images do not look like the training images."""


class ReleaseError(HipMriError):
    """A version cannot be registered, compared or made the champion."""


class ExportError(HipMriError):
    """A model cannot be exported, or an export is not as it was written."""


class TrackingError(HipMriError):
    """A run could not be logged to MLflow, which ends no run."""


class WorkspaceError(HipMriError):
    """The workspace cannot be written, or holds invalid files."""


class DiskError(WorkspaceError):
    """The disk is full, read-only or broken; trying again cannot help."""


class ClusterError(HipMriError):
    """The machines of a cluster cannot be used."""


class DeploymentError(HipMriError):
    """A required program is missing, does not start or does not respond.

    Examples are the programs of the team set-up, Prefect's server and the processes that decode images.
    """


def list_offenders(offenders: Sequence[str], max_named: int = 10) -> str:
    """List the first offenders and the number of the others, for an error message.

    Args:
        offenders: One description each.
        max_named: How many are listed.

    Returns:
        For instance `a, b, c and 14 more`.
    """
    named = ", ".join(offenders[:max_named])
    return named if len(offenders) <= max_named else f"{named} and {len(offenders) - max_named} more"
