"""What is done to committed notebooks after they were executed."""

import base64
import io

import numpy as np
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from tools.reexecute import drop_native_messages, shrink_pictures, write_pictures


def as_png(picture):
    written = io.BytesIO()
    Image.fromarray(picture).save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()


def test_pictures_of_a_notebook_shrink_where_one_can_hardly_see_it():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:120, :160]
    chart = np.full((120, 160, 4), 255, np.uint8)
    chart[..., 0], chart[..., 1] = x + rng.integers(0, 2, x.shape), y // 9 * 9
    chart[40:43, 20:140, :3] = (213, 94, 0)
    noise = rng.integers(0, 256, (120, 160, 3)).astype(np.uint8)
    outputs = [new_output("display_data", {"image/png": as_png(p), "text/plain": "x"}) for p in (chart, noise)]
    notebook = new_notebook(cells=[new_code_cell("1", outputs=outputs)])
    shrink_pictures(notebook)
    after = [one["data"]["image/png"] for one in notebook.cells[0].outputs]
    assert len(after[0]) < 0.6 * len(as_png(chart))
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(after[0]))).convert("RGB"), int)
    assert np.abs(read - chart[..., :3]).mean() <= 1.25
    assert np.abs(read[41, 20:140] - (213, 94, 0)).max() < 12  # a rare colour is still itself
    assert after[1] == as_png(noise)


def test_messages_of_native_code_go_and_others_stay():
    noise = "WARNING: All log messages before absl::InitializeLog() is called\nI0000 00:00 cuda.cc] x\n"
    outputs = [
        new_output("stream", name="stderr", text=noise),
        new_output("stream", name="stderr", text=noise + "a warning\n"),
        new_output("stream", name="stdout", text="3\n"),
    ]
    notebook = new_notebook(cells=[new_code_cell("1", outputs=outputs)])
    drop_native_messages(notebook)
    assert [output.text for output in notebook.cells[0].outputs] == ["a warning\n", "3\n"]


def test_pictures_are_small_but_for_the_title_and_only_of_figures_that_are_there(tmp_path):
    for name in ("07_clip", "01_rating_distributions"):
        Image.new("RGB", (960, 480)).save(tmp_path / f"{name}.png")
    (tmp_path / "docs").mkdir()
    write_pictures(tmp_path, tmp_path / "docs")
    sizes = {}
    for path in (tmp_path / "docs").iterdir():
        with Image.open(path) as picture:
            sizes[path.name] = picture.size
    assert sizes == {"attention.png": (960, 480), "01.png": (240, 120), "07.png": (240, 120)}
