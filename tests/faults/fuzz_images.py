"""Randomly damaged images of every kind: the calling process survives, and every rejection has a known reason.

python -m tests.faults.fuzz_images --minutes 10
"""

import argparse
import random
import re
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

from hip_mri.errors import ImageError
from hip_mri.images import reading
from hip_mri.images.sandbox import Sandbox
from tests.faults.clean_images import make_images

REASONS = set(re.findall(r"^    (\w+)  +\S", reading.__doc__ or "", re.MULTILINE))
TELLING_NUMBERS = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 32_767, 32_768, 65_535, 2**31 - 1, 2**31, 2**32 - 1)
READ_ALONE = (
    "import sys; from hip_mri.images.sandbox_worker import limit_resources; "
    "from hip_mri.images.reading import read_pictures; "
    "from hip_mri.errors import ImageError; limit_resources(); content = sys.stdin.buffer.read()\n"
    "try: read_pictures(content)\n"
    "except (ImageError, MemoryError): pass"
)
"""What the decoder does with one file, without its socket and with its standard error."""

SEEDS = [content for _, content in make_images(60)]


def mutate(content: bytes, chance: random.Random) -> bytes:
    """Change a file in one to eight places, mostly where its structure is."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        reach = min(len(changed), chance.choice([64, 256, 2048, len(changed)]))
        if not reach:
            break
        place, way = chance.randrange(reach), chance.randrange(7)
        if way == 0:
            changed[place] ^= 1 << chance.randrange(8)
        elif way == 1:
            changed[place] = chance.randrange(256)
        elif way == 2:
            form = chance.choice(["<I", ">I", "<H", ">H"])
            number = chance.choice(TELLING_NUMBERS) % 2 ** (8 * struct.calcsize(form))
            changed[place : place + struct.calcsize(form)] = struct.pack(form, number)
        elif way == 3:
            del changed[place : place + chance.randint(1, 40)]
        elif way == 4:
            changed[place:place] = chance.randbytes(chance.randint(1, 40))
        elif way == 5:
            other = chance.choice(SEEDS)
            start = chance.randrange(len(other))
            changed[place:place] = other[start : start + chance.randint(1, 200)]
        else:
            del changed[place + chance.randrange(len(changed)) :]
    return repair_checksums(bytes(changed)) if chance.random() < 0.8 else bytes(changed)


def repair_checksums(content: bytes) -> bytes:
    """Give a PNG file right checksums as far as its chunks can be followed, so that the damage gets farther."""
    repaired, start = bytearray(content), 8
    while content.startswith(b"\x89PNG") and start + 12 <= len(content):
        end = start + 12 + struct.unpack_from(">I", content, start)[0]
        if end > len(content):
            break
        struct.pack_into(">I", repaired, end - 4, zlib.crc32(repaired[start + 4 : end - 4]))
        start = end
    return bytes(repaired)


def try_image(reader: Sandbox, content: bytes) -> str:
    """The reason why it is refused, or `read`; whatever is not an `ImageError` of a known reason is raised.

    `decoder_crashed` is a known reason where native code died, which the processes are there for. An exception that
    the readers themselves do not catch ends a decoder process just as well, and is a defect.
    """
    try:
        pictures = reader.read(content)
    except ImageError as error:
        if error.reason not in REASONS or not str(error):
            raise AssertionError(f"unknown reason {error.reason!r}, or no message") from error
        if error.reason == "decoder_crashed":
            see_native_death(content)
        return error.reason
    assert all(picture.levels.ndim == 2 for picture in pictures)
    return "read"


def see_native_death(content: bytes, program: str = READ_ALONE) -> None:
    """Read a file that the decoder died of in a process of its own: a signal must end that, and no exception."""
    alone = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, check=False, timeout=60)
    if alone.returncode >= 0:
        stderr = alone.stderr.decode(errors="replace")
        raise AssertionError(f"the decoder died, and not of native code: {stderr or 'alone, the file is read'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for files that crash or hang the decoder")
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    chance, end = random.Random(arguments.seed), time.monotonic() + 60 * arguments.minutes
    with Sandbox(timeout_seconds=20) as reader:
        while time.monotonic() < end:
            content = mutate(chance.choice(SEEDS), chance)
            reason = try_image(reader, content)
            counts[reason] += 1
            if arguments.keep and reason in ("decoder_crashed", "decoder_hung", "out_of_memory"):
                arguments.keep.mkdir(parents=True, exist_ok=True)
                (arguments.keep / f"{reason}-{counts[reason]}").write_bytes(content)
    print(f"{counts.total()} broken images: {dict(counts.most_common())}")
