"""Creates a TLS certificate for Dask: `python -m deployments.dask_certificate FOLDER`.

Dask has no passwords: without TLS, everybody who can connect to its scheduler can run code as its user. With TLS, the
scheduler and the workers reject connections without this certificate. It is valid for a year.
"""

import sys
from pathlib import Path

from distributed.security import Security

from hip_mri.storage import write_bytes


def write_certificate(folder: Path, *, keep: bool = False) -> None:
    """Write `authority.pem`, and `certificate.pem` with its private key.

    Args:
        folder: Receives the files.
        keep: Whether existing files are kept; by default they are replaced.
    """
    if keep and (folder / "certificate.pem").exists():
        return
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


if __name__ == "__main__":
    write_certificate(Path(sys.argv[1]), keep=True)
