"""Executes the committed notebooks again and normalises them: `python tools/reexecute.py [--only 03,04]`.

In: `notebooks/*.ipynb` at their defaults, in their order, so that 10 finds what the others wrote to `results/sample`.
Out: the same files with fresh outputs, `notebooks/executed.json` with hashes of their sources, pictures in `docs/`.
"""

import argparse
import base64
import io
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat
import numpy as np
import papermill
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from PIL import Image

from helpers.config import NOTEBOOKS
from helpers.files import ROOT, resolve, write_json
from helpers.workbook import WorkbookError, cells_hash, helpers_hash, select

log = logging.getLogger(__name__)

THUMBNAIL_PX = 240
MEAN_CHANGE = 1.25  # grey levels
PICTURES = {  # in docs/: the figure it shows; thumbnails but for the first
    "attention": "07_clip",
    "00": "00_speed",
    "01": "01_rating_distributions",
    "02": "02_faces",
    "03": "03_crops",
    "04": "04_flow",
    "05": "05_token_times",
    "06": "06_models",
    "07": "07_clip",
    "08": "08_accuracies",
    "09": "09_score",
    "10": "06_intervals",
}
NATIVE = re.compile(r"[IWEF]\d{4} |[IWEF]\d{10}\.|WARNING: All log messages before absl|To enable the following instr")
NORMALISE = (
    "--keep-output",
    "--keep-count",
    "--keep-id",
    "--extra-keys",
    "metadata.papermill metadata.widgets metadata.language_info.version "
    "cell.metadata.papermill cell.metadata.execution",
)


def reexecute(names: Iterable[str] = NOTEBOOKS) -> None:
    """Execute committed notebooks at their defaults, normalise them, and record the sources of all."""
    for name in names:
        log.info("%s ...", name)
        _execute(ROOT / "notebooks" / f"{name}.ipynb")
    write_pictures(resolve("results/sample") / "figures", ROOT / "docs")
    hashes = {name: cells_hash(ROOT / "notebooks" / f"{name}.ipynb") for name in NOTEBOOKS}
    write_json(ROOT / "notebooks" / "executed.json", {"helpers": helpers_hash(), "notebooks": hashes})


def _execute(committed: Path) -> None:
    copy = resolve("results/sample") / "notebooks" / committed.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(committed, copy, cwd=committed.parent, kernel_name="python3", progress_bar=False)
    except PapermillExecutionError as error:
        raise WorkbookError(
            f"{committed.stem} failed: {error.ename}: {error.evalue}\n  executed copy: {copy}"
        ) from None
    content = nbformat.read(copy, as_version=4)
    drop_native_messages(content)
    shrink_pictures(content)
    nbformat.write(content, copy)
    subprocess.run([sys.executable, "-m", "nbstripout", *NORMALISE, str(copy)], check=True)
    shutil.copyfile(copy, committed)


def drop_native_messages(notebook: NotebookNode) -> None:
    """Take out what TensorFlow's C++ parts wrote to stderr; it says nothing of the notebook."""
    for cell in (cell for cell in notebook.cells if "outputs" in cell):
        for output in cell.outputs:
            if output.get("name") == "stderr":
                lines = output.text.splitlines(keepends=True)
                output.text = "".join(line for line in lines if not NATIVE.match(line))
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" or o.text.strip()]


def shrink_pictures(notebook: NotebookNode) -> None:
    """Give pictures a palette of 256 colours, a third of the size, where one can hardly see it.

    Pictures whose values would change by more than `MEAN_CHANGE` on average, such as faces, stay as they are.
    """
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if "image/png" in output.get("data", {}):
            png = base64.b64decode(output.data["image/png"])
            output.data["image/png"] = base64.b64encode(_with_palette(png)).decode()


def _with_palette(png: bytes) -> bytes:
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    few = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    change = np.abs(np.asarray(few.convert("RGB"), np.int16) - np.asarray(picture, np.int16)).mean()
    written = io.BytesIO()
    few.save(written, "PNG", optimize=True)
    return written.getvalue() if change <= MEAN_CHANGE and written.tell() < len(png) else png


def write_pictures(figures: Path, docs: Path) -> None:
    """Copy the README's title figure, and small copies of each notebook's most telling one, where they were made."""
    for name, figure in PICTURES.items():
        if (figures / f"{figure}.png").exists():
            with Image.open(figures / f"{figure}.png") as picture:
                if name.isdigit():
                    picture.thumbnail((THUMBNAIL_PX, picture.height))
                picture.save(docs / f"{name}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--only", metavar="03,04", help="these notebooks only")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        reexecute(select(parser.parse_args().only))
    except (WorkbookError, ValueError) as failed:
        sys.exit(f"error: {failed}")
