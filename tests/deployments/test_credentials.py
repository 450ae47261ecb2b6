import subprocess
from pathlib import Path

import pytest

from deployments.credentials import make_credentials, read_environment, write_environment
from deployments.dask_certificate import describe_certificate, write_certificate
from hip_mri.errors import DeploymentError
from tests.processes import run_python


def test_secrets_are_generated_once_and_private(tmp_path: Path) -> None:
    file = tmp_path / "server.env"
    made = make_credentials(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert make_credentials(file) == made
    assert make_credentials(tmp_path / "other.env") != made

    login, database_password = made
    user, _, password = login.partition(":")
    assert user == "admin"
    assert len(password) >= 32
    assert len(database_password) >= 32
    assert password != database_password


def test_a_shell_reads_the_same_values(tmp_path: Path) -> None:
    environment = {"PLAIN": "http://127.0.0.1:4200/api", "HARD": "a 'quoted' $HOME # word", "EMPTY": ""}
    file = tmp_path / "some.env"
    write_environment(file, environment, "For a shell.")
    assert read_environment(file) == environment

    script = '. "$1"; printf "%s\\n" "$PLAIN" "$HARD" "$EMPTY"'
    shell = subprocess.run(["sh", "-c", script, "sh", file], capture_output=True, text=True, check=True)
    assert shell.stdout.splitlines() == list(environment.values())


def test_a_line_without_a_setting_is_named(tmp_path: Path) -> None:
    file = tmp_path / "broken.env"
    file.write_text("# comment\n\nGOOD=1\nexport\n")
    with pytest.raises(DeploymentError, match=r"broken\.env, line 4: .*NAME=value"):
        read_environment(file)


def test_a_lost_secret_is_named(tmp_path: Path) -> None:
    file = tmp_path / "server.env"
    file.write_text("PREFECT_SERVER_API_AUTH_STRING=admin:word\n")
    with pytest.raises(DeploymentError, match=r"server\.env lacks PREFECT_SERVER_DATABASE_PASSWORD"):
        make_credentials(file)


def test_a_certificate_is_private_and_kept(tmp_path: Path) -> None:
    assert run_python("-m", "deployments.dask_certificate", tmp_path).returncode == 0
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    assert set(map(str, tmp_path.iterdir())) == set(describe_certificate(tmp_path).values())
    assert "PRIVATE KEY" in written["certificate.pem"]
    assert "PRIVATE KEY" not in written["authority.pem"]

    write_certificate(tmp_path, keep=True)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == written
    write_certificate(tmp_path)
    assert (tmp_path / "authority.pem").read_text() != written["authority.pem"]
