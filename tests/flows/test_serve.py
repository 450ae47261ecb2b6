"""The command `hip-mri serve` as a program: it scores as the flow `hip-predict`, and ends on a signal."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from flows.pipeline import hip_pipeline
from tests.flows.test_pipeline import configure
from tests.flows.test_predict import read, score
from tests.processes import PROJECT

COMMAND = (sys.executable, "-c", "from flows.cli.main import main; main()", "serve", "--port", "0")


@pytest.mark.system
def test_scores_are_those_of_the_flow_and_a_signal_ends_the_service(source_zip: Path, tmp_path: Path) -> None:
    features = {"engine": "openvino", "precision": "float32"}
    run = Path(hip_pipeline(configure(source_zip, tmp_path / "w", features=features)))
    shutil.unpack_archive(source_zip, tmp_path / "images")
    files = sorted((tmp_path / "images").rglob("*.png"))[:5]
    options = ["--workspace", str(tmp_path / "w"), "--model", str(run), "--engine", "openvino"]
    with subprocess.Popen([*COMMAND, *options], cwd=PROJECT, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            address = service.stdout.readline().strip()
            sent = [("images", (file.name, file.read_bytes())) for file in files]
            response = httpx.post(f"{address}predict", files=sent, timeout=60, trust_env=False)
        finally:
            service.send_signal(signal.SIGTERM)
        assert service.wait(30) == 128 + signal.SIGTERM
    scored = {it["sha256"]: it for it in response.json()["images"]}
    expected = read(score(run, tmp_path / "images", tmp_path / "w", engine="openvino")).set_index("sha256")
    assert len(scored) == len(files)
    for sha256, result in scored.items():
        assert result["score"] == pytest.approx(expected.loc[sha256, "score"], abs=1e-6)
        assert result["label"] == expected.loc[sha256, "label"]
        assert result["known_split"] == expected.loc[sha256, "known_split"]
