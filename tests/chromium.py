"""A page in headless Chromium for the tests marked `browser`, and what went wrong in it.

In: a Chromium that is installed already; none is fetched. Out: the fixture `page`. It reaches this machine only: every
other name is made unknown to it, and what it asked for elsewhere is listed.
"""

import os
import shutil
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = (
    "--no-sandbox",  # root cannot have one
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
PATIENCE_MS = 60_000  # a busy machine is slow; Playwright's own 30 s and 5 s are too short


@dataclass
class Browsed:
    """A Playwright `page`; `errors`: what its console and its scripts complained of; `outside`: addresses asked for
    beyond this machine.
    """

    page: object
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.on("websocket", lambda socket: self._asked(socket.url))

    def shows(self, path) -> None:
        """A page that is a file opens wide and narrow with its pictures, without complaint and without the network."""
        for width in (1100, 390):
            self.page.set_viewport_size({"width": width, "height": 800})
            self.page.goto(path.as_uri())
            assert self.page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
            assert self.page.evaluate("[...document.images].every(image => image.clientWidth > 100)")
        assert self.errors == self.outside == []

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("file", "data", "blob", "about") and parts.hostname != "127.0.0.1":
            self.outside.append(url)


def find_chromium() -> str | None:
    """Path of the Chromium that `$CHROMIUM` names, else of the first known name on the PATH; None without one."""
    named = os.environ.get("CHROMIUM")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture
def page():
    """An empty page 1400 px wide in a Chromium of its own; without Chromium the test is skipped."""
    path = find_chromium()
    if path is None:
        pytest.skip(f"needs Chromium: neither $CHROMIUM nor one of {', '.join(NAMES)} on the PATH is a program")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=SWITCHES)
        shown = browser.new_page(viewport={"width": 1400, "height": 1000})
        shown.set_default_timeout(PATIENCE_MS)
        yield Browsed(shown)
        browser.close()
