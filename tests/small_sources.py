"""Fixtures with small pictures, sources and manifests.

Pictures are written by Pillow, which the library does not use: what it reads was not written by itself.
"""

import hashlib
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pytest

from hip_mri.dataset.deliveries import Delivery
from hip_mri.dataset.ingest import ingest_images
from hip_mri.dataset.manifest import write_manifest
from hip_mri.dataset.shards import Shard, plan_shards
from hip_mri.grouping.split import split_manifest
from hip_mri.workspace import Workspace

Entries = Mapping[str, bytes]


def write_zip(file: Path, entries: Entries, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a zip file with the given entries, in their order."""
    with zipfile.ZipFile(file, "w", compression) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return file


@pytest.fixture(scope="session")
def entries(draw: Callable, encode: Callable) -> dict[str, bytes]:
    """Six normal and five lesion images, all different. Tests copy before they change it."""
    normal = {f"normal/n{number}.png": encode(draw(number)) for number in range(6)}
    lesion = {f"osseous_lesion/o{number}.png": encode(draw(100 + number)) for number in range(5)}
    return normal | lesion


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace whose folder does not exist yet."""
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., Path]:
    """Writes a zip file with the given entries, in their order."""

    def pack(entries: Entries, name: str = "source.zip", compression: int = zipfile.ZIP_STORED) -> Path:
        return write_zip(tmp_path / name, entries, compression)

    return pack


@pytest.fixture
def spread(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder with the given files."""

    def spread(entries: Entries, name: str = "source") -> Path:
        for entry, content in entries.items():
            file = tmp_path / name / entry
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return tmp_path / name

    return spread


@pytest.fixture
def source_file(entries: Entries, pack: Callable) -> Path:
    return pack(entries)


@pytest.fixture(scope="session")
def filled_once(entries: Entries, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with all images ingested and split, which no test changes."""
    folder = tmp_path_factory.mktemp("filled")
    source = write_zip(folder / "source.zip", entries)
    workspace = Workspace(folder / "workspace")
    ingest_images([Delivery("source", source)], workspace, num_threads=1)
    split_manifest(workspace, val_fraction=0.2, test_fraction=0.2, seed=1)
    return workspace


@pytest.fixture
def filled(filled_once: Workspace, source_file: Path, workspace: Workspace) -> Workspace:
    """A copy of `filled_once`, beside the source that was ingested."""
    shutil.copytree(filled_once.root, workspace.root, dirs_exist_ok=True)
    return workspace


@pytest.fixture
def shard(filled: Workspace) -> Shard:
    """All images of `filled` in one shard, so that a test knows where each one is."""
    shards = plan_shards(filled, shard_size=1000)
    table = pd.concat([pd.read_parquet(shard.file) for shard in shards]).sort_values("image_id", ignore_index=True)
    file = filled.root / "whole.parquet"
    table.to_parquet(file, index=False)
    return Shard(name="1 of 1", digest="0" * 64, file=file, num_images=len(table))


@pytest.fixture(scope="session")
def snapshot() -> Callable[[Path], dict[str, bytes | None]]:
    """Everything below a folder: content by path, `None` for folders."""

    def snapshot(folder: Path) -> dict[str, bytes | None]:
        return {
            str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
        }

    return snapshot


@pytest.fixture(scope="session")
def write_rows() -> Callable[..., pd.DataFrame]:
    """Writes a manifest of images that exist only by name, and returns it."""

    def write_rows(workspace: Workspace, num_normal: int, num_lesion: int, prefix: str = "image") -> pd.DataFrame:
        labels = ["normal"] * num_normal + ["osseous_lesion"] * num_lesion
        hashes = [hashlib.sha256(f"{prefix} {number}".encode()).hexdigest() for number in range(len(labels))]
        manifest = pd.DataFrame(
            {
                "image_id": [sha256[:16] for sha256 in hashes],
                "delivery": "source",
                "entry": [f"{label}/{number}.png" for number, label in enumerate(labels)],
                "slice": 0,
                "num_slices": 1,
                "study": "",
                "series": "",
                "series_number": float("nan"),
                "instance_number": float("nan"),
                "acquired": float("nan"),
                "position": float("nan"),
                "sha256": hashes,
                "label": labels,
                "patient": "",
                "group": [sha256[:16] for sha256 in hashes],
                "evidence": "",
                "split": "",
                "state": "ready",
                "reason": "",
                "num_bytes": 1,
                "version": "1",
            }
        )
        write_manifest(workspace.manifest_file, manifest)
        return manifest

    return write_rows


def put_key(workspace: Path) -> None:
    """Hashes of patients follow from a random key; here from the same one every time."""
    (workspace / "pseudonyms.key").write_bytes(bytes(32))
    (workspace / "pseudonyms.key").chmod(0o600)
