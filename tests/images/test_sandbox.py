"""Decoders that crash, hang or take all memory, for real, each over one image of many."""

import contextlib
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hip_mri.errors import DeploymentError, ImageError
from hip_mri.images import sandbox as sandbox_module
from hip_mri.images.decoding_results import ReadingOptions
from hip_mri.images.sandbox import Sandbox
from hip_mri.images.stored_png import decode_png, hash_pixels
from tests.images.image_files import decode_gray, draw_noise, encode_image, write_crashing_png

STAND_IN = """
import os, signal, socket, sys, time
from pathlib import Path
from hip_mri.images.sandbox_worker import limit_resources, serve
from hip_mri.images.reading import read_pictures

def read(content):
    if content.startswith(b"crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if content.startswith(b"hang"):
        time.sleep(600)
    if content.startswith(b"spin"):
        while True:
            pass
    if content.startswith(b"memory"):
        return bytearray(2**40)
    if content.startswith(b"bug"):
        raise RuntimeError("a bug")
    if content.startswith(b"chatter"):
        os.write(0, bytes(range(200, 255)) * 10)
    if content.startswith(b"once "):
        marker = Path(content[5:].decode())
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        content = marker.with_suffix(".png").read_bytes()
    return read_pictures(content)

limit_resources()
serve(socket.socket(fileno=0), read)
"""
COMMAND = (sys.executable, "-c", STAND_IN)


@pytest.fixture(scope="module")
def reader():
    with Sandbox(timeout_seconds=1.0, command=COMMAND) as reader:
        yield reader


@pytest.fixture
def content(draw, encode) -> bytes:
    return encode(draw(1))


def is_read(reader: Sandbox, content: bytes, expected: bytes | None = None) -> bool:
    (picture,) = reader.encode(content)
    return bool(np.array_equal(decode_png(picture.content), decode_gray(expected or content)))


def find_reason(reader: Sandbox, content: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        reader.encode(content)
    assert str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(
    ("behavior", "reason"),
    [
        ("crash", "decoder_crashed"),
        ("hang", "decoder_hung"),
        ("spin", "decoder_hung"),
        ("memory", "out_of_memory"),
        ("bug", "decoder_crashed"),
        ("chatter", "decoder_crashed"),
    ],
)
def test_fault_51_a_decoder_that_breaks_costs_one_image(behavior, reason, reader, content):
    assert find_reason(reader, behavior.encode()) == reason
    assert is_read(reader, content)


UNCHECKED = """
import socket, cv2, numpy as np
from hip_mri.images.sandbox_worker import limit_resources, serve
from hip_mri.images.decoding_results import Picture
from hip_mri.errors import ImageError

def read(content):
    levels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if levels is None:
        raise ImageError("undecodable", "OpenCV survived it")
    return [Picture(levels)]

limit_resources()
serve(socket.socket(fileno=0), read)
"""


def test_fault_51_an_animation_that_kills_opencv_costs_one_image(content):
    """With nothing that looks at its structure first. Later versions of OpenCV may survive it."""
    with Sandbox(command=(sys.executable, "-c", UNCHECKED)) as reader:
        assert find_reason(reader, write_crashing_png()) in ("decoder_crashed", "undecodable")
        assert is_read(reader, content)


def test_a_death_that_is_not_the_images_fault_is_tried_again(reader, content, tmp_path):
    (tmp_path / "marker.png").write_bytes(content)
    assert is_read(reader, b"once " + str(tmp_path / "marker").encode(), content)
    assert (tmp_path / "marker").exists()


def test_what_is_read_is_what_the_process_itself_would_read(draw, encode):
    files = [encode(draw(1)), encode(draw(2), "TIFF"), encode(draw(3), "JPEG"), encode(np.dstack([draw(4)] * 3), "BMP")]
    with Sandbox() as reader:
        for content in files:
            expected = decode_gray(content)
            (read,), (encoded,) = reader.read(content), reader.encode(content)
            np.testing.assert_array_equal(read.levels, expected)
            np.testing.assert_array_equal(decode_png(encoded.content), expected)
            assert encoded.sha256 == hash_pixels(expected)
        with pytest.raises(ImageError, match="none of PNG") as caught:
            reader.read(b"no image")
        assert caught.value.reason == "not_an_image"
        assert find_reason(reader, b"") == "empty_file"


def test_several_pictures_and_what_is_said_of_them_travel():
    pages = [Image.fromarray(draw_noise(seed, 24 + seed, 20)) for seed in (1, 2)] + [Image.new("L", (20, 24), 7)]
    content = encode_image(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    with Sandbox() as reader:
        read, encoded = reader.read(content), reader.encode(content)
    assert [(it.slice, it.num_slices, it.reason) for it in read] == [(0, 3, ""), (1, 3, ""), (2, 3, "blank")]
    for page, one, other in zip(pages, read, encoded, strict=True):
        np.testing.assert_array_equal(one.levels, np.asarray(page))
        np.testing.assert_array_equal(decode_png(other.content), np.asarray(page))
        assert (one.slice, one.reason) == (other.slice, other.reason)


def test_settings_reach_the_process():
    pages = [Image.fromarray(draw_noise(seed)) for seed in range(5)]
    content = encode_image(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    with Sandbox(ReadingOptions(slices="middle")) as reader:
        assert [it.slice for it in reader.read(content)] == [2]
    with Sandbox(ReadingOptions(max_slices=4)) as reader:
        assert find_reason(reader, content) == "too_many_slices"


def test_a_file_of_several_megabytes_travels(draw, encode):
    with Sandbox() as reader:
        content = encode(draw(1, 2000, 1500), "BMP")
        np.testing.assert_array_equal(reader.read(content)[0].levels, decode_gray(content))


def test_threads_share_a_reader_and_the_culprits_are_found(reader, draw, encode):
    good = [encode(draw(seed)) for seed in range(40)]
    mixed = [content for number, one in enumerate(good) for content in ([one, b"crash"] if number % 10 == 0 else [one])]

    def take(content: bytes) -> str:
        try:
            return reader.encode(content)[0].sha256
        except ImageError as error:
            return error.reason

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(take, mixed))
    expected = [hash_pixels(decode_gray(content)) if content != b"crash" else "decoder_crashed" for content in mixed]
    assert taken == expected


def test_processes_are_few_and_end_with_the_reader(content, monkeypatch):
    started = []
    popen = sandbox_module.subprocess.Popen
    monkeypatch.setattr(
        sandbox_module.subprocess,
        "Popen",
        lambda *arguments, **options: started.append(popen(*arguments, **options)) or started[-1],
    )
    with Sandbox() as reader:
        assert not started  # a run that reads nothing new starts nothing
        for _ in range(5):
            reader.encode(content)
        assert len(started) == 1
        assert started[0].poll() is None
    assert started[0].poll() is not None


def test_a_decoder_ends_when_the_run_is_killed(content, tmp_path):
    """Its connection closes with the process that asks, however that ends."""
    (tmp_path / "image.png").write_bytes(content)
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom hip_mri.images.sandbox import Sandbox\n"
        "reader = Sandbox()\nreader.encode(Path(sys.argv[1]).read_bytes())\n"
        "print(reader._idle.queue[0]._process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    finished = sandbox_module.subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "image.png")], capture_output=True, text=True, check=False
    )
    assert is_gone_soon(int(finished.stdout))


def is_gone_soon(pid: int) -> bool:
    """Whether a process ends within ten seconds; one that nobody has asked for its end counts as gone."""
    for _ in range(200):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
                time.sleep(0.05)
                continue
        return True
    return False


ORPHAN = """
import os, signal, sys, threading, time
from pathlib import Path
from hip_mri.images.sandbox import Sandbox
signal.signal(signal.SIGALRM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
marker = Path(sys.argv[1])
reader = Sandbox(command=(sys.executable, "-c", sys.argv[2]))
threading.Thread(target=reader.encode, args=(sys.argv[3].encode(),), daemon=True).start()
while not marker.exists():
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("behavior", ["hang", "spin"])
def test_fault_54_a_decoder_that_hangs_ends_when_the_run_is_killed(behavior, tmp_path):
    """It does not see that its connection is closed. The process that asks ignores and blocks its alarm, in vain."""
    marker = tmp_path / "pid"
    hanging = f"""
def announce(content):
    with open({str(marker) + ".new"!r}, "w") as file:
        file.write(str(os.getpid()))
    os.replace({str(marker) + ".new"!r}, {str(marker)!r})
    return read(content)

limit_resources()
serve(socket.socket(fileno=0), announce, max_seconds=1.5)
"""
    decoder = STAND_IN.replace("\nlimit_resources()\nserve(socket.socket(fileno=0), read)\n", hanging)
    command = [sys.executable, "-c", ORPHAN, str(marker), decoder, behavior]
    assert sandbox_module.subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    assert is_gone_soon(int(marker.read_text()))


def test_fault_51_the_alarm_is_for_one_image_alone(content):
    """Many images may take longer together, and so may the wait between two."""
    unhurried = STAND_IN.replace("read)\n", "read, max_seconds=1.0)\n")
    with Sandbox(command=(sys.executable, "-c", unhurried)) as reader:
        for _ in range(3):
            assert is_read(reader, content)
            time.sleep(0.6)
        process = reader._idle.queue[0]._process
        assert process is not None
        assert process.poll() is None


def test_passwords_do_not_reach_the_decoder(content, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    spy = f"import os; open({str(tmp_path / 'seen')!r}, 'w').write(repr(dict(os.environ)))\n" + STAND_IN
    with Sandbox(command=(sys.executable, "-c", spy)) as reader:
        reader.encode(content)
    assert "secret" not in (tmp_path / "seen").read_text()


def test_a_decoder_that_does_not_start_stops_the_run(content):
    with (
        pytest.raises(DeploymentError, match="does not start"),
        Sandbox(command=(sys.executable, "-c", "raise SystemExit(3)")) as reader,
    ):
        reader.encode(content)
    with pytest.raises(DeploymentError, match="No such file"), Sandbox(command=("/nowhere/python",)) as reader:
        reader.encode(content)


def test_nothing_is_left_open(content):
    num_open = len(list(Path("/proc/self/fd").iterdir()))
    num_threads = threading.active_count()
    with Sandbox(timeout_seconds=1.0, command=COMMAND) as reader:
        find_reason(reader, b"crash")
        reader.encode(content)
    assert len(list(Path("/proc/self/fd").iterdir())) == num_open
    assert threading.active_count() == num_threads
