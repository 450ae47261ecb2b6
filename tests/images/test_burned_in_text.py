"""Text in the pixels is found, and what it says goes nowhere."""

import importlib
import logging
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from hip_mri.errors import SettingsError
from hip_mri.images import burned_in_text
from hip_mri.images.burned_in_text import TextBox, find_text
from hip_mri.synthetic.demo import draw_demo

SECRET = "MUELLER ANNA"


@pytest.fixture(autouse=True)
def _load_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burned_in_text, "_of_this_thread", SimpleNamespace())


def answer(monkeypatch: pytest.MonkeyPatch, *places: tuple[list[list[float]], str, float]) -> None:
    """Let the networks answer this."""
    boxes, texts, scores = zip(*places, strict=True) if places else (None, None, None)
    result = SimpleNamespace(boxes=boxes and np.array(boxes), txts=texts, scores=scores)
    monkeypatch.setattr(burned_in_text, "_load_reader", lambda: lambda image: result)


IMAGE = np.zeros((736, 800), np.uint8)
"""Not enlarged."""
SQUARE = [[10.0, 20.0], [50.0, 20.0], [50.0, 32.0], [10.0, 32.0]]


@pytest.mark.parametrize(
    ("text", "confidence", "is_found"),
    [
        (SECRET, 0.99, True),
        ("12.03.1958", 0.7, True),
        ("Öz", 0.8, True),
        (SECRET, 0.69, False),
        ("R", 0.99, False),
        ("R.", 0.99, False),
        ("--||..", 0.99, False),
        ("", 0.99, False),
    ],
)
def test_two_letters_or_digits_are_text(text: str, confidence: float, is_found: bool, monkeypatch) -> None:
    answer(monkeypatch, (SQUARE, text, confidence))
    assert find_text(IMAGE) == ([TextBox(10, 20, 40, 12, confidence)] if is_found else [])


def test_an_image_without_a_place_has_no_text(monkeypatch) -> None:
    answer(monkeypatch)
    assert find_text(IMAGE) == []


def test_a_slanted_place_becomes_the_rectangle_around_it_within_the_image(monkeypatch) -> None:
    answer(monkeypatch, ([[-3.5, 726.2], [20.1, 716.7], [24.0, 740.0], [0.0, 746.0]], SECRET, 0.9))
    assert find_text(IMAGE) == [TextBox(0, 716, 24, 20, 0.9)]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((368, 400), TextBox(5, 10, 20, 6, 0.9)),
        ((4000, 3000), TextBox(20, 40, 80, 24, 0.9)),
        ((2, 2000), TextBox(10, 2, 40, 0, 0.9)),
    ],
    ids=["enlarged", "reduced", "a line"],
)
def test_places_are_those_of_the_image_as_it_was_given(shape, expected: TextBox, monkeypatch) -> None:
    answer(monkeypatch, (SQUARE, SECRET, 0.9))
    assert find_text(np.zeros(shape, np.uint8)) == [expected]


def test_what_the_text_says_is_neither_returned_nor_logged(monkeypatch, caplog, capfd) -> None:
    answer(monkeypatch, (SQUARE, SECRET, 0.9))
    with caplog.at_level(logging.DEBUG):
        found = find_text(IMAGE)
    assert len(found) == 1
    assert SECRET not in repr(found) + caplog.text + "".join(capfd.readouterr())


def test_places_whose_text_was_not_read_are_not_taken_for_none(monkeypatch) -> None:
    """RapidOCR catches some of its own errors and returns what it has by then."""
    unread = SimpleNamespace(boxes=np.array([SQUARE]), txts=(), scores=())
    monkeypatch.setattr(burned_in_text, "_load_reader", lambda: lambda image: unread)
    with pytest.raises(ValueError, match="shorter"):
        find_text(IMAGE)


@pytest.mark.parametrize("levels", [np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9)), np.zeros((0, 9), np.uint8)])
def test_only_gray_levels_are_taken(levels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^levels: .*uint8"):
        find_text(levels)


@pytest.mark.parametrize("missing", ["rapidocr", "omegaconf", "pyclipper"])
def test_a_missing_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(SettingsError, match=rf"{missing}.*pip install -e '\.\[ocr\]'"):
        find_text(IMAGE)


def test_other_missing_modules_do_not_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError("No module named 'openvino'", name="openvino")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match="openvino"):
        find_text(IMAGE)


# With the real networks


@pytest.fixture
def _networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra, and no connection to anywhere."""
    pytest.importorskip("rapidocr", reason="the extra ocr is not installed")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it asked the network"))


def draw_phantoms(num_patients: int) -> list[np.ndarray]:
    return [image.pixels for image in draw_demo(5, num_patients)]


def write(image: np.ndarray, text: str, place: tuple[int, int] = (8, 20)) -> np.ndarray:
    return np.asarray(cv2.putText(image.copy(), text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1, cv2.LINE_AA))


@pytest.mark.usefixtures("_networks")
@pytest.mark.parametrize("text", ["MUELLER^ANNA", "12.03.1958", "ID 482913"])
def test_a_name_a_date_and_an_id_are_found_where_they_stand(text: str, capfd) -> None:
    (phantom, *_) = draw_phantoms(5)
    found = find_text(write(phantom, text))
    assert found
    assert all(box.top < 20 and box.left < 8 + 12 * len(text) and box.confidence >= 0.7 for box in found)
    assert text not in "".join(capfd.readouterr())
    assert sys.modules["openvino_telemetry"] is None  # it would report to a server


@pytest.mark.usefixtures("_networks")
def test_anatomy_and_a_letter_for_the_side_are_no_text() -> None:
    phantoms = draw_phantoms(6)
    assert [find_text(image) for image in phantoms] == [[]] * len(phantoms)
    assert find_text(write(phantoms[0], "R")) == []


@pytest.mark.usefixtures("_networks")
@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (3, 900), (900, 3), (37, 53), (2300, 90)])
def test_images_of_any_shape_are_taken(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    for levels in (np.zeros(shape, np.uint8), generator.integers(0, 256, shape, dtype=np.uint8)):
        assert all(0 <= box.left <= box.left + box.width <= shape[1] for box in find_text(levels))


@pytest.mark.usefixtures("_networks")
def test_threads_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # each thread has networks of its own
    (phantom, *_) = draw_phantoms(5)
    images = [write(phantom, text) for text in ("MUELLER^ANNA", "12.03.1958")]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(find_text, images * 2))
    assert found == [find_text(image) for image in images] * 2
