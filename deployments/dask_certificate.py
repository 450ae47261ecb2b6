"""Creates a TLS certificate for Dask: `python -m deployments.dask_certificate FOLDER`.

Dask has no passwords: without TLS, everybody who can connect to its scheduler can run code as its user. With TLS, the
scheduler and the workers reject connections without this certificate. It is valid for a year.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from distributed.security import Security

from hip_mri.storage import write_bytes


def write_certificate(folder: Path) -> None:
    """Write `authority.pem`, and `certificate.pem` with its private key; existing files are replaced."""
    tls = Security.temporary().get_tls_config_for_role("client")
    write_bytes(folder / "authority.pem", tls["ca_file"].encode(), is_private=True)
    write_bytes(folder / "certificate.pem", (tls["cert"] + tls["key"]).encode(), is_private=True)


def describe_certificate(folder: Path) -> dict[str, str]:
    """Environment variables with which scheduler, workers and clients of Dask use the certificate in a folder."""
    roles = ("SCHEDULER", "WORKER", "CLIENT")
    return {
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(folder / "authority.pem"),
        **{f"DASK_DISTRIBUTED__COMM__TLS__{role}__CERT": str(folder / "certificate.pem") for role in roles},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a certificate if the folder has none; returns the exit code."""
    parser = argparse.ArgumentParser(description="Create a TLS certificate for Dask if the folder has none.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    if not (folder / "certificate.pem").exists():
        write_certificate(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
