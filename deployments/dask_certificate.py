"""A certificate for Dask: `python -m deployments.dask_certificate FOLDER` writes one, unless there is one.

Dask knows no passwords: everybody who can reach its scheduler can run code as its user. So scheduler, workers and
clients speak TLS, and who does not hold this certificate is turned away. It is valid for a year.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from distributed.security import Security

from hip_mri.storage import write_bytes


def write_certificate(folder: Path) -> None:
    """Write a new certificate: `authority.pem`, and `certificate.pem` with its key."""
    made = Security.temporary().get_tls_config_for_role("client")
    write_bytes(folder / "authority.pem", made["ca_file"].encode(), is_private=True)
    write_bytes(folder / "certificate.pem", (made["cert"] + made["key"]).encode(), is_private=True)


def describe_certificate(folder: Path) -> dict[str, str]:
    """Environment variables that make scheduler, workers and clients of Dask use the certificate in a folder."""
    roles = ("SCHEDULER", "WORKER", "CLIENT")
    return {
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(folder / "authority.pem"),
        **{f"DASK_DISTRIBUTED__COMM__TLS__{role}__CERT": str(folder / "certificate.pem") for role in roles},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a certificate where there is none."""
    parser = argparse.ArgumentParser(description="Write a certificate for Dask, unless there is one.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    if not (folder / "certificate.pem").exists():
        write_certificate(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
