"""The page in a browser: an image is dropped, its score is read, the table is downloaded; and slow connections end."""

import base64
import csv
import io
import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from hip_mri.serving.predictions import SCORE_COLUMNS
from hip_mri.serving.web import server as server_module
from hip_mri.serving.web.app import make_app
from hip_mri.serving.web.server import make_server, open_socket
from tests.serving.web.test_access import TOKEN

DROP = """([content, name]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
}"""


@contextmanager
def run_server(app) -> Iterator[str]:
    """Serve an application from a thread; yields its address."""
    ready = threading.Event()
    with closing(open_socket("127.0.0.1", 0)) as listener:
        server = make_server(app, ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert ready.wait(30)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def address(app) -> Iterator[str]:
    with run_server(app) as address:
        yield address


@pytest.fixture(scope="module")
def image(draw, encode) -> bytes:
    return encode(draw(5, 40, 40))


def drop(page, content: bytes, name: str) -> None:
    page.evaluate(DROP, [base64.b64encode(content).decode(), name])


def ask(address: str, content: bytes) -> dict:
    """The result of one image by `POST /predict`, sent without a browser."""
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="x"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request(f"{address}predict", head + content + b"\r\n--x--\r\n", headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)["images"][0]


@pytest.mark.parametrize("width", [1280, 390])
def test_a_dropped_image_is_scored_and_the_table_is_downloaded(open_page, address, image, scorer, width):
    opened = open_page(address, width)
    page = opened.page
    drop(page, image, '=HYPERLINK("x"), Schmidt.png')
    page.locator("#files").set_input_files([{"name": "text.png", "mimeType": "image/png", "buffer": b"no image"}])
    page.get_by_text("2 of 2 files are done.").wait_for(timeout=30_000)
    expected = ask(address, image)

    scored, refused = page.locator("#table tbody tr").all()
    if "Schmidt" not in scored.inner_text():
        scored, refused = refused, scored
    assert scored.locator(".score").inner_text() == f"{expected['score']:.3f}"
    assert scored.locator(".call").inner_text() == expected["label"].replace("_", " ")
    assert scored.locator(".badge.uncertain").count() == (expected["decision"] == "uncertain")
    assert scored.locator(".badge.outside").count() == expected["is_outside"]
    pictures = scored.locator("img")
    assert pictures.count() == 2
    assert all(it.evaluate("it => it.naturalWidth") > 100 for it in pictures.all())
    assert "not_an_image" in refused.inner_text()

    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    (row,) = [row for row in rows if row["state"] == "scored"]
    assert set(SCORE_COLUMNS) - {"examination"} <= set(row)  # which a single image does not show
    assert row["file_name"] == '\'=HYPERLINK("x"), Schmidt.png'  # no formula
    assert float(row["score"]) == pytest.approx(expected["score"], abs=1e-6)
    assert row["model_sha256"] == scorer.model.network.sha256
    assert {row["reason"] for row in rows} == {"", "not_an_image"}

    assert ["422" in error for error in opened.errors] == [True]  # of the file that is no image
    assert all(request.startswith(address) for request in opened.requests)
    assert opened.list_unnamed_controls() == []
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.get_by_role("button", name="Remove all").click()
    assert not page.locator("#session").is_visible()


def test_model_and_notices_are_shown(open_page, address, scorer):
    page = open_page(address).page
    page.get_by_title(scorer.model.network.sha256).wait_for()
    text = page.locator("body").inner_text()
    assert text.count("NOT FOR CLINICAL USE") == 1
    assert "SMALL, IN THE RUN THAT TRAINED THE MODEL: A notice." in text


def test_the_page_asks_for_the_token(open_page, service, image):
    with run_server(make_app(service, TOKEN, only_loopback=True)) as address:
        page = open_page(address).page
        drop(page, image, "image.png")
        page.get_by_text("Give the token of this service first.").wait_for()
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button", name="Use token").click()
        page.get_by_text("The token is not accepted.").wait_for()
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Use token").click()
        page.get_by_text("The token is accepted.").wait_for()
        drop(page, image, "image.png")
        page.locator("#table .score").wait_for(timeout=30_000)
        assert TOKEN not in page.content()
        page.close()  # else its open connection delays the end of the server


def test_the_interface_is_shown_without_errors(open_page, address):
    opened = open_page(f"{address}docs", 390)
    assert opened.page.get_by_role("heading", name="POST /predict").is_visible()
    assert opened.errors == []
    assert opened.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_connections_that_say_nothing_or_too_little_are_closed(app, monkeypatch):
    monkeypatch.setattr(server_module, "HEADER_TIMEOUT_SECONDS", 0.3)
    with run_server(app) as address:
        port = int(address.rstrip("/").rpartition(":")[2])
        for start in (b"", b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(start)
                with suppress(ConnectionResetError):
                    assert connection.recv(1) == b""
        monkeypatch.undo()
        with urllib.request.urlopen(f"{address}health", timeout=20) as response:
            assert json.load(response)["status"] == "ok"


def test_further_connections_are_closed_at_once(app, monkeypatch):
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 2)
    with run_server(app) as address:
        port = int(address.rstrip("/").rpartition(":")[2])
        held = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(3)]
        with suppress(ConnectionResetError):
            assert held[2].recv(1) == b""
        for connection in held:
            connection.close()
