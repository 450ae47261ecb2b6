"""Fixtures that drive pages in the system's Chromium; tests that need it are skipped where there is none."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Names under which systems install it. Playwright's own browsers are downloads that not every machine can make."""

_UNNAMED = re.compile(r"\s*- (button|checkbox|combobox|link|radio|searchbox|slider|spinbutton|textbox)(?! [\"/])")
"""Line of a control without a name in Playwright's snapshot of what screen readers are given."""


@dataclass
class BrowserPage:
    """A page in a browser, with what must not happen in it.

    Attributes:
        page: Playwright's page.
        errors: Errors that the page wrote to the console or raised.
        requests: Addresses that the page asked for, other than `data:` and `blob:`.
    """

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def list_unnamed_controls(self) -> list[str]:
        """Lines of the visible controls that a screen reader cannot name."""
        return [line for line in self.page.locator("body").aria_snapshot().split("\n") if _UNNAMED.match(line)]


def find_chromium() -> str | None:
    """The program of the system's Chromium; `None` if there is none."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for the tests of a module; while it is open, no other event loop can run in the process."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if (program := find_chromium()) is None:
        pytest.skip(f"no Chromium: none of {', '.join(PROGRAMS)} is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens a file or an address in a browser profile of its own, of a given width; returns a `BrowserPage`."""
    contexts = []

    def open_page(address: Path | str, width: int = 1280) -> BrowserPage:
        context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True)
        context.set_default_timeout(20_000)  # milliseconds; machines that test are busy
        contexts.append(context)
        opened = BrowserPage(context.new_page())
        opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.page.on("console", lambda said: said.type == "error" and opened.errors.append(said.text))
        opened.page.on("request", lambda request: _note(opened, request.url))
        opened.page.goto(address.as_uri() if isinstance(address, Path) else address)
        return opened

    yield open_page
    for context in contexts:
        context.close()


def _note(opened: BrowserPage, address: str) -> None:
    if not address.startswith(("data:", "blob:")):
        opened.requests.append(address)
