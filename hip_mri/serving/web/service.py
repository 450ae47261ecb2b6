"""Decodes and scores the images of requests, in threads and with bounds.

Files are decoded in the sandbox by a pool of threads. One thread scores: it takes all images that wait, whatever the
request, and computes them together, so that all cores are used. A request that finds too many others is refused.
"""

import asyncio
import base64
import contextlib
import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from hip_mri.config import ImageSettings, ServiceLimits
from hip_mri.dataset.entries import make_reading_options
from hip_mri.errors import EvaluationError, ImageError
from hip_mri.images.decoding_results import SliceFacts
from hip_mri.images.sandbox import NUM_THREADS_PER_CORE, Sandbox
from hip_mri.serving.loaded_model import LoadedModel, PreparedImage
from hip_mri.serving.prediction_sheet import encode_overlay, encode_thumbnail
from hip_mri.serving.web.errors import RequestError

logger = logging.getLogger(__name__)

MAX_BATCH: Final = 16
"""Images that are computed together; a request that arrives meanwhile waits for them."""

RETRY_LATER: Final = {"Retry-After": "1"}
"""Header for clients that were refused, in seconds."""


@dataclass(frozen=True)
class Wanted:
    """What a request wants beside scores.

    Attributes:
        pictures: Whether the preprocessed image is wanted.
        heat_maps: Whether the image with its heat map is wanted.
    """

    pictures: bool = False
    heat_maps: bool = False


Scored = tuple[dict[str, Any], NDArray[np.float32] | None]
"""Fields of `Scorer.score`, and the heat map where it was wanted."""


@dataclass(frozen=True)
class _Job:
    image: PreparedImage
    wants_heat: bool
    done: "Future[Scored]"


class ScoringService:
    """Scores files with one model. A context manager, in which the threads run.

    Args:
        model: The model.
        settings: How image files are read.
        limits: Limits of the service.
        num_cores: Processor cores to use for decoding.

    Attributes:
        model: The model.
        limits: Limits of the service.
        num_active: Requests that are received or scored now.
    """

    def __init__(self, model: LoadedModel, settings: ImageSettings, limits: ServiceLimits, num_cores: int) -> None:
        self.model, self.limits = model, limits
        self.num_active = 0
        options = make_reading_options(settings)
        options = replace(options, max_slices=min(options.max_slices, limits.max_images))
        self._sandbox = Sandbox(options, limits.decoding_timeout_seconds)
        self._num_threads = num_cores * NUM_THREADS_PER_CORE
        self._decoders = ThreadPoolExecutor(self._num_threads, thread_name_prefix="decoder")
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._scoring = threading.Thread(target=self._score_jobs, name="scoring", daemon=True)

    def __enter__(self) -> Self:
        cv2.setNumThreads(1)  # images are preprocessed in parallel already
        self._scoring.start()
        list(self._decoders.map(self._decode, [b""] * self._num_threads))  # starts the processes
        return self

    def __exit__(self, *exception: object) -> None:
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._jobs.put(None)
        self._scoring.join(timeout=1)  # a batch takes less
        self._sandbox.__exit__()

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Count a request while it is received and scored.

        Raises:
            RequestError: There are too many others.
        """
        if self.num_active >= self.limits.max_requests:
            message = f"The service is busy with {self.num_active} requests. Send the request again later."
            raise RequestError(503, "busy", message, RETRY_LATER)
        self.num_active += 1
        try:
            yield
        finally:
            self.num_active -= 1

    async def score_files(self, files: Sequence[bytes], wanted: Wanted) -> list[dict[str, Any]]:
        """Decode and score files.

        Returns:
            One entry for each image, in the order of the files and their slices; see `schemas.ImageResult`.

        Raises:
            RequestError: The files contain too many images.
            DeploymentError: No decoder process starts.
        """
        decoded = await asyncio.gather(*(self._run(self._decode, file) for file in files))
        num_images = sum(map(len, decoded))
        if num_images > self.limits.max_images:
            message = (
                f"The files contain {num_images} images, above {self.limits.max_images} (service.max_images). Send "
                "fewer files, or start the service with --data.slices middle or every:N."
            )
            raise RequestError(413, "too_many_images", message)
        images = [(number, *image) for number, images in enumerate(decoded) for image in images]
        return await asyncio.gather(*(self._score(number, facts, image, wanted) for number, facts, image in images))

    async def _run(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, *arguments)

    def _decode(self, content: bytes) -> list[tuple[dict[str, Any], PreparedImage | None]]:
        """Decode and preprocess the images of a file; without an image, the facts hold the reason."""
        try:
            pictures = self._sandbox.read(content)
        except ImageError as error:
            return [(_describe(SliceFacts(reason=error.reason), str(error)), None)]
        return [(_describe(it), None if it.reason else self.model.prepare(it)) for it in pictures]

    async def _score(
        self, number: int, facts: dict[str, Any], image: PreparedImage | None, wanted: Wanted
    ) -> dict[str, Any]:
        """Score one image of the file with this number."""
        result = {"file": number} | facts
        if image is None:
            return result | {"state": "unreadable"}
        job = _Job(image, wanted.heat_maps and self.model.explains, Future())
        self._jobs.put(job)
        scores, heat = await asyncio.wrap_future(job.done)
        pictures = await self._run(_draw, image, heat, wanted)
        return result | {"state": "scored", "image_id": image.sha256[:16], "sha256": image.sha256} | scores | pictures

    def _score_jobs(self) -> None:
        """Score the images that wait until `None` is among them."""
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            with contextlib.suppress(queue.Empty):
                while len(jobs) < MAX_BATCH and (job := self._jobs.get_nowait()) is not None:
                    jobs.append(job)
            self._score_batch([it for it in jobs if it.done.set_running_or_notify_cancel()])
            if job is None:
                return

    def _score_batch(self, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        try:
            results = self._compute([job.image for job in jobs], [job.wants_heat for job in jobs])
        except Exception as error:
            if len(jobs) > 1 and isinstance(error, EvaluationError):  # of one image, which must not affect the others
                for job in jobs:
                    self._score_batch([job])
                return
            for job in jobs:
                job.done.set_exception(error)
            return
        for job, result in zip(jobs, results, strict=True):
            job.done.set_result(result)

    def _compute(self, images: list[PreparedImage], wants_heat: list[bool]) -> list[Scored]:
        views = self.model.compute(images)
        scores = self.model.score(images, views)
        explained = np.flatnonzero(wants_heat)
        heats = (
            self.model.explain([images[row] for row in explained], views.select(explained)) if len(explained) else ()
        )
        by_row = dict(zip(explained.tolist(), heats, strict=True))
        return [(score, by_row.get(row)) for row, score in enumerate(scores)]


def _describe(facts: SliceFacts, message: str = "") -> dict[str, Any]:
    """Select the fields of a result; others can identify patients."""
    return {"slice": facts.slice, "num_slices": facts.num_slices, "reason": facts.reason, "message": message}


def _draw(image: PreparedImage, heat: NDArray[np.float32] | None, wanted: Wanted) -> dict[str, str | None]:
    return {
        "picture": _encode_uri(encode_thumbnail(image.levels)) if wanted.pictures else None,
        "heat_map": None if heat is None else _encode_uri(encode_overlay(image.levels, heat)),
    }


def _encode_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
