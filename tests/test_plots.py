"""Figures: what is drawn is read back from the artists; what is not defined is said in them."""

import io
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageSequence

from helpers import plots
from helpers.clips import TRAITS
from helpers.plots import attention, features, preparation, training

pytestmark = pytest.mark.usefixtures("figures")

NAN = float("nan")
RNG = np.random.default_rng(0)
TS, TD, HEADS = 3, 5, 2
T_S = np.array([0.25, 0.75, 1.25])
PIXELS = RNG.integers(0, 255, (7, 11, 13, 3)).astype(np.uint8)
NOTHING = np.zeros((1, 8, 8, 3), np.uint8)
ENERGY = RNG.uniform(0, 1, (3, 4, 4))
PLACES = 28.0 * np.arange(4) + 14
WEIGHTS = RNG.random((HEADS, TS, TD))
VIEW = SimpleNamespace(  # a made-up clip as the gallery shows it
    crops=RNG.integers(0, 255, (TS, 7, 7, 3), dtype=np.uint8),
    speed=RNG.random((TD, 28, 28)),
    flow=np.tile([2.0, 0.0], (TD, 28, 28, 1)),
    attention=WEIGHTS,
    effects=RNG.normal(size=(TD, 5)),
    head=lambda _: WEIGHTS.mean(0),
    face_of=lambda _: 1,
    face_t_s=np.arange(TS) + 0.5,
    motion_t_s=0.6 * np.arange(TD) + 0.3,
    windows={"warm light": (1.0, 1.85)},
)
HISTORY = pd.DataFrame({"model": "aligned_mlp", "seed": 0, "epoch": range(3), "loss": 0.04, "val_loss": [9, 0.01, 4]})
LOGS = {
    "metrics": {
        "epoch": pd.DataFrame({"epoch": range(3), "loss": 0.04, "val_loss": [0.09, 0.01, NAN]}),
        "batch": pd.DataFrame({"epoch": [0, 0, 1, 1, 2, 2], "step": [0, 1] * 3, "loss": 0.1}),
    },
    "rates": {"epoch": pd.DataFrame({"epoch": range(3), "learning_rate": [0.1, 0.05, 0.025]})},
    "times": {
        "epoch": pd.DataFrame({"epoch": range(3), "seconds": 4, "steps_s": 3, "validation_s": 1, "other_s": 0}),
        "execution": pd.DataFrame({"epoch": range(3), "steps": 10, "seconds": 1.0}),
    },
    "analysis": {"share": {"start": 0, "steps": 0.7, "validation": 0.2, "other": 0.1}, "total_s": 12, "step_ms": 9},
}
HALF, UNKNOWN = dict.fromkeys(TRAITS, 0.5), dict.fromkeys("OCEAN")
TRUTH = np.linspace(0.1, 0.9, 11)
PREDICTED = pd.concat([pd.DataFrame({"trait": t, "truth": TRUTH, "prediction": TRUTH + 0.15}) for t in TRAITS])
ONE = PREDICTED.groupby("trait").head(1)


def bars(ax, side="width"):
    return [getattr(bar, f"get_{side}")() for bar in ax.patches if isinstance(bar, mpl.patches.Rectangle)]


def line(ax, k=0):
    return ax.lines[k].get_ydata()


def cells(ax):
    return ax.collections[0].get_array()


def drawn(figure):
    """The axes of a figure, which can be saved."""
    fig = getattr(figure, "figure", figure)
    fig.savefig(io.BytesIO())
    return fig.axes


def same(read, expected):
    np.testing.assert_allclose(np.ma.filled(np.asarray(read, float), NAN), expected, rtol=1e-5, atol=1e-9)


def test_figures_of_preparation():
    boxes = np.float32([[1, 2, 4, 5]] * 6 + [[np.nan] * 4])
    sources = ["detected", "tracked", "interpolated", "tracked", "tracked", "detected", "none"]
    look = {"boxes": boxes, "sources": sources, "stable_box": np.float32([0, 1, 8, 9])}
    ax = drawn(preparation.plot_contact_sheet(PIXELS, np.arange(7), **look))
    same([*ax[0].patches[1].get_bbox().extents, len(ax[6].patches)], [1, 2, 4, 5, 1])
    same(ax[3].images[0].get_array(), PIXELS[3])
    ax = drawn(preparation.plot_crops(PIXELS, np.arange(7)))
    same(ax[0].images[0].get_array(), np.concatenate(list(PIXELS), axis=1))
    ax = drawn(preparation.plot_flow(np.zeros((29, 29, 3), np.uint8), np.tile(np.float32([3, -2]), (29, 29, 1))))
    arrows, speed = ax[0].collections[0], ax[1].images[0].get_array()
    same([arrows.U[0], arrows.V[0], speed[0, 0]], [6, -4, np.hypot(3, 2)])


def test_figures_of_features():
    spent_s = {"decoding": 6.0, "flow": 2.0, "network": 4.0, "writing": 1.0}
    ax = drawn(features.plot_time_spent({"seconds_spent": spent_s, "extraction_time_seconds": 8.0}, 2))
    same(bars(ax[0]), [3, 1, 4, 1])
    ax = drawn(features.plot_rows(np.array([[0, 1, 5, 0], [0, 2, 5, 9], [0, 3, 5, 0]], float), T_S))
    same(cells(ax[0])[0], np.array([-3, 6, -3]) / np.std([0, 9, 0]))
    ax = drawn(features.plot_channel_pictures(ENERGY, [3, 1, 4], 112))
    same([one.images[0].get_array() for one in ax[:3]], ENERGY)
    heat = np.stack([np.zeros((5, 5)), np.eye(5), -2 * np.eye(5)])
    ax = drawn(features.plot_overlay(PIXELS[:3, :, :11], heat, T_S))
    same([image.get_array() for image in ax[0].images[1:]], heat / 2)
    ax = drawn(features.plot_layers(["early", "late"], [np.linspace(0, 100, 101), np.r_[np.zeros(75), np.ones(25)]]))
    same([*bars(ax[0]), *ax[0].lines[0].get_xdata()], [90, 1, 50, 0])
    points = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "y": [5.0, 6.0, 7.0, 8.0]})
    points.attrs["shares"] = [0.6, 0.25]
    rated = pd.Series([0.1, NAN, 0.9, 0.5], name="openness")
    ax = drawn(features.plot_plane(points, points, list("abab"), rated))
    same([*line(ax[0]), *line(ax[2], 1), *cells(ax[1]), *line(ax[1])], [5, 7, 6, 8, 0.1, 0.9, 0.5, 6])
    ax = drawn(features.plot_channels(np.array([[5.0, 0.0, 2.0], [7.0, 0.0, 2.0], [9.0, 3.0, 2.0]])))
    same(line(ax[0]), [0, 2, 7])
    ax = drawn(features.plot_evolution(T_S, np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]), ["a", "flat"]))
    same([line(ax[0]), line(ax[0], 1)], [[0, 0.5, 1], [0, 0, 0]])
    ax = drawn(features.plot_space_time(ENERGY, T_S, PLACES))
    same([cells(ax[0]), cells(ax[1])], [ENERGY.mean(1).T, ENERGY.mean(2).T])
    ax = drawn(features.plot_surface(np.arange(6.0).reshape(3, 2), T_S, PLACES[:2]))
    same(cells(ax[0]), [1.5, 3.5])
    ax = drawn(features.plot_flow_and_features(PIXELS[:3], T_S, ENERGY, T_S, VIEW.effects[:3], T_S))
    same(ax[0].images[0].get_array(), PIXELS[0])
    same(ax[1].images[-1].get_array(), ENERGY[2])
    same(cells(ax[2]), VIEW.effects[:3].T)


def test_figures_of_training():
    ax = drawn(training.plot_history(HISTORY))
    same([*line(ax[1]), *ax[1].collections[0].get_offsets()[0]], [3, 0.1, 2, 2, 0.1])
    ax = drawn(training.plot_dashboard(LOGS))
    same([*line(ax[0], 1)[:2], *line(ax[0], 2), *line(ax[1])], [0.3, 0.1, 0.1, *[0.1] * 6])
    same([*bars(ax[4], "height")[:4], *line(ax[2])], [3, 3, 3, 1, 0.1, 0.05, 0.025])
    low, high = (dict.fromkeys("OCEAN", value) for value in (0.2, 0.6))
    models = {"constant": {"seeds": [{"r2": low}]}, "ridge": {"seeds": [{"r2": high}, {"r2": UNKNOWN}]}}
    ax = drawn(training.plot_models(models))
    same(bars(ax[3]), [0.2, 0.6])
    ax = drawn(training.plot_predictions(PREDICTED, HALF))
    same([line(ax[0], 1)[0], *line(ax[0], 2)], [0.5, *(TRUTH[:-1] + 0.15), 1.0])  # cut to the scale
    for half_width, inside in ((0.2, "100%"), (0.05, "0%")):
        ax = drawn(training.plot_residuals(PREDICTED, HALF, dict.fromkeys(TRAITS, half_width)))
        assert all(f"\n{inside}" in one.get_title(loc="left") for one in ax)


def test_figures_of_attention():
    ax = drawn(attention.plot_clip_attention(VIEW, TRAITS))
    same([len(ax[0].images), len(ax[1].collections[0].get_segments())], [TS, TS * TD])
    same([*cells(ax[3]), *cells(ax[4])], [*WEIGHTS.mean(1), *VIEW.effects.T])
    ax = drawn(attention.plot_attention_map(WEIGHTS[0], VIEW.face_t_s, VIEW.motion_t_s))
    same(cells(ax[0]), WEIGHTS[0])
    ax = drawn(attention.plot_heads(WEIGHTS, VIEW.face_t_s, VIEW.motion_t_s, [0.25, 0.75]))
    same([cells(ax[0]), cells(ax[1])], WEIGHTS)
    ax = drawn(attention.plot_lag({"trained": pd.DataFrame({"lag_s": [-1, 0, 1], "attention": [0.1, 0.8, 0.1]})}))
    same(line(ax[0]), [0.1, 0.8, 0.1])
    ax = drawn(attention.plot_share_against_effect(np.array([0.1, 0.2]), np.array([0.3, 0.4])))
    same(ax[0].collections[0].get_offsets(), [[0.1, 0.3], [0.2, 0.4]])
    ax = drawn(attention.plot_clips(ENERGY[0], "abcd", T_S[0] * np.arange(4), inside=ENERGY[0] > 9))
    same(cells(ax[0]), ENERGY[0])
    maps = {"attention": {"value": 0.8, "interval": [0.7, 0.9]}, "occlusion": {"value": 0.1, "interval": None}}
    ax = drawn(plots.plot_intervals({"before training": maps, "shuffled ratings": maps}, "r", {"none": 0}))
    same([points.lines[0].get_xdata() for points in ax[0].containers], [[0.8, 0.8], [0.1, 0.1]])
    ax = drawn(attention.plot_segment(VIEW, 2, head=1))
    same(cells(ax[2]), WEIGHTS[:, :, 2])
    same(ax[1].images[0].get_array(), VIEW.speed[2])


ONCE = np.zeros(1)
LITTLE = [  # values that are one, equal, or not defined
    (features.plot_rows, np.ones((1, 7)), T_S[:1]),
    (features.plot_evolution, ONCE, np.zeros((1, 2)), ["a", "b"]),
    (features.plot_space_time, np.zeros((1, 1, 1)), ONCE, ONCE),
    (features.plot_surface, np.zeros((2, 2)), np.arange(2), np.arange(2)),
    (features.plot_flow_and_features, NOTHING, ONCE, np.zeros((1, 2, 2)), ONCE, np.zeros((1, 3)), ONCE),
    (features.plot_layers, ["a", "b"], [np.zeros(3), np.ones(1)]),
    (features.plot_channel_pictures, np.zeros((1, 2, 2)), [3], 32),
    (features.plot_channels, np.ones((1, 1))),
    (features.plot_overlay, NOTHING, np.zeros((1, 2, 2)), [0.0]),
    (preparation.plot_crops, NOTHING, [0.0]),
    (preparation.plot_flow, NOTHING[0], np.zeros((8, 8, 2))),
    (training.plot_predictions, PREDICTED.assign(truth=0.5, prediction=0.5), HALF),
    (training.plot_predictions, ONE, HALF),
    (training.plot_residuals, ONE, HALF, HALF),
    (training.plot_models, {"constant": {"seeds": [{"r2": UNKNOWN}]}}),
    (training.plot_history, HISTORY.head(1).assign(val_loss=NAN)),
    (plots.plot_intervals, {"the clip": {"occlusion": {"value": None, "interval": None}}}, "r", {}),
    (attention.plot_segment, SimpleNamespace(**vars(VIEW) | {"crops": None}), 1),
]


@pytest.mark.parametrize("little", LITTLE)
def test_what_is_not_defined_is_no_number_in_the_figure(little):
    draw, *data = little
    said = " ".join(text.get_text() for text in drawn(draw(*data))[0].figure.findobj(plt.Text))
    assert ("nan" in said, "None" in said) == (False, False)


def test_an_animation_shows_the_flow_and_the_answer_of_each_moment(tmp_path):
    flow_rgb, energy = np.zeros((3, 8, 8, 3), np.uint8), np.zeros((3, 2, 2))
    flow_rgb[1], energy[2] = (255, 0, 0), 1
    movie = features.animate_evolution(flow_rgb, energy, np.zeros((3, 2)), np.array([0.0, 1.0, 2.0]))
    movie.save(tmp_path / "moving.gif", writer="pillow")
    with Image.open(tmp_path / "moving.gif") as gif:
        frames = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]).astype(int)
    red, yellow = ((np.abs(frames - color).max(-1) < 30).sum((1, 2)) for color in ((255, 0, 0), (253, 231, 36)))
    assert (red > 1000).tolist() == [False, True, False]
    assert yellow[2] > yellow[:2].max() + 1000  # the end of viridis


def test_a_saved_figure_is_a_whole_png_and_the_first_removes_those_of_before(tmp_path):
    old = tmp_path / "ein Lauf" / "figures" / "01_old.png"
    old.parent.mkdir(parents=True)
    old.touch()
    path = plots.save(plt.subplots(figsize=(3, 2))[0], tmp_path / "ein Lauf", "01_ratings")
    assert [*path.parent.iterdir()] == [tmp_path / "ein Lauf" / "figures" / "01_ratings.png"]
    assert plt.imread(path).ndim == 3
    plots.save(plt.figure(), tmp_path / "ein Lauf", "01_leaks")
    assert path.exists()
