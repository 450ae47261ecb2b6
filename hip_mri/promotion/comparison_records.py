"""Stores a comparison with all that a decision on the challenger is based on, until the decision is made and after.

A flow run that waits for approval ends its process. When it is resumed, or when a person decides by a command, the
comparison is read from `releases/comparisons`, so the decision applies to exactly the compared model and its figures.
"""

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from hip_mri.errors import ReleaseError
from hip_mri.evaluation.charts.captions import summarize_notices
from hip_mri.evaluation.metrics.validation import number_labels
from hip_mri.promotion.batch_check import BatchCheck
from hip_mri.promotion.challenge import Challenge, read_common_scores
from hip_mri.promotion.new_images import NewImages, Reference
from hip_mri.registry.conclusions import list_unconcluded
from hip_mri.registry.versions import Version, name_version, read_version
from hip_mri.run_files import MANIFEST_FILE
from hip_mri.storage import link_or_copy, publish_folder, write_bytes
from hip_mri.workspace import Workspace

RECORD: Final = "comparison.json"
DRIFT_PICTURE: Final = "drift.png"
COMPARISON_PICTURE: Final = "comparison.png"
APPROVAL: Final = "approval.md"
"""What a person reads before the decision."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComparedRetraining:
    """A retraining up to the decision on its challenger.

    Attributes:
        new_images: Counts of the new images.
        check: Comparison of the new images with the training images; `None` where it was not made.
        challenge: The challenger and the decision of the gate.
        margin: Non-inferiority margin of the AUC, for the picture.
        expires_at: Time in UTC until when an answer is awaited, in ISO 8601; `None` if nobody is asked.
        flow_runs: Ids of the flow runs that made this comparison.
        stored_at: Time in UTC when it was stored last, in ISO 8601; orders the comparisons of a challenger.
        folder: Where it is stored, once it is.
    """

    new_images: NewImages
    check: BatchCheck | None
    challenge: Challenge
    margin: float
    expires_at: str | None = None
    flow_runs: tuple[str, ...] = ()
    stored_at: str = ""
    folder: Path = Path()

    @property
    def needs_answer(self) -> bool:
        """Whether a person decides on the challenger."""
        return self.expires_at is not None and self.challenge.decision.promote and not self.challenge.is_serving


_ADAPTER: Final = TypeAdapter(ComparedRetraining)


def store_comparison(workspace: Workspace, retraining: ComparedRetraining, description: str) -> ComparedRetraining:
    """Store a comparison with its pictures; the same comparison again replaces it, also a damaged record.

    Args:
        workspace: The comparison gets a folder in its `releases/comparisons`, named by challenger and champion.
        retraining: The comparison.
        description: What a person reads before the decision, as Markdown.

    Returns:
        The comparison as it was stored.
    """
    challenge = retraining.challenge
    over = f"over-{challenge.champion.name}" if challenge.champion else "first"
    folder = workspace.comparisons_folder / f"{challenge.challenger.name}-{over}"
    with workspace.hold_releases():
        earlier = (run for it in _read_all(workspace) if it.folder == folder for run in it.flow_runs)
        flow_runs = tuple(dict.fromkeys((*earlier, *retraining.flow_runs)))
        stored = replace(retraining, flow_runs=flow_runs, stored_at=datetime.now(UTC).isoformat())
        with publish_folder(folder) as fresh:
            _draw_comparison(workspace, stored, fresh / COMPARISON_PICTURE)
            if (since := stored.new_images.since) is not None:
                # The report needs it after the decision; the run may have been deleted by then.
                link_or_copy(Reference.named(since, workspace).folder / MANIFEST_FILE, fresh / MANIFEST_FILE)
            if stored.check is not None:
                link_or_copy(stored.check.picture_file, fresh / DRIFT_PICTURE)
            write_bytes(fresh / APPROVAL, description.encode())
            write_bytes(fresh / RECORD, _ADAPTER.dump_json(stored, indent=2))
    return read_comparison(workspace, folder)


def read_comparison(workspace: Workspace, folder: Path) -> ComparedRetraining:
    """Read a stored comparison.

    Raises:
        ReleaseError: The record is damaged, or a version is missing or not the one that was compared.
    """
    try:
        stored = _ADAPTER.validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError) as error:
        raise ReleaseError(
            f"release: {folder / RECORD} cannot be read. Restore it from a backup, or start the retraining again."
        ) from error
    challenge, check = stored.challenge, stored.check
    challenger, champion = (it and _find_again(workspace, it) for it in (challenge.challenger, challenge.champion))
    assert challenger is not None
    return replace(
        stored,
        challenge=replace(challenge, challenger=challenger, champion=champion),
        check=check and replace(check, picture_file=folder / DRIFT_PICTURE),
        folder=folder,
    )


def find_comparison_of_flow_run(workspace: Workspace, flow_run: str) -> ComparedRetraining | None:
    """Find the comparison that a flow run made before it was suspended; `None` if it made none."""
    return next((it for it in _read_all(workspace) if flow_run in it.flow_runs), None)


def find_waiting(workspace: Workspace) -> list[ComparedRetraining]:
    """Find the comparisons on which a person has not decided yet, the latest of each challenger."""
    unconcluded = list_unconcluded(workspace)
    waiting = (it for it in _read_all(workspace) if it.needs_answer and it.challenge.challenger in unconcluded)
    return list({it.challenge.challenger.number: it for it in waiting}.values())


def find_waiting_version(workspace: Workspace, number: int) -> ComparedRetraining:
    """Find the comparison of a version that waits for a decision.

    Raises:
        ReleaseError: The version does not wait.
    """
    waiting = {it.challenge.challenger.number: it for it in find_waiting(workspace)}
    if number not in waiting:
        names = ", ".join(map(name_version, sorted(waiting))) or "none"
        raise ReleaseError(
            f"release: version {name_version(number)} does not await approval, only {names} does. See `hip-mri models "
            "list`, and `hip-mri models history` for earlier decisions."
        )
    return waiting[number]


def find_expired(workspace: Workspace) -> list[ComparedRetraining]:
    """Find the comparisons whose time for an answer has passed."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return [it for it in find_waiting(workspace) if it.expires_at is not None and it.expires_at < now]


def _read_all(workspace: Workspace) -> list[ComparedRetraining]:
    """Read all comparisons, the latest last; those with a version that is missing or was changed are left out."""
    found = []
    for file in workspace.comparisons_folder.glob(f"[0-9]*/{RECORD}"):
        try:
            found.append(read_comparison(workspace, file.parent))
        except ReleaseError as error:
            logger.warning("%s", error)
    return sorted(found, key=lambda it: (it.stored_at, it.folder.name))


def _find_again(workspace: Workspace, compared: Version) -> Version:
    version = read_version(workspace, compared.number)
    if version.files != compared.files:
        raise ReleaseError(
            f"release: version {version.name} is not the one that was compared: its model has the SHA-256 "
            f"{version.model_sha256[:12]}…, {compared.model_sha256[:12]}… was compared. Restore {version.folder} "
            "from a backup."
        )
    return version


def _draw_comparison(workspace: Workspace, retraining: ComparedRetraining, file: Path) -> None:
    """Draw both models on the test images, where they were compared."""
    from hip_mri.evaluation.charts.style import save_figure  # noqa: PLC0415 - see below
    from hip_mri.evaluation.charts.version_comparison import draw_comparison  # noqa: PLC0415 - loads matplotlib and scikit-learn

    challenge = retraining.challenge
    if challenge.champion is None or challenge.decision.interval is None:
        return
    challenger, champion = (
        scores.sort_values("image_id")
        for scores in read_common_scores(challenge.challenger, challenge.champion, workspace)
    )
    figure = draw_comparison(
        number_labels(challenger),
        champion["score"].to_numpy(),
        challenger["score"].to_numpy(),
        challenge.decision.interval,
        retraining.margin,
        summarize_notices(challenge.notices),
    )
    save_figure(figure, file)
