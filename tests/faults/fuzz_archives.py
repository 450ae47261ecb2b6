"""Fuzzing of zip files: `python -m tests.faults.fuzz_archives --minutes 10` damages zip files at random.

It stops at the first failure, writes the archive to a file and prints how to repeat it.
"""

import argparse
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.sources.zip_files.zip_mutations import KINDS, SAMPLES, TELLING, Mutation, check, damage


def draw_mutation(chance: random.Random) -> Mutation:
    value = chance.choice(TELLING) if chance.random() < 0.5 else chance.getrandbits(chance.choice((3, 8, 16, 32, 64)))
    return Mutation(chance.choice(KINDS), chance.random(), value)


def fuzz_archives(seed: int, minutes: float) -> Counter[str]:
    """Damage and check zip files until the time is over; counts of those accepted and refused."""
    chance, counts, end = random.Random(seed), Counter(), time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="hip-mri-fuzz-") as folder:
        while time.monotonic() < end:
            mutations = [draw_mutation(chance) for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 8)))]
            content = damage(chance.randrange(len(SAMPLES)), mutations)
            try:
                counts["accepted" if check(content, Path(folder) / "images.zip") else "refused"] += 1
            except BaseException:
                file = Path(f"failure-{seed}-{counts.total()}.zip")
                file.write_bytes(content)
                print(f"after {counts.total()} files: {mutations}, written as {file}")
                raise
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    counts = fuzz_archives(given.seed, given.minutes)
    print(f"{counts.total()} files, {dict(counts)}: no failure")


if __name__ == "__main__":
    main()
