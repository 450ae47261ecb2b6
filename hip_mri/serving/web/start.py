"""Starts the web service: reads the token, opens the port, loads the model, and answers requests."""

import logging
import os
from collections.abc import Callable
from contextlib import closing
from typing import Final

from hip_mri.config import ServeConfig
from hip_mri.serving.loaded_model import load_model
from hip_mri.serving.web.access import read_token
from hip_mri.serving.web.app import make_app
from hip_mri.serving.web.server import make_server, open_socket
from hip_mri.serving.web.service import ScoringService

logger = logging.getLogger(__name__)

NUM_CORES: Final = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_service(config: ServeConfig, on_ready: Callable[[str], None]) -> None:
    """Serve one model until a signal arrives.

    Args:
        config: Every setting.
        on_ready: Called with the address when requests are answered.

    Raises:
        HipMriError: The token, the address or the model cannot be used. Nothing is served.
    """
    token = read_token(config.token)
    with closing(open_socket(config.host, config.port)) as listener:
        model = load_model(config.workspace, config.model, config.engine, config.precision)
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        with ScoringService(model, config.data, config.service, NUM_CORES) as service:
            app = make_app(service, token, only_loopback=config.is_loopback)
            logger.info("%s is ready. Stop with Ctrl-C", model.scorer.model.name)
            make_server(app, lambda: on_ready(address)).run(sockets=[listener])
