"""A page in headless Chromium for the tests marked `browser`.

In: a Chromium that is installed already; none is fetched. Out: the fixture `page`. It reaches this machine only: every
other name is made unknown to it, and a test fails where its page asked for one, or complained of anything.
"""

import os
import shutil
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


@pytest.fixture
def page():
    """An empty page 1400 px wide in a Chromium of its own (that `$CHROMIUM` names, else the first on the PATH); without
    one the test is skipped.
    """
    named = os.environ.get("CHROMIUM")
    path = next(filter(None, map(shutil.which, [named] if named else NAMES)), None)
    if path is None:
        pytest.skip(f"needs Chromium: neither $CHROMIUM nor one of {', '.join(NAMES)} on the PATH is a program")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    wrong = []

    def asked(address):
        parts = urlsplit(address)
        if parts.scheme not in ("file", "data", "blob", "about") and parts.hostname != "127.0.0.1":
            wrong.append(f"asked for {address}")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=SWITCHES)
        shown = browser.new_page(viewport={"width": 1400, "height": 1000})
        shown.set_default_timeout(PATIENCE_MS)
        shown.on("pageerror", lambda error: wrong.append(str(error)))
        shown.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        shown.on("request", lambda request: asked(request.url))
        shown.on("websocket", lambda socket: asked(socket.url))
        yield shown
        browser.close()
    assert not wrong, wrong


def shows(page, path) -> None:
    """Check that a page that is a file opens wide and narrow with its pictures."""
    for width in (1100, 390):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(path.as_uri())
        assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        assert page.evaluate("[...document.images].every(image => image.clientWidth > 100)")
