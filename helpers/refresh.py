"""Refreshes the committed notebooks: executes them at their defaults, normalises them, records their sources.

In: `notebooks/*.ipynb`. Out: the same files with fresh outputs, `notebooks/executed.json`, thumbnails in `docs/`.
"""

import base64
import io
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import nbformat
import numpy as np
import papermill
from papermill.exceptions import PapermillExecutionError
from PIL import Image

from helpers.config import NOTEBOOKS
from helpers.files import ROOT, resolve, write_json
from helpers.workbook import WorkbookError, cells_hash, helpers_hash

log = logging.getLogger(__name__)

TITLE_FIGURE = "07_clip"  # on top of the README
THUMBNAIL_PX = 240
MEAN_CHANGE = 1.25  # grey levels
THUMBNAILS = {
    "00_setup_check": "00_speed",
    "01_data_analysis": "01_rating_distributions",
    "02_clip_preparation": "02_faces",
    "03_static_extraction": "03_crops",
    "04_dynamic_extraction": "04_flow",
    "05_alignment": "05_token_times",
    "06_training": "06_models",
    "07_attention_visualization": "07_clip",
    "08_clip_classification": "08_accuracies",
    "09_score_a_clip": "09_score",
}


def refresh(names: Iterable[str] = NOTEBOOKS) -> None:
    """Re-execute the committed notebooks at their defaults, normalise them, record their sources in executed.json."""
    for name in names:
        committed = ROOT / "notebooks" / f"{name}.ipynb"
        copy = resolve("results/sample") / "notebooks" / committed.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        log.info("%s ...", name)
        try:
            papermill.execute_notebook(committed, copy, cwd=committed.parent, kernel_name="python3", progress_bar=False)
        except PapermillExecutionError as error:
            raise WorkbookError(f"{name} failed: {error.ename}: {error.evalue}\n  executed copy: {copy}") from None
        drop_native_messages(copy)
        shrink_pictures(copy)
        subprocess.run([sys.executable, "-m", "nbstripout", *_NORMALISE, str(copy)], check=True)
        shutil.copyfile(copy, committed)
        _write_thumbnail(name)
    shutil.copyfile(resolve("results/sample") / "figures" / f"{TITLE_FIGURE}.png", ROOT / "docs" / "attention.png")
    write_json(
        ROOT / "notebooks" / "executed.json",
        {"helpers": helpers_hash(), "notebooks": {n: cells_hash(ROOT / "notebooks" / f"{n}.ipynb") for n in NOTEBOOKS}},
    )


def drop_native_messages(notebook: Path) -> None:
    """Take out of a notebook what TensorFlow's C++ parts wrote to stderr; it says nothing of the notebook."""
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                lines = output["text"].splitlines(keepends=True)
                output["text"] = "".join(line for line in lines if not _NATIVE.match(line))
        if "outputs" in cell:
            cell["outputs"] = [o for o in cell["outputs"] if o.get("name") != "stderr" or o["text"].strip()]
    nbformat.write(content, notebook)


def shrink_pictures(notebook: Path) -> None:
    """Give a notebook's pictures a palette of 256 colours, a third of the size, where one can hardly see it.

    Pictures whose values would change by more than `MEAN_CHANGE` on average, such as faces, stay as they are.
    """
    content = nbformat.read(notebook, as_version=4)
    for output in (output for cell in content.cells for output in cell.get("outputs", [])):
        if "image/png" in output.get("data", {}):
            png = base64.b64decode(output["data"]["image/png"])
            output["data"]["image/png"] = base64.b64encode(_with_palette(png)).decode()
    nbformat.write(content, notebook)


def _with_palette(png: bytes) -> bytes:
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    few = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    change = np.abs(np.asarray(few.convert("RGB"), np.int16) - np.asarray(picture, np.int16)).mean()
    written = io.BytesIO()
    few.save(written, "PNG", optimize=True)
    return written.getvalue() if change <= MEAN_CHANGE and written.tell() < len(png) else png


def _write_thumbnail(name: str) -> None:
    """Keep a small copy of a notebook's most telling figure in `docs/`, for the README."""
    picture = cv2.imread(str(resolve("results/sample") / "figures" / f"{THUMBNAILS[name]}.png"))
    height = round(picture.shape[0] * THUMBNAIL_PX / picture.shape[1])
    (ROOT / "docs").mkdir(exist_ok=True)
    small = cv2.resize(picture, (THUMBNAIL_PX, height), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(ROOT / "docs" / f"{name[:2]}.png"), small)


_NATIVE = re.compile(r"[IWEF]\d{4} |[IWEF]\d{10}\.|WARNING: All log messages before absl|To enable the following instr")
_NORMALISE = (
    "--keep-output",
    "--keep-count",
    "--keep-id",
    "--extra-keys",
    "metadata.papermill metadata.widgets metadata.language_info.version "
    "cell.metadata.papermill cell.metadata.execution",
)
