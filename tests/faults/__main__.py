"""`make test-long`: runs every slow fault check in turn; a failure does not stop the others.

Runs are killed at each of their steps and at a hundred random moments, disks are filled, archives and images are broken
at random, and thousands of sound images are read. Needs root for the disks.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path


def list_commands(folder: Path) -> list[list[str]]:
    """Modules of this package with their arguments."""
    return [
        ["kill", str(folder / "kill"), "--all"],
        ["full_disk", str(folder / "full_disk")],
        ["fuzz_archives", "--minutes", "10"],
        ["fuzz_images", "--minutes", "10"],
        ["clean_images", "--num-images", "10000"],
    ]


def main() -> int:
    failed = []
    with tempfile.TemporaryDirectory(prefix="hip-mri-faults-") as folder:
        for name, *arguments in list_commands(Path(folder)):
            start = time.monotonic()
            print(f"== {name} {' '.join(arguments)}", flush=True)
            if subprocess.run([sys.executable, "-m", f"tests.faults.{name}", *arguments], check=False).returncode:
                failed.append(name)
            print(f"== {name}: {(time.monotonic() - start) / 60:.0f} minutes", flush=True)
    print("failed: " + ", ".join(failed) if failed else "no failure")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
