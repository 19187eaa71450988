"""The explorer without a browser: the clips of a run, a clip's view, and what the inputs do to it."""

import io
import json
import re
from dataclasses import replace
from functools import cache
from shutil import copytree

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
from small_run import GONE, HEADS, SHOWN, STEP_S, TD, TS, N, write_small_run

from helpers import explorer as explorers
from helpers.attention import attention_entropy, get_attention_weights, occlusion, relevance
from helpers.clips import TRAITS
from helpers.config import AttentionConfig
from helpers.container import VideoError
from helpers.crops import Chunk
from helpers.files import write_json
from helpers.gallery import CHANGE, ORDERS, RELEVANCE, Gallery, motion_per_token, open_gallery
from helpers.plots import TRAIT_COLORS
from helpers.plots import attention as pictures
from helpers.store import read_features, write_features
from helpers.video import read_frames

CLIP = SHOWN[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, *write_small_run(out)


@pytest.fixture(scope="module")
def opened(run):
    return open_gallery(AttentionConfig(out_dir=str(run[0]), bank_dir=str(run[0] / "no bank")))


@pytest.fixture(scope="module")
def gallery(opened):
    """The same with every view made once."""
    return replace(opened, load=cache(opened.load))


@pytest.fixture(scope="module")
def view(gallery):
    return gallery.load(CLIP)


@pytest.fixture
def explorer(gallery, figures):
    return explorers.Explorer(gallery, clip=CLIP)


def test_a_gallery_holds_the_runs_predictions_ratings_and_entropies(run, gallery):
    _, model, aligned = run
    assert gallery.clips.tolist() == aligned.clips.tolist()
    np.testing.assert_allclose(gallery.predicted, model.predict(aligned.inputs(), verbose=0), atol=1e-6)
    np.testing.assert_array_equal(gallery.rated, aligned.labels)
    weights = get_attention_weights(model, aligned.inputs())
    entropy = attention_entropy(weights, aligned.static_mask, aligned.dynamic_mask).mean(1)
    np.testing.assert_allclose(gallery.entropy, entropy)
    assert np.isnan(gallery.entropy[0])
    assert set(gallery.part[:-1]) == {"train", "validation", "test"}
    assert gallery.part[-1] == "not trained on"  # it has no rating


def test_clips_are_searched_and_sorted_and_the_unknown_come_last(gallery):
    trait = 3
    error = np.abs(gallery.error(trait))
    assert gallery.listing(trait).tolist() == sorted(range(N), key=lambda row: gallery.clips[row])
    largest, smallest, high, low = (gallery.listing(trait, order) for order in ORDERS[1:])
    assert largest[-1] == smallest[-1] == N - 1
    assert np.all(np.diff(error[largest[:-1]]) <= 0)
    assert np.all(np.diff(error[smallest[:-1]]) >= 0)
    assert high[-1] == low[-1] == 0
    assert high[:-1].tolist() == low[:-1][::-1].tolist()
    assert gallery.clips[gallery.listing(trait, search=" RFND8")].tolist() == [CLIP]
    assert len(gallery.listing(trait, search="nobody")) == 0
    with pytest.raises(ValueError, match="order must be one of 'name'"):
        gallery.listing(trait, "size")


def test_a_view_holds_what_the_networks_and_the_model_saw(run, view, tmp_path):
    _, model, aligned = run
    one = aligned.take(aligned.clips == CLIP)
    np.testing.assert_allclose(view.attention, get_attention_weights(model, one.inputs())[0], atol=1e-6)
    assert view.attention.shape == (HEADS, TS, TD)
    assert view.crops.shape == (TS, 224, 224, 3)
    assert view.speed.shape == (TD, 112, 112)
    assert 0.1 < view.speed.mean() < 8
    assert view.t_end_s == pytest.approx(STEP_S * np.arange(1, TD + 1))
    assert list(view.windows) == ["warm light", "cool light"]
    (tmp_path / "preview.mp4").write_bytes(view.preview.data)
    frames, _ = read_frames(tmp_path / "preview.mp4")
    assert len(frames) == 73
    of_frame, of_crop = (picture.mean((0, 1)) for picture in (frames[int(view.face_t_s[2] * 15)], view.crops[2]))
    assert np.abs(of_frame - of_crop).max() < 60  # the same light, another cut


def test_the_bars_are_occlusion_and_relevance(run, opened, view):
    _, model, aligned = run
    one = aligned.take(aligned.clips == CLIP)
    baseline = opened.load.baseline
    assert list(view.measures) == [CHANGE, RELEVANCE]
    for column in (4, 2):
        expected = occlusion(model, one.inputs(), baseline)[0][..., column]
        np.testing.assert_allclose(view.measures[CHANGE][:, column], expected, atol=1e-6)
    assert np.abs(view.measures[CHANGE]).max() > 1e-4
    expected = relevance(model, one.inputs(), baseline).sum(2)[0]
    np.testing.assert_allclose(view.measures[RELEVANCE], expected.T, atol=1e-6)


@pytest.fixture(scope="module")
def from_elsewhere(run, opened, tmp_path_factory):
    """The same run as of features that were made elsewhere: nothing of 02, rows that are moments of unknown frames."""
    out = copytree(run[0], tmp_path_factory.mktemp("elsewhere") / "run", ignore=lambda *_: ["faces"])
    for stream in ("static", "dynamic"):
        write_json(out / stream / "manifest.json", {"identity": {"elsewhere": {}}, "finished": True})
        for path in (out / stream).rglob("*.npz"):
            rows = read_features(path)
            unknown = np.full(len(rows.frame), -1)
            write_features(path, replace(rows, t_start_s=rows.t_s, t_end_s=rows.t_s, frame=unknown))
    return replace(opened.load, out=out)


def test_features_from_elsewhere_are_shown_without_pictures(from_elsewhere, gallery, view, figures):
    shown = from_elsewhere(CLIP)
    assert (shown.crops, shown.speed, shown.flow) == (None, None, None)
    assert shown.absent == (
        "not shown: pictures of its faces, its motion, as the features were not made of this video here"
    )
    np.testing.assert_array_equal(shown.attention, view.attention)
    np.testing.assert_allclose(shown.t_end_s - shown.t_start_s, STEP_S)  # a moment would be a bar of no width
    fig = pictures.plot_clip_attention(shown, shown.measures[CHANGE][:, 0])
    assert [ax.get_ylabel() for ax in fig.axes] == ["attention", "change of\nthe score"]
    fig = pictures.plot_heads_and_traits(shown, shown.measures[RELEVANCE].T, TRAITS)
    assert [ax.get_ylabel() for ax in fig.axes[:2]] == ["attention", "relevance"]
    fig = pictures.plot_segment(shown, 1)
    assert all("no picture" in ax.texts[0].get_text() for ax in fig.axes[:2])
    assert from_elsewhere(GONE).absent.startswith("not shown: its video, pictures of its faces")
    explorer = explorers.Explorer(replace(gallery, load=from_elsewhere), clip=GONE)
    assert explorer.player.video == b""
    assert explorer.player.message.endswith("as the features were not made of this video here.")


def test_with_02_the_faces_of_features_from_elsewhere_are_shown(run, from_elsewhere, view, tmp_path):
    out = copytree(from_elsewhere.out, tmp_path / "run")
    copytree(run[0] / "faces", out / "faces")
    shown = replace(from_elsewhere, out=out)(CLIP)
    assert shown.speed is None
    assert np.abs(shown.crops.astype(int) - view.crops).mean() < 12  # at most a frame beside


def test_motion_is_gathered_by_the_time_of_its_token():
    flow = np.zeros((6, 4, 4, 2), "float32")
    flow[:, ..., 0] = np.array([1, 3, 0, 0, 5, 2])[:, None, None]
    pieces = [
        Chunk(flow[:4], np.arange(4) / 2, np.arange(4), ""),
        Chunk(flow[4:], np.array([2, 2.5]), np.arange(2), ""),
    ]
    speed, fastest = motion_per_token(pieces, np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(speed[:, 0, 0], [2, 0, 3.5])
    np.testing.assert_array_equal(fastest[:, 0, 0], [[3, 0], [0, 0], [5, 0]])


def test_a_clip_whose_rows_are_not_the_tokens_is_refused(run, opened, tmp_path):
    out = copytree(run[0], tmp_path / "run")
    (out / "dynamic" / f"{CLIP}.npz").write_bytes((out / "dynamic" / f"{SHOWN[0]}.npz").read_bytes())
    with pytest.raises(ValueError, match=f"must hold {TD} valid rows like 05's tokens, got 1. Run 05 again"):
        replace(opened.load, out=out)(CLIP)
    (out / "faces" / f"{CLIP}.npz").unlink()
    (out / "dynamic" / f"{CLIP}.npz").write_bytes((out / "dynamic" / f"{SHOWN[2]}.npz").read_bytes())
    with pytest.raises(FileNotFoundError, match="Run 02_clip_preparation first"):
        replace(opened.load, out=out)(CLIP)
    with pytest.raises(VideoError, match=r"gone\.000\.mp4"):
        opened.load(GONE)
    with pytest.raises(ValueError, match="clip must be one of this run's 13, got 'nobody'"):
        opened.row_of("nobody")


def test_the_explorer_opens_at_the_strongest_motion(explorer, view):
    trait = TRAITS.index("agreeableness")
    strongest = int(np.abs(view.measures[CHANGE][:, trait]).argmax())
    assert explorer.player.state == f"{CLIP}|mean|agreeableness|{strongest}"
    assert explorer.clips.value == CLIP
    scene = explorer.player.scene
    np.testing.assert_allclose(scene["values"], view.measures[CHANGE][:, trait])
    np.testing.assert_allclose(scene["share"], view.attention.mean((0, 1)), rtol=1e-5)
    assert scene["color"] == TRAIT_COLORS["agreeableness"]
    assert explorer.player.video == view.preview.data
    assert explorer.head.options[-1] == (f"head {HEADS}", HEADS - 1)
    assert json.dumps(scene)


def test_head_trait_and_segment_change_the_axis_and_the_close_up(explorer, view):
    player = explorer.player
    before, seq = player.picture, player.seq
    explorer.head.value = 1
    np.testing.assert_allclose(player.scene["rows"], view.attention[1])
    assert player.picture != before
    before = player.picture
    explorer.trait.value = 0
    np.testing.assert_allclose(player.scene["values"], view.measures[CHANGE][:, 0])
    assert player.scene["color"] == TRAIT_COLORS["openness"]
    assert "openness (O) predicted" in player.message
    assert player.picture == before  # a trait changes bars, not what was seen
    player.segment = (player.segment + 1) % TD
    assert player.picture != before
    assert player.state == f"{CLIP}|head2|openness|{player.segment}"
    assert player.seq == seq + 3
    pixels = matplotlib.image.imread(io.BytesIO(player.picture))
    assert pixels.shape[:2] == (470, 1320)
    assert not plt.get_fignums()


def test_another_clip_keeps_head_and_trait(explorer):
    explorer.head.value, explorer.trait.value = 2, 4
    explorer.clips.value = SHOWN[2]
    assert explorer.player.state.startswith(f"{SHOWN[2]}|head3|neuroticism|")
    explorer.clips.value = SHOWN[0]
    assert explorer.player.state == f"{SHOWN[0]}|head3|neuroticism|0"
    assert "one motion token, so its attention says nothing" in explorer.player.message


def test_searching_lists_and_does_not_choose(explorer):
    state = explorer.player.state
    explorer.search.value = "other"
    assert len(explorer.clips.options) == N - 4
    assert explorer.clips.value is None
    assert explorer.player.state == state
    explorer.search.value = ""
    assert explorer.clips.value == CLIP
    explorer.order.value = "error, largest first"
    errors = [float(label.split()[0].replace("\u2212", "-")) for label, _ in explorer.clips.options[:-1]]
    assert np.all(np.diff(np.abs(errors)) <= 0)
    explorer.order.value = "entropy, lowest first"
    assert explorer.clips.description == f"{N} of {N} clips: entropy, key"
    assert explorer.player.seq == 1


def test_what_goes_wrong_stands_in_the_line_below(explorer):
    state = explorer.player.state
    explorer.clips.value = GONE
    assert re.search(rf"error: VideoError: .*gone.* Shown is still {re.escape(CLIP)}\.$", explorer.player.message)
    assert explorer.player.state == state
    explorer.clips.value = SHOWN[2]
    assert explorer.player.state.startswith(SHOWN[2])
    assert not explorer.player.message.startswith("error")


def test_a_first_clip_that_cannot_be_shown_leaves_the_list(gallery, figures):
    explorer = explorers.Explorer(gallery, clip=GONE)
    assert re.search(r"error: VideoError: .*gone.*", explorer.player.message)
    explorer.trait.value = 0
    assert explorer.player.seq == 0
    explorer.clips.value = CLIP
    assert explorer.player.state.startswith(f"{CLIP}|mean|openness|")


def test_views_are_kept_and_few_of_them(gallery, view, figures, monkeypatch):
    loaded = []
    monkeypatch.setattr(explorers, "KEPT", 1)
    counted = Gallery(**vars(gallery) | {"load": lambda clip: loaded.append(clip) or gallery.load(clip)})
    explorer = explorers.Explorer(counted, clip=CLIP)
    explorer.head.value = 0
    explorer.trait.value = 1
    assert loaded == [CLIP]
    explorer.clips.value = SHOWN[0]
    explorer.clips.value = CLIP
    assert loaded == [CLIP, SHOWN[0], CLIP]


def test_what_the_bars_show_can_be_chosen_where_there_is_a_choice(gallery, view, explorer, figures):
    assert explorer.measure.layout.display is None
    explorer.measure.value = RELEVANCE
    np.testing.assert_allclose(explorer.player.scene["values"], view.measures[RELEVANCE][:, 3])
    assert explorer.player.scene["label"] == f"agreeableness (A): {RELEVANCE}"
    one = replace(view, measures={CHANGE: view.measures[CHANGE]})
    alone = explorers.Explorer(replace(gallery, load=lambda _: one), clip=CLIP)
    assert alone.measure.layout.display == "none"


def test_an_unknown_trait_is_refused_with_the_known_ones(gallery):
    with pytest.raises(ValueError, match="trait must be one of openness, .*, got 'charm'"):
        explorers.show(gallery, trait="charm")


@pytest.mark.usefixtures("figures")
def test_where_nobody_can_click_a_figure_shows_the_same(gallery, view):
    fig = explorers.show(gallery, clip=CLIP, trait="openness")
    share, measure, face, motion, heads = (ax for ax in fig.axes if ax.get_label() != "<colorbar>")
    values = view.measures[CHANGE][:, 0]
    segment = int(np.abs(values).argmax())
    bars = [bar for bar in share.patches if bar.get_label() == "_nolegend_"][:TD]
    np.testing.assert_allclose([bar.get_height() for bar in bars], 100 * view.attention.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(
        share.lines[0].get_ydata(), 100 * view.attention.mean(0)[view.face_of(segment)], rtol=1e-5
    )
    assert share.get_ylabel() == "attention (%)"
    assert measure.get_xlabel() == "time (s)"
    np.testing.assert_array_equal(face.images[0].get_array(), view.crops[view.face_of(segment)])
    np.testing.assert_array_equal(motion.images[0].get_array(), view.speed[segment])
    np.testing.assert_allclose(heads.collections[0].get_array(), view.attention[:, :, segment])
    assert heads.get_xlabel() == "face token (s)"
    assert re.match(rf"{re.escape(CLIP)}\nopenness \(O\) predicted [-.\d]+, rated 0\.", fig.get_suptitle())
    colour_bars = [ax.get_ylabel() for ax in fig.axes if ax.get_label() == "<colorbar>"]
    assert colour_bars == ["speed (px/frame)", "attention"]


@pytest.mark.usefixtures("figures")
def test_arrows_point_where_the_flow_goes_and_axes_are_used():
    _, ax = plt.subplots()
    flow = np.zeros((28, 28, 2))
    flow[..., 0] = 2
    assert pictures.plot_motion(np.full((28, 28), 2.0), flow, 3.0, ax=ax) is ax
    arrows = next(c for c in ax.collections if hasattr(c, "U"))
    assert np.all(arrows.U == 2)
    assert not np.any(arrows.V)
    assert ax.images[0].get_clim() == (0, 3.0)
    weights = np.arange(6.0).reshape(2, 3) / 6
    ax = pictures.plot_head_weights(weights, np.arange(3.0), 1.0, face=0, head=1)
    assert [label.get_fontweight() for label in ax.get_yticklabels()] == ["normal", "bold"]


def test_in_a_front_end_the_explorer_is_displayed(gallery, figures, monkeypatch):
    shown = []
    monkeypatch.setattr(explorers, "in_front_end", lambda: True)
    monkeypatch.setattr(explorers, "display", shown.append)
    assert explorers.show(gallery, clip=CLIP, trait="openness") is None
    assert isinstance(shown[0], explorers.Explorer)
    assert shown[0].player.state.startswith(f"{CLIP}|mean|openness|")
    assert CHANGE in shown[0].player.scene["label"]
