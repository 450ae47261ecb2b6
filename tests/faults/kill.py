"""Kills runs at every step that changes the disk, and at random moments, and compares the final results.

`python -m tests.faults.kill FOLDER` prints the results as JSON; `--steps` and `--moments` say how often to kill,
`--all` kills at every step there is and at a hundred random moments. Every killed run is started again on what it
left behind, until one comes to its end; its results are then held against those of an undisturbed run.
"""

import argparse
import json
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import write_source
from tests.faults import nursery
from tests.faults.nursery import Outcome, run_once
from tests.faults.results import find_differences, find_leftovers, hash_results
from tests.small_sources import put_key

NUM_WORKERS = 2
"""Task runs of shards at the same time; a kill may cost each of them the shard that it works on."""

KILLS_PER_END = 10
"""Runs that are killed one after the other before one may come to its end."""


@dataclass
class KillReport:
    """What came of killing one kind of run.

    Attributes:
        num_steps: Different steps that an undisturbed run reaches.
        kills_at_steps: Runs that were killed at a step.
        kills_at_moments: Runs that were killed at a random moment.
        num_ended: Runs that came to their end, each after the kills before it.
        max_shards_repeated: Feature shards, at most, that a run computed again after a kill.
        max_images_repeated: Preprocessed images, at most, that were written again although they were there.
        never_reached: Steps at which no run could be killed.
        wrong: Differences and leftovers; empty is what must be.
    """

    num_steps: int = 0
    kills_at_steps: int = 0
    kills_at_moments: int = 0
    num_ended: int = 0
    max_shards_repeated: int = 0
    max_images_repeated: int = 0
    never_reached: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Killer:
    """Kills one kind of run again and again.

    Args:
        folder: Workspaces are made in it.
        name: Of the kind.
        prepare: Makes a workspace ready, before the first run in it.
        act: One run in a workspace.
    """

    def __init__(
        self, folder: Path, name: str, prepare: Callable[[Path], object], act: Callable[[Path], object]
    ) -> None:
        self.report = KillReport()
        self._folder, self._name, self._prepare, self._act = folder, name, prepare, act
        workspace = self._start()
        undisturbed = self._run(workspace)
        if undisturbed.status:
            raise RuntimeError(f"{name}: the undisturbed run failed\n{undisturbed.log}")
        self.steps = list(dict.fromkeys(undisturbed.steps))
        self.seconds = undisturbed.seconds
        self.report.num_steps = len(self.steps)
        self._expected = hash_results(workspace)
        shutil.rmtree(workspace)

    def kill_at(self, steps: list[str]) -> None:
        """Kill at each of these steps once; the next run goes on from what was left, and dies at the next one."""
        for start in range(0, len(steps), KILLS_PER_END):
            self._kill_at(set(steps[start : start + KILLS_PER_END]))

    def _kill_at(self, remaining: set[str]) -> None:
        while remaining:
            before = len(remaining)
            for outcome in self._run_to_the_end(lambda: {"die_at": remaining}):
                if outcome.killed_at:
                    remaining.discard(outcome.killed_at)
                    self.report.kills_at_steps += 1
            if len(remaining) == before:
                self.report.never_reached += sorted(remaining)
                return

    def kill_after(self, count: int, draw: random.Random) -> None:
        """Kill at random moments, so many times; mostly early ones, since what goes on after a kill comes far soon."""
        while self.report.kills_at_moments < count:
            for outcome in self._run_to_the_end(lambda: {"die_after_seconds": self._draw_moment(draw)}):
                self.report.kills_at_moments += outcome.status < 0

    def _draw_moment(self, draw: random.Random) -> float:
        return draw.uniform(0, self.seconds * draw.choice((0.3, 0.3, 0.3, 1.1)))

    def _run_to_the_end(self, choose: Callable[[], dict]) -> Iterator[Outcome]:
        workspace = self._start()
        before: list[str] = []
        while True:
            outcome = self._run(workspace, **choose())
            self._count_repeated(before, outcome.steps)
            before += outcome.steps
            yield outcome
            if outcome.status >= 0:
                break
        if outcome.status:
            self.report.wrong.append(outcome.log[-2000:])
        self.report.num_ended += 1
        self.report.wrong += find_differences(self._expected, hash_results(workspace)) + find_leftovers(workspace)
        shutil.rmtree(workspace)
        print(json.dumps({self._name: vars(self.report)}), file=sys.stderr, flush=True)

    def _start(self) -> Path:
        workspace = nursery.empty(self._folder / self._name)  # one path, since it stands in `config.yaml`
        self._prepare(workspace)
        return workspace

    def _run(self, workspace: Path, **how) -> Outcome:
        return run_once(lambda: self._act(workspace), workspace, **how)

    def _count_repeated(self, before: list[str], now: list[str]) -> None:
        """Feature shards begun again, and preprocessed images written again though they were whole."""
        shards = {step for step in now if step.startswith("write features/") and step.endswith(".npy")}
        images = {step for step in now if step.startswith("rename preprocessed/")}
        done = Counter(before)
        self.report.max_shards_repeated = max(self.report.max_shards_repeated, sum(done[step] > 0 for step in shards))
        self.report.max_images_repeated = max(self.report.max_images_repeated, sum(done[step] > 1 for step in images))


def choose_steps(steps: list[str], count: int, draw: random.Random) -> list[str]:
    """Some steps, by chance; one of every kind before a second one, as of the images that are written one by one."""
    counts: Counter[str] = Counter()
    ranked = []
    for step in draw.sample(steps, len(steps)):
        kind = re.sub(r"[0-9a-f]{16,}|\d{4}", "*", step)
        ranked.append((counts[kind], step))
        counts[kind] += 1
    return [step for _, step in sorted(ranked, key=lambda one: one[0])[:count]]


def make_config(source: Path, workspace: Path, **settings: object) -> dict[str, object]:
    return {
        "source": str(source),
        "workspace": str(workspace),
        "seed": 7,
        "preprocessing": {"image_size": 32},
        "model": {"backbone": "ResNet50", "weights": "random", "hidden_units": 16},
        "training": {"epochs": 3, "batch_size": 16},
        "data": {"val_fraction": 0.2, "test_fraction": 0.2},
        "features": {"engine": "openvino", "precision": "float32"},
        "evaluation": {"num_resamples": 200, "cross_validation_folds": 2, "cross_validation_seeds": 1},
        "runner": {"num_workers": NUM_WORKERS, "num_threads": 2},
        **settings,
    }


def run_pipeline(source: Path, workspace: Path, **settings: object) -> None:
    from flows.pipeline import hip_pipeline
    from hip_mri.config import PipelineConfig

    hip_pipeline(PipelineConfig.model_validate(make_config(source, workspace, **settings)))


def run_retraining(incoming: Path, workspace: Path) -> None:
    """Up to the first champion: trained, registered, judged, promoted and reported."""
    from flows.retrain import hip_retrain
    from hip_mri.config import RetrainConfig

    config = make_config(incoming, workspace) | {
        "sources": [str(incoming)],
        "data": {"val_fraction": 0.2, "test_fraction": 0.25, "patient_pattern": r"(hip\d+)\.png"},
        "training": {"epochs": 8, "batch_size": 16, "learning_rate": 1e-3},
        "retrain": {"min_new_images": 5},
        "release": {
            "min_first_auc": 0,
            "min_sensitivity": 0,
            "min_specificity": 0,
            "min_subgroup_sensitivity": 0,
            "min_groups_per_class": 5,
        },
    }
    del config["source"]
    hip_retrain(RetrainConfig.model_validate(config))


def open_killers(folder: Path, names: list[str]) -> Iterator[tuple[str, Killer]]:
    """The kinds of run, one after the other, each with its undisturbed run done."""
    source = write_source(folder / "hip.zip")
    tuned = {"training": {"epochs": 1, "batch_size": 16, "fine_tune": {"epochs": 3, "batch_size": 16}}}
    kinds: dict[str, Callable[[Path], object]] = {
        "pipeline": lambda workspace: run_pipeline(source, workspace),
        "fine-tuning": lambda workspace: run_pipeline(source, workspace, **tuned),
        "retraining": lambda workspace: run_retraining(source, workspace),
    }
    for name in names:
        yield name, Killer(folder, name, put_key, kinds[name])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--moments", type=int, default=4)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=["pipeline", "fine-tuning", "retraining"])
    given = parser.parse_args(arguments)
    draw = random.Random(given.seed)
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    is_good = True
    with nursery.serve_prefect(nursery.empty(folder / "prefect")):
        nursery.load_everything()
        for name, killer in open_killers(folder, given.kinds):
            count = len(killer.steps) if given.all else given.steps
            killer.kill_at(choose_steps(killer.steps, count, draw))
            killer.kill_after(100 if given.all else given.moments, draw)
            print(json.dumps({name: vars(killer.report)}), flush=True)
            is_good = is_good and not killer.report.wrong and not killer.report.never_reached
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
