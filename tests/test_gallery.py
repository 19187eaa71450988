"""The small copy of a clip that a browser plays: its times, its sides, its encoder."""

import io

import av
import numpy as np
import pytest

from helpers import gallery
from helpers.files import ROOT
from helpers.gallery import encode_preview

DATA = ROOT / "data_sample"


def decoded(data):
    with av.open(io.BytesIO(data)) as video:
        return [(float(f.pts * f.time_base), f.to_ndarray(format="rgb24")) for f in video.decode(video=0)]


@pytest.mark.parametrize("encoder", ["libx264", "libvpx-vp9"])
def test_a_preview_is_the_clip_small_with_its_times(encoder, monkeypatch):
    monkeypatch.setattr(gallery, "HEIGHT_PX", 120)
    monkeypatch.setattr(gallery, "KINDS", [kind for kind in gallery.KINDS if kind[0] == encoder])
    made = encode_preview(DATA / "awkward" / "variable_frame_rate.mp4")
    with av.open(str(DATA / "awkward" / "variable_frame_rate.mp4")) as video:
        original = [(float(f.pts * f.time_base), f.to_ndarray(format="rgb24")) for f in video.decode(video=0)]
    frames = decoded(made.data)
    assert [t for t, _ in frames] == pytest.approx([t - original[0][0] for t, _ in original], abs=2e-3)
    assert frames[0][1].shape == (120, 160, 3)
    means = [np.mean(np.stack([f for _, f in some]), axis=(0, 1, 2)) for some in (frames, original)]
    np.testing.assert_allclose(*means, atol=4)
    assert made.mime == {"libx264": "video/mp4", "libvpx-vp9": "video/webm"}[encoder]


def test_a_preview_is_upright_and_even_sided():
    frames = decoded(encode_preview(DATA / "awkward" / "portrait_rotated.mp4").data)
    height, width = frames[0][1].shape[:2]
    assert height > width
    assert height <= gallery.HEIGHT_PX
    assert height % 2 == width % 2 == 0
