"""The memory of a process and all its descendants, as Linux tells it, watched while they work."""

import contextlib
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


class MemoryWatch:
    """Samples the memory of a process tree in a thread of its own. A context manager.

    Args:
        root: The process on top.
        find_step: Names what is being done; called with each sample.
        interval_seconds: Between two samples.

    Attributes:
        samples: Dictionaries with `step`, `main_mb` of the process on top, and `tree_mb` of all.
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

    def find_peaks(self) -> pd.DataFrame:
        """Most memory in each step; columns main_mb and tree_mb, by step in the order of time."""
        samples = pd.DataFrame(self.samples, columns=["step", "main_mb", "tree_mb"])
        return samples.groupby("step", sort=False)[["main_mb", "tree_mb"]].max().round(1)

    def _watch(self) -> None:
        while not self._has_ended.wait(self._interval_seconds):
            main, *others = map(read_memory, list_tree(self._root))
            self.samples.append({"step": self._find_step(), "main_mb": main, "tree_mb": main + sum(others)})
