"""What can go wrong, as one tree.

    HipMriError                 everything below; its text is meant for the user as it stands
    ├── SettingsError           a setting has a value that cannot work
    ├── SourceError             the source of the images cannot be used
    │   ├── FetchError          a remote source could not be fetched (trying again can help)
    │   ├── LimitError          the source holds or takes more than the settings allow
    │   └── ArchiveError        the file is not an archive that can be read safely
    ├── ImageError              one image cannot be used; in a batch this becomes a quarantine entry
    ├── SplitError              the images cannot be split as asked
    ├── WeightsError            pretrained weights are missing or do not fit
    ├── TrainingError           training came to no usable model
    ├── EvaluationError         scores cannot be turned into metrics, figures or a report
    ├── DriftError              new images do not look like those that the model was trained on
    ├── ReleaseError            a version cannot be registered, compared or made the champion
    ├── WorkspaceError          the workspace cannot be written, or holds something foreign
    │   └── DiskError           the disk is full, read-only or broken (trying again cannot help)
    ├── ClusterError            the machines of a cluster cannot do the work
    └── DeploymentError         a program that the work needs is missing, does not start or does not answer

Every message says what failed, on which file or setting, what was found, what is needed and the next step.
"""

from collections.abc import Sequence
from typing import Self


class HipMriError(Exception):
    """Base of all errors of this library."""


class SettingsError(HipMriError):
    """A setting has a value that cannot work."""


class SourceError(HipMriError):
    """The source of the images cannot be used."""


class FetchError(SourceError):
    """A remote source could not be fetched; trying again can help."""


class LimitError(SourceError):
    """The source holds or takes more than the settings allow; they can allow more."""


class ArchiveError(SourceError):
    """The file is not an archive that can be read safely."""


class ImageError(HipMriError):
    """One image cannot be used.

    Attributes:
        reason: Reason code as it stands in `quarantine.csv`, such as `not_an_image`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        """Travel between processes with the reason; the default would call this class with the message alone."""
        return type(self), (self.reason, str(self))


class SplitError(HipMriError):
    """The images cannot be split as asked."""


class WeightsError(HipMriError):
    """Pretrained weights are missing or do not fit."""


class TrainingError(HipMriError):
    """Training came to no usable model."""


class EvaluationError(HipMriError):
    """Scores cannot be turned into metrics, figures or a report."""


class DriftError(HipMriError):
    """New images do not look like those that the model was trained on."""


class ReleaseError(HipMriError):
    """A version cannot be registered, compared or made the champion."""


class WorkspaceError(HipMriError):
    """The workspace cannot be written, or holds something foreign."""


class DiskError(WorkspaceError):
    """The disk is full, read-only or broken; trying again cannot help."""


class ClusterError(HipMriError):
    """The machines of a cluster cannot do the work."""


class DeploymentError(HipMriError):
    """A program that the work needs beside its own is missing, does not start or does not answer.

    Such are those of the team's set-up, Prefect's server of a single run and the processes that decode images.
    """


def list_offenders(offenders: Sequence[str], most: int = 10) -> str:
    """Name the first offenders and the count of the rest, for an error message.

    Args:
        offenders: One description each.
        most: How many are named.

    Returns:
        For instance `a, b, c and 14 more`.
    """
    named = ", ".join(offenders[:most])
    return named if len(offenders) <= most else f"{named} and {len(offenders) - most} more"
