"""Memory and processor time of a process and all its descendants, read from Linux while they run."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pandas as pd

PROCESSES: Final = Path("/proc")
_KIBIBYTE: Final = 1024 / 1e6  # megabytes


def list_tree(root: int) -> Iterator[int]:
    """The process and its descendants, as far as they still run."""
    yield root
    with contextlib.suppress(OSError):  # it can end between two looks
        for file in (PROCESSES / str(root) / "task").glob("*/children"):
            for child in file.read_text().split():
                yield from list_tree(int(child))


def read_memory(process: int) -> float:
    """Megabytes that a process holds of its own; pages of files, which the system may drop at any time, do not count.

    Returns:
        The sum of `RssAnon` and `RssShmem`; 0 for a process that has ended.
    """
    try:
        status = (PROCESSES / str(process) / "status").read_text()
    except OSError:
        return 0.0
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return sum(int(fields.get(name, "0 kB").split()[0]) for name in ("RssAnon", "RssShmem")) * _KIBIBYTE


def read_processor_time(process: int) -> float:
    """Processor seconds of a process and of those children that have ended; 0 for a process that has ended itself."""
    try:
        status = (PROCESSES / str(process) / "stat").read_text()
    except OSError:
        return 0.0
    ticks = status.rpartition(")")[2].split()[11:15]  # utime, stime, cutime, cstime; see proc_pid_stat(5)
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


class MemoryWatch:
    """Samples memory and processor time of a process tree in a thread of its own. A context manager.

    Args:
        root: The process on top.
        find_step: Names what is being done; called with each sample.
        interval_seconds: Between two samples.

    Attributes:
        samples: Dictionaries with `step`, `main_mb` of the process on top, `tree_mb` of all, and `processor_seconds`
            that all have taken so far.
    """

    def __init__(self, root: int, find_step: Callable[[], str], interval_seconds: float = 0.2) -> None:
        self.samples: list[dict[str, str | float]] = []
        self._root = root
        self._find_step = find_step
        self._interval_seconds = interval_seconds
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._has_ended.set()
        self._thread.join()

    def summarize(self) -> pd.DataFrame:
        """Most memory, and processor time, of each step; columns as in the samples, by step in the order of time."""
        columns = ["step", "main_mb", "tree_mb", "processor_seconds"]
        samples = pd.DataFrame(list(self.samples), columns=columns)
        # What a step took before its first sample, a fraction of a second, counts as its own.
        samples["processor_seconds"] = samples["processor_seconds"].diff().fillna(0).clip(lower=0)
        by_step = samples.groupby("step", sort=False)
        peaks = by_step[["main_mb", "tree_mb"]].max().round(1)
        return peaks.assign(processor_seconds=by_step["processor_seconds"].sum().round(2))

    def _watch(self) -> None:
        while not self._has_ended.wait(self._interval_seconds):
            tree = list(list_tree(self._root))
            main, *others = map(read_memory, tree)
            self.samples.append(
                {
                    "step": self._find_step(),
                    "main_mb": main,
                    "tree_mb": main + sum(others),
                    "processor_seconds": sum(map(read_processor_time, tree)),
                }
            )
