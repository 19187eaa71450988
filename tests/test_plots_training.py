"""Plots of notebooks 06 and 07: what is drawn is read back from the artists."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from helpers.clips import TRAITS
from helpers.plots import attention, training

TS, TD, HEADS = 3, 5, 2


pytestmark = pytest.mark.usefixtures("figures")


@pytest.fixture
def predictions():
    truth = np.linspace(0.1, 0.9, 11)
    rows = [pd.DataFrame({"trait": t, "truth": truth, "prediction": truth + 0.1}) for t in TRAITS]
    return pd.concat(rows, ignore_index=True)


def test_history_marks_the_kept_epoch():
    table = pd.DataFrame({"model": "aligned_mlp", "seed": 0, "epoch": range(3), "loss": 0.04, "val_loss": [9, 0.01, 4]})
    fig = training.plot_history(table)
    curve, dot = fig.axes[1].lines
    np.testing.assert_allclose(curve.get_ydata(), [3, 0.1, 2])
    assert dot.get_xdata().tolist() == [2]
    assert fig.axes[0].get_ylabel() == "root mean squared error"


def test_models_show_means_as_bars_and_seeds_as_dots():
    r2 = [dict.fromkeys("OCEAN", value) for value in (0.2, 0.6)]
    models = {
        "constant": {"r2": r2[0], "seeds": [{"r2": r2[0]}]},
        "ridge": {"r2": r2[1], "seeds": [{"r2": r2[0]}, {"r2": dict.fromkeys("OCEAN")}]},
    }
    fig = training.plot_models(models)
    assert len(fig.axes) == 5
    assert [bar.get_width() for bar in fig.axes[3].patches] == [0.2, 0.6]
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["constant", "ridge"]
    dots = fig.axes[3].lines[1].get_xdata()
    assert dots[0] == 0.2
    assert np.isnan(dots[1])


def test_predictions_stand_beside_the_constant(predictions):
    fig = training.plot_predictions(predictions, dict.fromkeys(TRAITS, 0.5))
    ax = fig.axes[0]
    assert ax.lines[1].get_ydata()[0] == 0.5
    np.testing.assert_allclose(ax.lines[2].get_ydata() - ax.lines[2].get_xdata(), 0.1)
    assert "1−MAE 0.90" in ax.get_title(loc="left")
    assert "constant 0.78" in ax.get_title(loc="left")


def test_a_prediction_beyond_the_scale_is_a_cross_on_the_edge(predictions):
    beyond = predictions.assign(prediction=predictions["prediction"].where(predictions.index < 54, 1.2))
    ax = training.plot_predictions(beyond, dict.fromkeys(TRAITS, 0.5)).axes[4]
    assert np.isnan(ax.lines[2].get_ydata()).sum() == 1
    assert ax.lines[3].get_xydata().tolist() == [[0.9, 1.0]]


def test_residuals_say_how_many_the_interval_holds(predictions):
    fig = training.plot_residuals(predictions, dict.fromkeys(TRAITS, 0.5), dict.fromkeys(TRAITS, 0.05))
    assert "0% inside" in fig.axes[4].get_title(loc="left")
    fig = training.plot_residuals(predictions, dict.fromkeys(TRAITS, 0.5), dict.fromkeys(TRAITS, 0.2))
    assert "100% inside" in fig.axes[4].get_title(loc="left")


@pytest.fixture
def clip():
    rng = np.random.default_rng(0)
    weights = rng.random((TS, TD))
    return {
        "crops": rng.integers(0, 255, (TS, 7, 7, 3), dtype=np.uint8),
        "speed": rng.random((TD, 11, 11)),
        "attention": weights / weights.sum(1, keepdims=True),
        "static_t_s": np.arange(TS) + 0.5,
        "dynamic_t_s": 0.6 * np.arange(TD) + 0.3,
        "effects": rng.normal(size=TD),
    }


def test_a_clip_is_drawn_on_one_time_axis_with_faces_links_motion_and_effects(clip):
    fig = attention.plot_clip_attention(**clip, windows={"warm light": (1.0, 1.85)}, title="a clip")
    face, links, motion, effect = fig.axes[:4]
    assert [len(ax.images) for ax in (face, motion)] == [TS, TD]
    left, right = face.images[1].get_extent()[:2]
    assert (left + right) / 2 == pytest.approx(1.5)
    assert len(links.collections[0].get_segments()) == TS * TD
    assert links.collections[0].get_colors()[:, 3].argmax() == clip["attention"].argmax()
    np.testing.assert_allclose([bar.get_height() for bar in effect.patches[1:]], clip["effects"])
    assert effect.patches[0].get_x() == 1.0
    assert fig.axes[4].get_ylabel() == "mean speed\n(px/frame\nof 11 px)"
    assert face.get_xlim() == effect.get_xlim()


def test_a_long_clip_shows_some_of_its_pictures():
    n = 30
    t_s = np.arange(n, dtype=float)
    fig = attention.plot_clip_attention(
        np.zeros((n, 2, 2, 3), np.uint8), np.zeros((n, 2, 2)), np.eye(n), t_s, t_s, np.zeros(n)
    )
    assert len(fig.axes[0].images) == attention.MOST_PICTURES


def test_a_map_keeps_its_axes_apart(clip):
    _, ax = plt.subplots()
    assert attention.plot_attention_map(clip["attention"], clip["static_t_s"], clip["dynamic_t_s"], ax=ax) is ax
    assert ax.collections[0].get_array().shape == (TS, TD)
    assert ax.get_xlabel() == "motion token (s)"
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert ax.figure.axes[1].get_ylabel() == "attention"


def test_heads_share_one_scale_and_show_their_entropy(clip):
    maps = np.stack([clip["attention"], clip["attention"] / 2])
    fig = attention.plot_heads(maps, clip["static_t_s"], clip["dynamic_t_s"], [0.25, 0.75])
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
