"""Plots of notebook 07: what is drawn is read back from the artists."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from helpers.clips import TRAITS
from helpers.plots import attention

TS, TD, HEADS, K = 3, 5, 2, 5

pytestmark = pytest.mark.usefixtures("figures")


def view_of(ts=TS, td=TD):
    """A made-up clip as the gallery shows it."""
    rng = np.random.default_rng(0)
    weights = rng.random((HEADS, ts, td))
    return SimpleNamespace(
        crops=rng.integers(0, 255, (ts, 7, 7, 3), dtype=np.uint8),
        speed=rng.random((td, 11, 11)),
        attention=weights / weights.sum(-1, keepdims=True),
        face_t_s=np.arange(ts) + 0.5,
        motion_t_s=0.6 * np.arange(td) + 0.3,
        windows={"warm light": (1.0, 1.85)},
    )


@pytest.fixture
def view():
    return view_of()


def test_a_clip_is_drawn_on_one_time_axis_with_faces_links_motion_and_effects(view):
    effects = np.random.default_rng(1).normal(size=TD)
    fig = attention.plot_clip_attention(view, effects, title="a clip")
    face, links, motion, effect = fig.axes[:4]
    assert [len(ax.images) for ax in (face, motion)] == [TS, TD]
    left, right = face.images[1].get_extent()[:2]
    assert (left + right) / 2 == pytest.approx(1.5)
    assert len(links.collections[0].get_segments()) == TS * TD
    assert links.collections[0].get_colors()[:, 3].argmax() == view.attention.mean(0).argmax()
    np.testing.assert_allclose([bar.get_height() for bar in effect.patches[1:]], effects)
    assert effect.patches[0].get_x() == 1.0
    assert fig.axes[4].get_ylabel() == "mean speed\n(px/frame\nof 11 px)"
    assert face.get_xlim() == effect.get_xlim()


def test_a_long_clip_shows_some_of_its_pictures():
    fig = attention.plot_clip_attention(view_of(30, 30), np.zeros(30))
    assert len(fig.axes[0].images) == attention.MOST_PICTURES


def test_heads_and_traits_are_rows_on_the_clips_time_axis(view):
    relevance = np.random.default_rng(1).normal(size=(K, TD))
    fig = attention.plot_heads_and_traits(view, relevance, TRAITS, title="a clip")
    face, motion, heads, traits = fig.axes[:4]
    assert (len(face.images), len(motion.images)) == (TS, TD)
    np.testing.assert_array_equal(heads.collections[0].get_array(), view.attention.mean(axis=1))
    np.testing.assert_array_equal(traits.collections[0].get_array(), relevance)
    low, high = traits.collections[0].get_clim()
    assert low == -high
    assert traits.collections[1].get_segments()[0][0, 0] == 1.0
    assert traits.get_xlabel() == "time (s)"
    assert [ax.get_ylabel() for ax in fig.axes[5:]] == ["share", "relevance\n(score)"]


def test_a_map_keeps_its_axes_apart(view):
    _, ax = plt.subplots()
    assert attention.plot_attention_map(view.attention[0], view.face_t_s, view.motion_t_s, ax=ax) is ax
    assert ax.collections[0].get_array().shape == (TS, TD)
    assert ax.get_xlabel() == "motion token (s)"
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert ax.figure.axes[1].get_ylabel() == "attention"


def test_heads_share_one_scale_and_show_their_entropy(view):
    fig = attention.plot_heads(view.attention, view.face_t_s, view.motion_t_s, [0.25, 0.75])
    first, second = fig.axes[:HEADS]
    assert first.collections[0].get_clim() == second.collections[0].get_clim()
    assert first.get_title(loc="left") == "head 1: entropy 0.25"
    assert first.get_ylim()[0] > first.get_ylim()[1]


def test_lags_are_drawn_as_given():
    profile = pd.DataFrame({"lag_s": [-1, 0, 1], "attention": [0.1, 0.8, 0.1]})
    ax = attention.plot_lag({"trained": profile})
    assert ax.lines[0].get_ydata().tolist() == [0.1, 0.8, 0.1]


def test_entropies_stand_beside_the_uniform_one_and_close_up():
    whole, close = attention.plot_entropy(0.02 * np.random.default_rng(0).random((7, HEADS))).axes
    assert [label.get_text() for label in close.get_xticklabels()] == ["head 1", "head 2"]
    assert whole.get_ylim() == (0, 1.08)
    assert close.get_ylim()[1] < 0.03


def test_share_against_effect_uses_the_given_axes():
    _, second = plt.subplots()
    assert attention.plot_share_against_effect(np.array([0.1, 0.2]), np.array([0.3, 0.4]), ax=second) is second
    assert second.lines[0].get_xydata().tolist() == [[0.1, 0.3], [0.2, 0.4]]


def test_pointing_has_a_bar_an_interval_and_dots_per_row():
    values = {"occlusion_pointing": 0.9, "occlusion_pointing_shuffled": 0.3}
    intervals = {f"{name}_interval": [value - 0.1, value + 0.05] for name, value in values.items()}
    ax = attention.plot_pointing(
        values | intervals | {"occlusion_chance": 0.35, "motion_pointing": 0.5, "seeds": [values, values]}
    )
    assert [bar.get_width() for bar in ax.patches] == [0.9, 0.3]
    ends = [line.get_segments()[0][:, 0].tolist() for line in ax.collections]
    np.testing.assert_allclose(ends, [[v - 0.1, v + 0.05] for v in values.values()])
    assert [0.9, 0.9] in [list(line.get_xdata()) for line in ax.lines]
    assert [line.get_xdata()[0] for line in ax.lines[-2:]] == [0.35, 0.5]
    assert "planted window" in ax.get_xlabel()


def test_shares_stand_beside_the_control_and_the_uniform_share():
    row = {"inside": 0.7, "interval": [0.6, 0.8], "inside_shuffled": 0.3, "interval_shuffled": None, "uniform": 0.35}
    fig = attention.plot_planted_shares({"one": dict.fromkeys(TRAITS, row), "two": {TRAITS[0]: row}})
    first, second = fig.axes
    assert [bar.get_width() for bar in first.patches] == [0.7, 0.3] * 5
    assert first.lines[-1].get_xdata()[0] == 0.35
    assert second.get_title(loc="left") == "two"
    assert second.get_xlabel() == "share in planted windows"


def test_correlations_are_drawn_per_comparison_and_measure():
    row = {"attention": {"value": 0.8, "interval": [0.7, 0.9]}, "relevance": {"value": 0.1, "interval": None}}
    ax = attention.plot_map_correlations({"before training": row, "shuffled ratings": row})
    points = {bars.get_label(): bars.lines for bars in ax.containers}
    dots, _, (reach,) = points["attention"]
    assert dots.get_xdata().tolist() == [0.8, 0.8]
    np.testing.assert_allclose(reach.get_segments()[0][:, 0], [0.7, 0.9])
    assert points["relevance"][0].get_xdata().tolist() == [0.1, 0.1]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["before training", "shuffled ratings"]


def test_clips_are_rows_with_their_planted_tokens_outlined():
    shares = np.full((2, TD), 1 / TD)
    shares[1, 3:] = np.nan
    inside = np.zeros((2, TD), bool)
    inside[0, 1] = True
    fig = attention.plot_clips(shares, ["a", "b"], np.arange(TD) + 0.5, [0.5, 0.75], inside=inside)
    ax = fig.axes[0]
    np.testing.assert_array_equal(ax.collections[0].get_array().filled(np.nan), shares)
    assert [patch.get_xy()[0] + patch.get_width() / 2 for patch in ax.patches] == [1.5]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a  (0.500)", "b  (0.750)"]


def test_groups_are_drawn_by_their_median_clip():
    values = np.array([[0.1, 0.2], [0.3, 0.4], [0.8, np.nan]])
    ax = attention.plot_groups({"high": values}, np.array([0.5, 1.5]), ylabel="share")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.3, 0.3])
    assert ax.get_legend().get_texts()[0].get_text() == "high (3 clips)"
    plt.close("all")
