"""The explorer of notebook 07 in a real JupyterLab: its own cells, a small run, and somebody who clicks."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import nbformat
import pytest
from small_run import GONE, HEADS, SHOWN, STEP_S, TD, write_small_run

from helpers.files import ROOT

pytestmark = pytest.mark.browser

CLIP, OTHER = SHOWN[1], SHOWN[2]
FRAME_S = 1 / 15 + 1e-3
NOTEBOOK = "07_attention_visualization.ipynb"
SEEKED = """video => new Promise((done, fail) => {
  const ended = (why) => fail(new Error(why));
  setTimeout(() => ended("the video does not move"), 30000);
  if (video.error) ended(video.error.message);
  video.addEventListener("error", () => ended(video.error.message));
  const look = () => video.readyState >= 2 && !video.seeking ? requestAnimationFrame(() => done(video.currentTime))
    : setTimeout(look, 20);
  look();
})"""
FRAME = """video => {  // without the controls, which come and go
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  return canvas.toDataURL();
}"""
PLAYED = """video => new Promise((done, fail) => {
  setTimeout(() => fail(new Error("the video does not play")), 30000);
  const cursor = document.querySelector(".clip-player .cursor"), seen = new Set();
  const look = () => { seen.add(cursor.dataset.timeS); seen.size > 5 ? done(seen.size) : requestAnimationFrame(look); };
  video.currentTime = 0;
  video.play().then(look, fail);
})"""


QUIET = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}  # asks whether to send news
READY = """async () => {
  const app = window.jupyterapp;
  await app.restored;
  const notebook = app.shell.currentWidget;
  await notebook.context.ready;
  await notebook.sessionContext.ready;
  await notebook.sessionContext.session.kernel.info;
}"""


@contextmanager
def served(root, scratch):
    """Serve the notebooks in `root`; yields a function from a notebook's name to its address.

    SIGTERM ends the test as Ctrl-C does, so that no server or kernel outlives it.
    """
    (scratch / "cfg" / "labconfig").mkdir(parents=True)
    (scratch / "cfg" / "labconfig" / "page_config.json").write_text(json.dumps(QUIET))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, base = secrets.token_hex(16), f"http://127.0.0.1:{port}"
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with open(scratch / "server.log", "w") as log:
        server = subprocess.Popen(
            _command(root, port, token), env=_own(scratch), stdout=log, stderr=log, start_new_session=True
        )
        try:
            _wait(server, f"{base}/api/status?token={token}", scratch / "server.log")
            yield lambda name: f"{base}/lab/tree/{name}?token={token}&reset"
        finally:
            os.killpg(server.pid, signal.SIGTERM)  # it ends its kernels itself
            server.wait(30)
            signal.signal(signal.SIGTERM, before)


def _command(root, port, token):
    return [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"),
        *("--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}"),
        *("--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"),
    ]


def _own(scratch):
    """The environment of a Lab that neither sees nor changes its user's settings."""
    folders = {"CONFIG": "cfg", "DATA": "data", "RUNTIME": "run"}
    own = {f"JUPYTER_{name}_DIR": str(scratch / folder) for name, folder in folders.items()}
    own |= {f"JUPYTERLAB_{name}_DIR": str(scratch / name.lower()) for name in ("SETTINGS", "WORKSPACES")}
    return os.environ | own | {"IPYTHONDIR": str(scratch / "ipython"), "PYTHONPATH": str(ROOT)}


def _wait(server, url, log):
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(log.read_text())


def run_notebook(page, address):
    """Open a notebook and run all its cells; True when none of them failed."""
    page.goto(address)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    page.evaluate(READY)  # a run that is asked for before the kernel is there is lost
    return page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")


def explorer_notebook(out, path):
    """The cells of notebook 07 that make the explorer, with the parameters of a run."""
    cells = nbformat.read(ROOT / "notebooks" / NOTEBOOK, as_version=4).cells
    parameters = next(i for i, cell in enumerate(cells) if "parameters" in cell.metadata.tags)
    heading = next(i for i, cell in enumerate(cells) if cell.source.startswith("## Explore"))
    end = next(i for i in range(heading + 1, len(cells)) if cells[i].cell_type == "markdown")
    given = nbformat.v4.new_code_cell(f"out_dir = {str(out)!r}; clip = {CLIP!r}")
    checked = nbformat.v4.new_code_cell(
        "cfg = AttentionConfig.from_notebook(globals())\ngallery = explorer.Gallery(cfg)"
    )
    kept = [*cells[parameters : parameters + 1], given, cells[parameters + 1], checked, *cells[heading:end]]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=kept, metadata={"kernelspec": kernel}), path)


@pytest.fixture
def lab(page, tmp_path):
    """The page with notebook 07's explorer, run."""
    out = tmp_path / "run"
    out.mkdir()
    write_small_run(out)
    (tmp_path / "notebooks").mkdir()
    explorer_notebook(out, tmp_path / "notebooks" / NOTEBOOK)
    with served(tmp_path / "notebooks", tmp_path / "lab") as address:
        assert run_notebook(page.page, address(NOTEBOOK)), page.page.locator(".jp-OutputArea").all_inner_texts()
        yield page


class Seen:
    """What can be seen of the explorer, and what changed of it since the last look."""

    def __init__(self, page):
        self.page = page
        self.status = page.locator(".clip-player .status")
        self.video = page.locator(".clip-player video")
        self.close_up = page.locator(".clip-player img")
        self.axis = page.locator(".clip-player .time-axis")
        self.before = None

    def label(self, text):
        return self.page.locator(".explorer").get_by_label(text, exact=True)

    def choose(self, listed, clip):
        options = self.label(listed)
        options.select_option(label=options.locator("option", has_text=clip).inner_text())

    def segment(self, number):
        return self.page.locator(f".clip-player .segment[data-segment='{number}']")

    def times(self):
        """Seconds at which the video and the cursor stand; they agree to a frame."""
        video_s = self.video.evaluate("video => video.currentTime")
        cursor_s = float(self.page.locator(".clip-player .cursor").get_attribute("data-time-s"))
        assert cursor_s == pytest.approx(video_s, abs=FRAME_S)
        return video_s

    def look(self, state):
        """Wait until this is shown; return which of video, close-up and axis is not what it was."""
        from playwright.sync_api import expect

        expect(self.status).to_have_attribute("data-state", state)
        self.video.evaluate(SEEKED)
        now = {
            "video": self.video.evaluate(FRAME),
            "close-up": self.close_up.screenshot(),
            "axis": self.axis.screenshot(),
        }
        changed = {name for name in now if self.before and now[name] != self.before[name]}
        self.before = now
        return changed


def test_clip_head_trait_and_segment_change_what_is_seen(lab):
    from playwright.sync_api import expect

    page, seen = lab.page, Seen(lab.page)
    expect(seen.status).to_have_attribute("data-state", re.compile(rf"{CLIP}\|mean\|"))
    chosen = int(seen.status.get_attribute("data-state").rsplit("|", 1)[1])
    seen.look(f"{CLIP}|mean|agreeableness|{chosen}")
    expect(page.locator(".clip-player .segment")).to_have_count(TD)

    seen.label("Head").select_option(f"head {HEADS}")
    assert seen.look(f"{CLIP}|head{HEADS}|agreeableness|{chosen}") == {"axis", "close-up"}
    seen.label("Trait").select_option("openness (O)")
    assert seen.look(f"{CLIP}|head{HEADS}|openness|{chosen}") == {"axis"}

    segment = 0 if chosen else 2
    seen.segment(segment).click()
    assert seen.look(f"{CLIP}|head{HEADS}|openness|{segment}") == {"video", "close-up", "axis"}
    assert seen.times() == pytest.approx((segment + 0.5) * STEP_S, abs=FRAME_S)
    seen.segment(segment).press("ArrowRight")
    assert seen.look(f"{CLIP}|head{HEADS}|openness|{segment + 1}") == {"video", "close-up", "axis"}
    assert seen.times() == pytest.approx((segment + 1.5) * STEP_S, abs=FRAME_S)
    expect(seen.segment(segment + 1)).to_be_focused()

    seen.choose("Clip", OTHER)
    expect(seen.status).to_have_attribute("data-state", re.compile(OTHER))
    strongest = int(seen.status.get_attribute("data-state").rsplit("|", 1)[1])
    assert seen.look(f"{OTHER}|head{HEADS}|openness|{strongest}") == {"video", "close-up", "axis"}
    assert OTHER in seen.status.inner_text()

    assert seen.video.evaluate(PLAYED) > 5
    seen.video.evaluate("v => v.pause()")

    seen.choose("Clip", GONE)
    expect(seen.status).to_contain_text(f"Shown is still {OTHER}.")
    assert "error: VideoError" in seen.status.inner_text()
    assert lab.errors == []
    assert lab.outside == []
