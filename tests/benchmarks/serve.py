"""Latency of `hip-mri serve` under load: `python -m tests.benchmarks.serve --model RUN_FOLDER`.

Each client sends one image after the other over its own connection. Clients and service share the processor.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil

from tests.benchmarks.latency import describe_machine
from tests.benchmarks.measure import make_images, run_flow
from tests.processes import PROJECT

HEAD = b'--x\r\nContent-Disposition: form-data; name="images"; filename="image"\r\n\r\n'
TAIL = b"\r\n--x--\r\n"
COMMAND = (sys.executable, "-c", "from flows.cli.main import main; main()", "serve", "--port", "0")


class Clients:
    """Clients with one connection each, for the threads of a pool."""

    def __init__(self, address: str, query: str) -> None:
        self._place, self._query = urlsplit(address), query
        self._local = threading.local()

    def send(self, file: Path) -> tuple[int, float]:
        """Send an image; returns the status code and the seconds until the response was read."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._place.hostname, self._place.port, timeout=120)
            self._local.connection = connection
        body = HEAD + file.read_bytes() + TAIL
        start = time.perf_counter()
        connection.request("POST", f"/predict{self._query}", body, {"Content-Type": "multipart/form-data; boundary=x"})
        response = connection.getresponse()
        response.read()
        return response.status, time.perf_counter() - start


def count_cpu_seconds(pid: int) -> float:
    """Processor time of the service and its decoders, which other programs on the machine hardly change."""
    service = psutil.Process(pid)
    times = [process.cpu_times() for process in (service, *service.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def measure(address: str, pid: int, images: list[Path], num_clients: int, query: str = "") -> dict[str, float]:
    """Send all images by several clients at the same time."""
    clients = Clients(address, query)
    start, cpu = time.perf_counter(), count_cpu_seconds(pid)
    with ThreadPoolExecutor(num_clients) as pool:
        results = list(pool.map(clients.send, images))
    seconds = [taken for _, taken in results]
    return {
        "requests": len(results),
        "clients": num_clients,
        "errors": sum(status != 200 for status, _ in results),
        "median_seconds": float(np.median(seconds)),
        "percentile_95_seconds": float(np.percentile(seconds, 95)),
        "longest_seconds": max(seconds),
        "images_per_second": len(results) / (time.perf_counter() - start),
        "cpu_seconds_per_image": (count_cpu_seconds(pid) - cpu) / len(results),
        "load_average": os.getloadavg()[0],
    }


def make_run(folder: Path, backbone: str) -> Path:
    """A run with random weights; the time of scoring does not depend on them."""
    options = ["--workspace", str(folder / "workspace"), "--model.backbone", backbone, "--model.weights", "random"]
    return run_flow("pipeline", *options, "--training.epochs", "3", "--evaluation.cross-validation-seeds", "0")[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a run; by default one is made")
    parser.add_argument("--backbone", default="ResNet50")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hip-mri-bench-") as temporary:
        folder = Path(temporary)
        run = (given.model or make_run(folder, given.backbone)).resolve()
        images = sorted(make_images(folder / "images", given.requests).glob("*/*.png"))
        workspace = run.parents[1] if run.parent.name == "runs" else folder / "workspace"
        options = ["--workspace", str(workspace), "--model", str(run), "--precision", given.precision]
        start = time.perf_counter()
        service = subprocess.Popen([*COMMAND, *options], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        try:
            assert service.stdout is not None
            address = service.stdout.readline().strip()
            results: dict[str, object] = {
                "machine": describe_machine(),
                "seconds_to_start": time.perf_counter() - start,
                "first_image": measure(address, service.pid, images[:1], 1),
                "one_client": measure(address, service.pid, images[:20], 1),
                "clients": measure(address, service.pid, images, given.clients),
                "with_heat_maps": measure(
                    address, service.pid, images[:40], given.clients, "?heat_maps=true&pictures=true"
                ),
            }
            status = Path(f"/proc/{service.pid}/status").read_text()
            results["peak_mb"] = int(status.partition("VmHWM:")[2].split()[0]) / 1024
        finally:
            service.terminate()
            start = time.perf_counter()
            service.wait(30)
        results["exit_code"], results["seconds_to_end"] = service.returncode, time.perf_counter() - start
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
