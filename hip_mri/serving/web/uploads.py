"""Reads the files of a request into memory.

FastAPI's own reader writes files above 1 MB to the disk. This one keeps them in memory, counts their bytes while they
arrive, and discards their names, which can identify patients.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from hip_mri.serving.web.errors import RequestError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FORM: Final = b"multipart/form-data"


async def read_files(
    content_type: str, chunks: AsyncIterator[bytes], max_bytes: int, max_files: int, timeout_seconds: float
) -> list[bytes]:
    """Read the files of a form.

    Args:
        content_type: Header Content-Type of the request.
        chunks: Its body.
        max_bytes: Maximum size of the body.
        max_files: Maximum number of files.
        timeout_seconds: Maximum time until the body has arrived.

    Returns:
        Content of each part that has a file name, in order.

    Raises:
        RequestError: The request is no form with files, exceeds a limit or arrives too slowly.
    """
    kind, options = parse_options_header(content_type)
    if kind != FORM or not options.get(b"boundary"):
        raise RequestError(
            415, "not_a_form", "Send the images as multipart/form-data, such as by `curl -F images=@image.png`."
        )
    form = _Form(max_files)
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks)
        async with asyncio.timeout(timeout_seconds):
            await _feed(parser, chunks, max_bytes)
        parser.finalize()
    except TimeoutError as error:
        message = f"The request did not arrive within {timeout_seconds:g} seconds. Send fewer or smaller files."
        raise RequestError(408, "too_slow", message) from error
    except FormParserError as error:
        raise RequestError(400, "damaged_form", "The body is not a valid multipart form, or it ends early.") from error
    if not form.is_complete:
        raise RequestError(400, "damaged_form", "The multipart form ends early.")
    if not form.files:
        raise RequestError(
            400, "no_file", "The form contains no file. Give one or several fields `images` with a file."
        )
    return [bytes(file) for file in form.files]


async def _feed(parser: MultipartParser, chunks: AsyncIterator[bytes], max_bytes: int) -> None:
    num_bytes = 0
    async for chunk in chunks:
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            size = f"{max_bytes:,} bytes (service.max_request_bytes)"
            message = f"The request has more than {size}. Send fewer or smaller files."
            raise RequestError(413, "too_large", message)
        parser.write(chunk)


class _Form:
    """Collects the files of a form from the callbacks of the parser."""

    def __init__(self, max_files: int) -> None:
        self.files: list[bytearray] = []
        self.is_complete = False
        self._max_files = max_files
        self._field, self._value, self._is_file = bytearray(), bytearray(), False
        self.callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_field,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._is_file = False

    def _add_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._is_file = b"filename" in options or b"filename*" in options
        self._field, self._value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        if self._is_file:
            if len(self.files) == self._max_files:
                message = f"The request has more than {self._max_files:,} files (service.max_images)."
                raise RequestError(413, "too_many_files", message)
            self.files.append(bytearray())

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.files[-1] += data[start:end]

    def _end(self) -> None:
        self.is_complete = True
