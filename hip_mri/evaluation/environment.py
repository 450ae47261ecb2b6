"""Describes the software that made a run: code version, git commit, packages and settings of Keras."""

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = ("hip-mri", "keras", "tensorflow", "openvino", "opencv-python-headless", "scikit-learn", "prefect")
"""Packages whose versions are recorded."""

PROJECT_FOLDER: Final = Path(__file__).parents[2]
"""Git checkout, or folder of the installed packages."""

GIT_TIMEOUT_SECONDS: Final = 20.0


def list_versions() -> dict[str, str]:
    """List the versions of `PACKAGES` and of Python."""
    return {package: version(package) for package in PACKAGES} | {"python": platform.python_version()}


def find_commit(project_folder: Path = PROJECT_FOLDER) -> str | None:
    """Find the git commit of the running code.

    Args:
        project_folder: Folder of the package `hip_mri`.

    Returns:
        In a git checkout its commit, followed by `-dirty` if tracked files were changed. Elsewhere the commit that the
        package was installed from. `None` if neither is known.
    """
    return _describe_checkout(project_folder) if (project_folder / ".git").exists() else _read_installed_commit()


def _describe_checkout(folder: Path) -> str | None:
    command = ("git", "--no-optional-locks", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40")
    try:
        result = subprocess.run(
            (*command, "--exclude=*"), capture_output=True, text=True, check=True, timeout=GIT_TIMEOUT_SECONDS
        )
    except (OSError, subprocess.SubprocessError):  # git is not installed, or the checkout has another owner
        return None
    return result.stdout.strip() or None


def _read_installed_commit() -> str | None:
    """Read the commit from `direct_url.json`, which pip writes for a package that is installed from git (PEP 610)."""
    try:
        origin: dict[str, Any] = json.loads(distribution(PACKAGES[0]).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return None
    return origin.get("vcs_info", {}).get("commit_id")
