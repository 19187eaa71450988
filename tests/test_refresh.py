import base64
import io

import nbformat
import numpy as np
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from helpers.refresh import shrink_pictures


def as_png(picture):
    written = io.BytesIO()
    Image.fromarray(picture).save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()


def test_pictures_of_a_notebook_shrink_where_one_can_hardly_see_it(tmp_path):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:120, :160]
    chart = np.full((120, 160, 4), 255, np.uint8)
    chart[..., 0], chart[..., 1] = x + rng.integers(0, 2, x.shape), y // 9 * 9
    chart[40:43, 20:140, :3] = (213, 94, 0)
    noise = rng.integers(0, 256, (120, 160, 3)).astype(np.uint8)
    outputs = [new_output("display_data", {"image/png": as_png(p), "text/plain": "x"}) for p in (chart, noise)]
    path = tmp_path / "a.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1", outputs=outputs)]), path)
    shrink_pictures(path)
    after = [one["data"]["image/png"] for one in nbformat.read(path, 4).cells[0].outputs]
    assert len(after[0]) < 0.6 * len(as_png(chart))
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(after[0]))).convert("RGB"), int)
    assert np.abs(read - chart[..., :3]).mean() <= 1.25
    assert np.abs(read[41, 20:140] - (213, 94, 0)).max() < 12  # a rare colour is still itself
    assert after[1] == as_png(noise)
