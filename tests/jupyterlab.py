"""A real JupyterLab for browser tests: its own configuration, its own port, ended with its kernels.

In: a folder of notebooks (Lab saves into it: a copy). Out: the address of a notebook, and one that ran in a page.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

from helpers.files import ROOT

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
