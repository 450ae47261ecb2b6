import os
import socket
from pathlib import Path

import pytest

from deployments import native, postgres
from deployments.postgres import Postgres
from hip_mri.errors import DeploymentError


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Releases 9 and 15, as Debian installs them side by side."""
    for release in ("9", "15"):
        (tmp_path / "lib" / release / "bin").mkdir(parents=True)
        (tmp_path / "lib" / release / "bin" / "initdb").touch()
    monkeypatch.setattr(postgres, "_DEBIAN", tmp_path / "lib")
    monkeypatch.setenv("PATH", "")
    return tmp_path / "lib"


def test_new_tables_are_written_by_the_newest_release_and_old_ones_by_theirs(debian: Path, tmp_path: Path) -> None:
    server = Postgres(tmp_path / "data", 5433, "postgres")
    assert server.find_programs() == debian / "15" / "bin"
    server.folder.mkdir()
    (server.folder / "PG_VERSION").write_text("9\n")
    assert server.find_programs() == debian / "9" / "bin"


def test_a_missing_release_is_named(debian: Path, tmp_path: Path) -> None:
    server = Postgres(tmp_path, 5433, "postgres")
    (tmp_path / "PG_VERSION").write_text("13\n")
    with pytest.raises(DeploymentError, match=r"`initdb` of release 13 .*`apt-get install"):
        server.find_programs()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_a_folder_that_the_database_cannot_access_is_named_before_anything_is_written(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(DeploymentError, match=r"closed .*'nobody'"):
        Postgres(closed / "data", 5433, "nobody").create("password")
    with pytest.raises(DeploymentError, match=r"'nemo'.*--database-user"):
        Postgres(closed / "data", 5433, "nemo").create("password")
    assert list(closed.iterdir()) == []


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DeploymentError, match=f"server: port {port} of 127.0.0.1"):
            native._check_ports_are_free("server", [port])
