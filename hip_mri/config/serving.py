"""Settings of the web service that scores images."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from hip_mri.addresses import LocalName, LocalPath
from hip_mri.config.base import Settings
from hip_mri.config.data import ImageSettings
from hip_mri.config.training import Engine, Precision


def _check_reference(reference: str) -> str:
    if not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+", reference):
        raise ValueError("give env:NAME or file:PATH, where the token is read; the token itself is not a setting")
    return reference


TokenReference = Annotated[str, AfterValidator(_check_reference)]
"""Where a token is read, never the token itself."""


class ServiceLimits(Settings):
    """Limits of the web service, against overload and malicious clients."""

    max_request_bytes: int = Field(default=2**26, ge=2**10, le=2**31)
    """Maximum size of one request, in bytes. The default is 64 MiB."""

    max_images: int = Field(default=64, ge=1, le=4096)
    """Maximum number of images in one request: the number of its files, and the number of slices of them together."""

    max_requests: int = Field(default=16, ge=1, le=256)
    """Maximum number of requests that are received or scored at the same time. A further one is answered with status
    503 and Retry-After."""

    upload_timeout_seconds: float = Field(default=30, gt=0, le=3600)
    """Maximum time for the upload of one request."""

    decoding_timeout_seconds: float = Field(default=20, gt=0, le=60)
    """Time after which a decoder that does not respond is ended and replaced. A file is tried twice."""


class ServeConfig(Settings):
    """Settings of the command `hip-mri serve`."""

    workspace: LocalPath = Path("workspace")
    """Folder of the pipeline, where versions are read and the prepared network is stored."""

    model: LocalName = Field(default="champion", min_length=1)
    """Model that scores: `champion`, the number of a version such as `0003`, or the folder of a run or of a version. It
    is loaded once: a later champion serves after a restart."""

    engine: Literal["auto", Engine] = "auto"
    """Inference engine: `keras` on any device, `openvino` on the CPU. `auto` selects Keras if there is a GPU, else
    OpenVINO."""

    precision: Literal["auto", Precision] = "auto"
    """Floating-point format. `auto` selects the format in which the model was evaluated if this machine supports it in
    hardware."""

    host: str = "127.0.0.1"
    """Address on which the service listens: an address of this machine, such as `0.0.0.0` for all of them. Others than
    loopback addresses need a token."""

    port: int = Field(default=8300, ge=0, le=65535)
    """Port on which the service listens; 0 selects a free one."""

    token: TokenReference | None = None
    """Where the token is read that requests must contain: `env:NAME` for an environment variable, `file:PATH` for a
    file. At least 16 characters."""

    data: ImageSettings = ImageSettings()
    service: ServiceLimits = ServiceLimits()

    @model_validator(mode="after")
    def _check_host(self) -> Self:
        if not self.is_loopback and self.token is None:
            raise ValueError(
                f"host is {self.host}, which other machines can reach, and there is no token; give token env:NAME or "
                "file:PATH, or host 127.0.0.1"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name, which can stand for any address
            return False
