"""The explorer of notebook 07 in a real JupyterLab: its own cells, a small run, and somebody who clicks."""

import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from small_run import GONE, HEADS, SHOWN, STEP_S, TD, write_small_run

from helpers.files import ROOT, read_json, write_json

CLIP, OTHER = SHOWN[1], SHOWN[2]
FRAME_S = 1 / 15 + 1e-3
NOTEBOOK = "07_attention_visualization.ipynb"
OPTIONS = (
    "--no-browser",
    "--allow-root",
    "--ip=127.0.0.1",
    "--LabApp.expose_app_in_browser=True",
    "--LabApp.extension_manager=readonly",
)
QUIET = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}  # asks whether to send news
READY = """async () => {
  const app = window.jupyterapp;
  await app.restored;
  const notebook = app.shell.currentWidget;
  await notebook.context.ready;
  await notebook.sessionContext.ready;
  await notebook.sessionContext.session.kernel.info;
}"""
FRAME = """async video => {  // without the controls, which come and go
  await new Promise(requestAnimationFrame);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  return canvas.toDataURL();
}"""
MOVED = "() => (window.times ??= new Set()).add(document.querySelector('.clip-player .cursor').dataset.timeS).size > 5"


def explorer_notebook(out, path):
    """The cells of notebook 07 that make the explorer, with the parameters of a run."""
    cells = nbformat.read(ROOT / "notebooks" / NOTEBOOK, as_version=4).cells
    parameters, imports, *others = (cell for cell in cells if cell.cell_type == "code")
    given = f"out_dir = {str(out)!r}; clip = {CLIP!r}"
    checked = "cfg = AttentionConfig.from_notebook(globals())\ngallery = explorer.Gallery(cfg)"
    given, checked = map(nbformat.v4.new_code_cell, (given, checked))
    shown = [cell for cell in others if "explorer.show(" in cell.source]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    made = nbformat.v4.new_notebook(cells=[parameters, given, imports, checked, *shown], metadata=kernel)
    nbformat.write(made, path)


@pytest.fixture
def served(tmp_path):
    """The address of notebook 07's explorer in a Lab that neither sees nor changes its user's settings.

    SIGTERM ends the test as Ctrl-C does, so that no server or kernel outlives it.
    """
    for name in ("run", "notebooks"):
        (tmp_path / name).mkdir()
    write_small_run(tmp_path / "run")
    explorer_notebook(tmp_path / "run", tmp_path / "notebooks" / NOTEBOOK)
    write_json(tmp_path / "JUPYTER_CONFIG_DIR" / "labconfig" / "page_config.json", QUIET)
    names = [f"JUPYTER_{name}_DIR" for name in ("CONFIG", "DATA", "RUNTIME")]
    names += ["JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR"]
    own = os.environ | {name: str(tmp_path / name) for name in names} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jupyterlab", *OPTIONS, f"--ServerApp.root_dir={tmp_path / 'notebooks'}"]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    log = tmp_path / "server.log"
    with open(log, "w") as file:
        server = subprocess.Popen(command, env=own, stdout=file, stderr=file, start_new_session=True)
    try:
        for _ in range(600):  # until it says where it listens
            found = list((tmp_path / "JUPYTER_RUNTIME_DIR").glob("jpserver-*-open.html"))
            if found:
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        about = read_json(found[0].with_name(f"jpserver-{server.pid}.json"))
        yield f"{about['url']}lab/tree/{NOTEBOOK}?token={about['token']}&reset"
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # it ends its kernels itself
        server.wait(30)
        signal.signal(signal.SIGTERM, before)


class Seen:
    """What can be seen of the explorer, and what changed of it since the last look."""

    def __init__(self, page):
        self.page, self.before = page, {}
        self.status = page.locator(".clip-player .status")
        self.video = page.locator(".clip-player video")

    def choose(self, listed, option):
        options = self.page.locator(".explorer").get_by_label(listed, exact=True)
        options.select_option(label=options.locator("option", has_text=option).inner_text())

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
        still = "video => video.readyState >= 2 && !video.seeking"
        self.page.wait_for_function(still, arg=self.video.element_handle())
        pictures = {"close-up": "img", "axis": ".time-axis"}
        now = {name: self.page.locator(f".clip-player {what}").screenshot() for name, what in pictures.items()}
        now["video"] = self.video.evaluate(FRAME)
        changed = {name for name, was in self.before.items() if now[name] != was}
        self.before = now
        return changed


@pytest.mark.browser
def test_clip_head_trait_and_segment_change_what_is_seen(served, page):  # the page closes before its server
    from playwright.sync_api import expect

    seen = Seen(page)
    page.goto(served)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    page.evaluate(READY)  # a run that is asked for before the kernel is there is lost
    well = page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    assert well, page.locator(".jp-OutputArea").all_inner_texts()
    expect(seen.status).to_have_attribute("data-state", re.compile(rf"{CLIP}\|mean\|"))
    chosen = int(seen.status.get_attribute("data-state").rsplit("|", 1)[1])
    seen.look(f"{CLIP}|mean|agreeableness|{chosen}")
    expect(page.locator(".clip-player .segment")).to_have_count(TD)

    seen.choose("Head", f"head {HEADS}")
    assert seen.look(f"{CLIP}|head{HEADS}|agreeableness|{chosen}") == {"axis", "close-up"}
    seen.choose("Trait", "openness (O)")
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

    seen.video.evaluate("video => { video.currentTime = 0; video.play(); }")
    page.wait_for_function(MOVED)  # the cursor with it
    seen.video.evaluate("video => video.pause()")

    seen.choose("Clip", GONE)
    expect(seen.status).to_contain_text(f"Shown is still {OTHER}.")
    assert "error: VideoError" in seen.status.inner_text()
