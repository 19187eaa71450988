import base64

import numpy as np
from PIL import Image, ImageSequence

from helpers.saliency import shown, write_gif


def read_gif(path):
    with Image.open(path) as gif:
        frames = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)])
        return frames, gif.info["duration"], gif.info["loop"]


def test_a_gif_of_few_colours_is_read_back_as_it_was(tmp_path):
    frames = np.zeros((5, 13, 17, 3), np.uint8)
    for k in range(5):
        frames[k, 2 * k : 2 * k + 3, 3 * k] = (200, 20 * k, 7)
    path = write_gif(tmp_path / "figures" / "moving.gif", frames, 0.25)
    read, duration_ms, loop = read_gif(path)
    assert np.array_equal(read, frames)
    assert (duration_ms, loop) == (250, 0)  # 0: for ever


def test_a_gif_of_many_colours_is_close_to_what_it_was(tmp_path):
    ramp = np.linspace(0, 255, 96)
    frames = np.stack([np.stack(np.broadcast_arrays(ramp, ramp[:, None], 40.0 * k), -1) for k in range(5)])
    read, _, _ = read_gif(write_gif(tmp_path / "a.gif", frames.astype(np.uint8), 0.1))
    assert np.abs(read.astype(int) - frames).mean() < 12
    assert read.shape == (5, 96, 96, 3)


def test_a_notebook_holds_the_file_itself(tmp_path):
    path = write_gif(tmp_path / "a.gif", np.zeros((2, 3, 5, 3), np.uint8), 0.1)
    assert base64.b64encode(path.read_bytes()).decode() in shown(path).data
