"""The explorer without a browser: the clips of a run, a clip's view, and what the inputs do to it."""

import io
import json
from functools import cache
from shutil import copy2, copytree
from types import SimpleNamespace

import av
import matplotlib.pyplot as plt
import numpy as np
import pytest
from small_run import GONE, HEADS, SHOWN, STEP_S, TD, TS, write_small_run

from helpers import explorer as explorers
from helpers.attention import get_attention_weights, occlusion
from helpers.clips import TRAITS
from helpers.config import AttentionConfig
from helpers.container import VideoError
from helpers.explorer import Gallery, encode_preview, motion_per_token
from helpers.files import ROOT, write_json
from helpers.plots import TRAIT_COLORS
from helpers.plots.attention import plot_clip_attention
from helpers.rows import Chunk
from helpers.store import read_features, write_features

CLIP = SHOWN[1]
AWKWARD = ROOT / "data_sample" / "awkward"


def opened(out):
    return Gallery(AttentionConfig(out_dir=str(out)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, *write_small_run(out)


@pytest.fixture(scope="module")
def gallery(run):
    """The gallery of the run, with every view made once."""
    gallery = opened(run[0])
    gallery.load = cache(gallery.load)
    return gallery


@pytest.fixture(scope="module")
def view(gallery):
    return gallery.load(CLIP)


def decoded(file):
    with av.open(file) as video:
        return [(float(f.pts * f.time_base), f.to_ndarray(format="rgb24")) for f in video.decode(video=0)]


@pytest.mark.parametrize("name", ["variable_frame_rate.mp4", "portrait_rotated.mp4"])
def test_a_preview_is_the_clip_small_and_upright_with_its_times(name):
    frames, original = decoded(io.BytesIO(encode_preview(AWKWARD / name)[0])), decoded(str(AWKWARD / name))
    assert [t for t, _ in frames] == pytest.approx([t - original[0][0] for t, _ in original], abs=2e-3)
    height, width = frames[0][1].shape[:2]
    assert height % 2 == width % 2 == 0
    assert height <= explorers.HEIGHT_PX
    assert (height > width) == ("portrait" in name)
    means = [np.mean([f.mean((0, 1)) for _, f in some], axis=0) for some in (frames, original)]
    np.testing.assert_allclose(*means, atol=4)


def test_a_view_holds_what_the_networks_and_the_model_saw(run, gallery, view):
    _, model, aligned = run
    np.testing.assert_allclose(gallery.predicted, model.predict(aligned.inputs(), verbose=0), atol=1e-6)
    np.testing.assert_array_equal(gallery.rated, aligned.labels)
    inputs = aligned.take(aligned.clips == CLIP).inputs()
    np.testing.assert_allclose(view.attention, get_attention_weights(model, inputs)[0], atol=1e-6)
    np.testing.assert_allclose(view.effects, occlusion(model, inputs, gallery.baseline)[0], atol=1e-6)
    assert np.abs(view.effects).max() > 1e-4
    shapes = view.attention.shape, view.crops.shape, view.speed.shape
    assert shapes == ((HEADS, TS, TD), (TS, 224, 224, 3), (TD, 112, 112))
    assert 0.1 < view.speed.mean() < 8
    assert view.t_end_s == pytest.approx(STEP_S * np.arange(1, TD + 1))
    assert list(view.windows) == ["warm light", "cool light"]
    frames = decoded(io.BytesIO(view.video))
    assert len(frames) == 73
    of_frame, of_crop = (picture.mean((0, 1)) for picture in (frames[int(view.face_t_s[2] * 15)][1], view.crops[2]))
    assert np.abs(of_frame - of_crop).max() < 60  # the same light, another cut


def test_features_from_elsewhere_are_shown_with_the_faces_of_02_or_without_pictures(run, view, figures, tmp_path):
    """Nothing of 02 at first, and rows that are moments of unknown frames."""
    out = copytree(run[0], tmp_path / "run", ignore=lambda *_: ["faces"])
    for stream in ("static", "dynamic"):
        write_json(out / stream / "manifest.json", {"identity": {"external": {}}, "finished": True})
        for path in (out / stream).rglob("*.npz"):
            rows = read_features(path)
            unknown = np.full(len(rows.frame), -1)
            write_features(path, rows.__class__(rows.features, rows.t_s, rows.t_s, unknown, rows.valid))
    external = opened(out)
    shown = external.load(CLIP)
    assert (shown.crops, shown.speed, shown.flow) == (None, None, None)
    np.testing.assert_array_equal(shown.attention, view.attention)
    np.testing.assert_allclose(shown.t_end_s - shown.t_start_s, STEP_S)  # a moment would be a bar of no width
    assert len(plot_clip_attention(shown, TRAITS).axes) == 5
    player = explorers.Explorer(external, clip=GONE).player
    assert (player.video, "video cannot be read" in player.message) == (b"", True)
    copytree(run[0] / "faces", out / "faces")
    shown = external.load(CLIP)
    assert shown.speed is None
    assert np.abs(shown.crops.astype(int) - view.crops).mean() < 12  # at most a frame beside
    assert external.load(GONE).crops is None  # 02 was run, and the video removed since


def test_motion_is_gathered_by_the_time_of_its_token():
    flow = np.zeros((6, 4, 4, 2), "float32")
    flow[:, ..., 0] = np.array([1, 3, 0, 0, 5, 2])[:, None, None]
    chunks = [Chunk(flow[part], np.arange(6)[part] / 2, np.arange(6)[part], "") for part in (slice(4), slice(4, 6))]
    speed, fastest = motion_per_token(chunks, np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(speed[:, 0, 0], [2, 0, 3.5])
    np.testing.assert_array_equal(fastest[:, 0, 0], [[3, 0], [0, 0], [5, 0]])


def test_what_cannot_be_shown_is_refused(run, gallery, tmp_path):
    out = copytree(run[0], tmp_path / "run")
    other = opened(out)
    copy2(out / "dynamic" / f"{SHOWN[0]}.npz", out / "dynamic" / f"{CLIP}.npz")
    (out / "faces" / f"{SHOWN[2]}.npz").unlink()
    for call, error, words in (
        (lambda: other.load(CLIP), ValueError, "Run 05 again"),
        (lambda: other.load(SHOWN[2]), FileNotFoundError, "02_clip_preparation"),
        (lambda: gallery.load(GONE), VideoError, r"gone\.000\.mp4"),
        (lambda: explorers.show(gallery, clip="nobody"), ValueError, "clip must be"),
        (lambda: explorers.show(gallery, trait="charm"), ValueError, "trait must be"),
    ):
        with pytest.raises(error, match=words):
            call()


def test_the_explorer_opens_at_the_strongest_motion_follows_its_inputs_and_says_what_goes_wrong(gallery, view, figures):
    explorer = explorers.Explorer(gallery, clip=CLIP)
    player, trait = explorer.player, TRAITS.index("agreeableness")
    strongest = int(np.abs(view.effects[:, trait]).argmax())
    assert player.state == f"{CLIP}|mean|agreeableness|{strongest}"
    assert (explorer.clips.value, player.video) == (CLIP, view.video)
    assert list(explorer.clips.options) == sorted(gallery.clips)
    np.testing.assert_allclose(player.scene["values"], view.effects[:, trait])
    np.testing.assert_allclose(player.scene["share"], view.attention.mean((0, 1)), rtol=1e-5)
    assert json.dumps(player.scene)
    pictures = [player.picture]
    explorer.head.value = 1
    np.testing.assert_allclose(player.scene["rows"], view.attention[1])
    pictures.append(player.picture)
    explorer.trait.value = 0  # changes bars, not what was seen
    np.testing.assert_allclose(player.scene["values"], view.effects[:, 0])
    assert (player.scene["color"], player.picture) == (TRAIT_COLORS["openness"], pictures[-1])
    player.segment = (player.segment + 1) % TD
    assert len({*pictures, player.picture}) == 3
    assert player.state == (state := f"{CLIP}|head2|openness|{player.segment}")
    explorer.clips.value = GONE
    assert ("error: VideoError" in player.message, player.state) == (True, state)
    explorer.clips.value = SHOWN[0]  # head and trait stay
    assert player.state == f"{SHOWN[0]}|head2|openness|0"
    assert not player.message.startswith("error")
    first = explorers.Explorer(gallery, clip=GONE)  # the list is there all the same
    first.clips.value = CLIP
    assert first.player.state.startswith(CLIP)
    assert not plt.get_fignums()


def test_a_request_that_names_its_cell_is_from_a_front_end_and_others_get_a_figure(gallery, view, figures, monkeypatch):
    asked = {"shell": {"metadata": {"cellId": "07-05", "trusted": True}}}
    assert not explorers.in_front_end()  # a script
    monkeypatch.setattr(explorers, "get_ipython", lambda: SimpleNamespace(kernel=SimpleNamespace(get_parent=asked.get)))
    monkeypatch.setattr(explorers, "display", (shown := []).append)
    assert explorers.show(gallery, clip=CLIP, trait="openness") is None
    assert shown[0].player.state.startswith(f"{CLIP}|mean|openness|")
    asked["shell"] = {"metadata": {}}  # nbval
    segment = int(np.abs(view.effects[:, 0]).argmax())
    face, motion = explorers.show(gallery, clip=CLIP, trait="openness").axes[:2]
    np.testing.assert_array_equal(face.images[0].get_array(), view.crops[view.face_of(segment)])
    np.testing.assert_array_equal(motion.images[0].get_array(), view.speed[segment])
