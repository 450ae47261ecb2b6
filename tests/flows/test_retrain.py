"""Six months of scheduled retraining in one workspace."""

import json
import shutil
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pandas as pd
import pytest
from prefect.client.schemas.objects import State

from flows.retrain import hip_retrain
from hip_mri.config import RetrainConfig
from hip_mri.dataset.manifest import read_manifest
from hip_mri.dataset.split_registry import read_split_registry
from hip_mri.evaluation import verify
from hip_mri.promotion.error_budget import read_comparisons
from hip_mri.registry import tracking
from hip_mri.registry.champion import read_champion, read_history, roll_back
from hip_mri.registry.prune_caches import prune
from hip_mri.registry.versions import list_versions
from hip_mri.workspace import Workspace
from tests.conftest import draw_image

GOOD = {"epochs": 25, "batch_size": 16, "learning_rate": 1e-3}
POOR = {"epochs": 1, "batch_size": 64, "learning_rate": 1e-7}
NUM_FIRST, NUM_MONTHLY = 200, 10
LENIENT = {
    "min_first_auc": 0,
    "min_sensitivity": 0,
    "min_specificity": 0,
    "min_subgroup_sensitivity": 0,
    "min_groups_per_class": 5,
}
LESION_FRACTION = 0.4


def deliver(folder: Path, name: str, num_patients: int, seed: int, *, inverted: bool = False) -> None:
    """A zip of one image for each of some new patients."""
    generator = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
        for number in range(num_patients):
            has_lesion = number < LESION_FRACTION * num_patients
            image = draw_image(generator, has_lesion=has_lesion)
            label = "osseous_lesion" if has_lesion else "normal"
            content = cv2.imencode(".png", 255 - image if inverted else image)[1].tobytes()
            archive.writestr(f"{label}/{name}p{number:03d}.png", content)


@dataclass(frozen=True)
class Month:
    """State of the workspace after a month."""

    outcome: str
    result: str
    champion: str | None
    splits: dict[str, str]
    rows: dict[tuple[str, bool], float]
    images: dict[str, int]
    report: dict


@dataclass
class Clinic:
    """A workspace and the folder for deliveries."""

    workspace: Workspace
    incoming: Path

    def retrain(self, training: dict, **settings: object) -> Month:
        config = RetrainConfig.model_validate(
            {
                "sources": [str(self.incoming)],
                "workspace": self.workspace.root,
                "seed": 3,
                "data": {"val_fraction": 0.2, "test_fraction": 0.25, "patient_pattern": r"(\w+p\d+)\.png"},
                "preprocessing": {"image_size": 32},
                "model": {"backbone": "ResNet50", "weights": "random", "hidden_units": 32},
                "training": training,
                "evaluation": {"num_resamples": 200, "cross_validation_seeds": 0},
                "retrain": {"min_new_images": 5},
                "release": LENIENT | {"num_looks": 6},
                "tracking": {"mlflow_uri": "http://127.0.0.1:5000"},
            }
            | settings
        )
        state = hip_retrain(config, return_state=True)
        return self.inspect(state, str(state.result(raise_on_failure=False)))

    def inspect(self, state: State, result: str) -> Month:
        ledger = read_split_registry(self.workspace)
        champion = read_champion(self.workspace)
        preprocessed = self.workspace.preprocessed_folder.rglob("*.png")
        reports = sorted(self.workspace.retrainings_folder.glob("[0-9]*/retraining.json"))
        return Month(
            outcome=state.name,
            result=result,
            champion=champion and champion.name,
            splits=dict(zip(ledger["sha256"], ledger["split"], strict=True)),
            rows=self.list_rows(),
            images={file.name: file.stat().st_mtime_ns for file in preprocessed},
            report=json.loads(reports[-1].read_text()) if reports else {},
        )

    def list_rows(self) -> dict[tuple[str, bool], float]:
        """Each feature row, and when it was written; an image that was computed twice would show."""
        rows: dict[tuple[str, bool], float] = {}
        for part in self.workspace.features_folder.glob("*/*.parquet"):
            for sha256, mirrored in pd.read_parquet(part)[["sha256", "mirrored"]].itertuples(index=False):
                assert (sha256, mirrored) not in rows
                rows[sha256, mirrored] = part.stat().st_mtime
        return rows


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    root = tmp_path_factory.mktemp("clinic")
    return Clinic(Workspace(root / "workspace"), root / "incoming")


@pytest.fixture(scope="module", autouse=True)
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """File with one line for each job that the client of MLflow gets; a program that fails stands in for it."""
    file = tmp_path_factory.mktemp("mlflow") / "jobs"
    mlflow = ModuleType("mlflow")
    mlflow.__spec__ = ModuleSpec("mlflow", None)
    code = f"import sys; print(sys.argv[1], file=open({str(file)!r}, 'a')); sys.exit(1)"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mlflow", mlflow)
        patch.setattr(tracking, "CLIENT", (sys.executable, "-c", code))
        yield file


@pytest.fixture(scope="module")
def months(clinic: Clinic) -> list[Month]:
    """A first training; then ordinary patients, an inverted batch, no images, a worse model, a better one."""
    deliver(clinic.incoming, "first", NUM_FIRST, seed=0)
    results = [clinic.retrain(FIRST)]
    deliver(clinic.incoming, "january", NUM_MONTHLY, seed=1)
    results.append(clinic.retrain(FIRST))
    deliver(clinic.incoming, "february", NUM_MONTHLY, seed=2, inverted=True)
    results.append(clinic.retrain(FIRST))
    results.append(clinic.retrain(FIRST))
    deliver(clinic.incoming, "april", NUM_MONTHLY, seed=4)
    results.append(clinic.retrain(POOR))
    deliver(clinic.incoming, "may", NUM_MONTHLY, seed=5)
    results.append(clinic.retrain(GOOD))
    return results


FIRST = GOOD | {"epochs": 2, "learning_rate": 1e-5}
"""Worse than `GOOD`."""


def test_outcome_and_champion_of_each_month(months: list[Month]) -> None:
    assert [month.outcome for month in months] == ["Promoted", "Kept", "Failed", "Nothing new", "Kept", "Promoted"]
    assert [month.champion for month in months] == ["0001", "0001", "0001", "0001", "0001", "0004"]


def test_each_run_and_champion_is_told_to_mlflow_whose_failures_end_no_run(months: list[Month], tracked: Path) -> None:
    jobs = [json.loads(line) for line in tracked.read_text().splitlines()]
    champions = [months[number].champion for number in (0, 1, 4, 5)]  # nothing was trained in the others
    runs = [(f"000{number}", None) for number in range(1, 5)]
    told = [(None if "version" in job else job["run_name"], job.get("version")) for job in jobs[:8]]
    assert told == [it for run, champion in zip(runs, champions, strict=True) for it in (run, (None, champion))]


def test_fault_71_no_earlier_image_changes_its_split(months: list[Month], clinic: Clinic) -> None:
    for before, after in pairwise(months):
        assert before.splits.items() <= after.splits.items()
        assert after.report["num_moved"] == 0
    tested = [{sha256 for sha256, split in month.splits.items() if split == "test"} for month in months]
    assert len(tested[0]) == 50
    assert all(images == tested[0] for images in tested)  # locked: what is new never joins
    groups = read_manifest(clinic.workspace.manifest_file).groupby("group")["split"].nunique()
    assert groups.max() == 1


def test_only_new_images_are_processed(months: list[Month]) -> None:
    """A row or an image that is computed again has another modification time, and no row occurs twice."""
    for before, after, num_new in zip(months, months[1:], (10, 10, 0, 10, 10), strict=False):
        assert before.images.items() <= after.images.items()
        assert before.rows.items() <= after.rows.items()
        assert len(after.images) - len(before.images) == num_new
        plain = {sha256 for sha256, mirrored in after.rows if not mirrored}
        mirrored = {sha256 for sha256, mirrored in after.rows if mirrored}
        assert len(plain) == len(after.images)
        assert mirrored <= plain


def test_fault_73_the_inverted_batch_is_set_aside_with_a_picture(months: list[Month], clinic: Clinic) -> None:
    assert "does not look like the training images" in months[2].result
    assert "--retrain.accept-drift true" in months[2].result
    assert months[2].report["outcome"] == "stopped"
    assert sum(split == "set_aside" for split in months[-1].splits.values()) == NUM_MONTHLY
    quarantine = pd.read_csv(clinic.workspace.quarantine_file)
    assert (quarantine["reason"] == "unlike_training").sum() == NUM_MONTHLY
    report = clinic.workspace.retrainings_folder / "0003"
    assert (report / "figures" / "drift.png").stat().st_size > 10_000
    assert "data:image/png" in (report / "report.html").read_text()


def test_too_few_new_images_are_counted(months: list[Month]) -> None:
    assert months[3].result == "0 new or corrected images found, 5 are required: nothing was trained"


def test_after_pruning_a_few_new_images_are_grouped_and_split_and_nothing_is_computed_again(
    months: list[Month], clinic: Clinic, tmp_path: Path
) -> None:
    later = Clinic(Workspace(shutil.copytree(clinic.workspace.root, tmp_path / "workspace")), tmp_path / "incoming")
    shutil.copytree(clinic.incoming, later.incoming)
    assert {removal.kind for removal in prune(later.workspace)} >= {"cache", "explanations", "neighbours"}
    deliver(later.incoming, "june", 4, seed=6)
    shutil.rmtree(later.workspace.retrainings_folder)  # reports are not needed to know which images are new
    month = later.retrain(GOOD)
    assert month.result == "4 new or corrected images found, 5 are required: nothing was trained"
    assert months[-1].rows.items() <= month.rows.items()
    assert months[-1].images.items() <= month.images.items()
    manifest = read_manifest(later.workspace.manifest_file)
    ready = manifest[manifest["state"] == "ready"]
    assert len(ready) == NUM_FIRST + 3 * NUM_MONTHLY + 4
    assert (ready["group"] != "").all()
    assert set(ready["split"]) == {"train", "val", "test"}


def test_fault_72_the_gate_keeps_the_worse_and_promotes_the_better(months: list[Month], clinic: Clinic) -> None:
    worse, better = months[4].report["decision"], months[5].report["decision"]
    assert worse["difference"] < 0 < better["interval"][0]
    assert [comparison.is_promoted for comparison in read_comparisons(clinic.workspace)] == [False, False, True]
    assert [version.parent for version in list_versions(clinic.workspace)] == [None, 1, 1, 1]
    page = (clinic.workspace.retrainings_folder / "0005" / "report.html").read_text()
    assert "The new model is the champion" in page
    assert "The challenger is shown to be better." in page


def test_a_run_of_a_retraining_is_verified(months: list[Month], clinic: Clinic) -> None:
    assert verify.verify_run(clinic.workspace.runs_folder / "0004") == []


def test_fault_74_rolling_back_serves_the_former_bytes(months: list[Month], clinic: Clinic, tmp_path: Path) -> None:
    shutil.copytree(clinic.workspace.releases_folder, tmp_path / "releases")
    workspace = Workspace(tmp_path)
    content = (workspace.versions_folder / "0001" / "model.keras").read_bytes()
    champion = roll_back(workspace, reason="worse")
    assert read_champion(workspace) == champion
    assert champion.model_file.read_bytes() == content
    assert [change.action for change in read_history(workspace)] == ["promotion", "promotion", "rollback"]


@pytest.mark.system
def test_fault_54_a_retraining_that_is_killed_before_its_report_is_ended_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The champion has changed already; the next run must not find that there are no new images."""
    clinic = Clinic(Workspace(tmp_path / "workspace"), tmp_path / "incoming")
    deliver(clinic.incoming, "first", NUM_FIRST, seed=0)
    for number, training in enumerate((FIRST, GOOD), start=1):
        with monkeypatch.context() as killing:
            killing.setattr("hip_mri.promotion.retraining_report.publish_folder", _die)
            killed = clinic.retrain(training)
        assert killed.outcome == "Failed"
        assert killed.champion == f"{number:04d}"  # promoted without a report
        month = clinic.retrain(training)
        assert month.outcome == "Promoted"
        assert month.champion == f"{number:04d}"
        assert month.report["arrivals"]["num_images"] == (NUM_FIRST if number == 1 else NUM_MONTHLY)
        assert len(list(clinic.workspace.retrainings_folder.iterdir())) == number
        assert len(read_history(clinic.workspace)) == len(list_versions(clinic.workspace)) == number
        assert len(read_comparisons(clinic.workspace)) == number - 1  # the first is compared with none
        manifest = read_manifest(clinic.workspace.manifest_file)
        assert clinic.retrain(training).outcome == "Nothing new"
        assert read_manifest(clinic.workspace.manifest_file).equals(manifest)  # with its groups and splits
        deliver(clinic.incoming, "january", NUM_MONTHLY, seed=5)


def _die(folder: Path) -> None:
    raise SystemError(f"killed before {folder.name}")
