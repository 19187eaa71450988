"""Plots of notebooks 03 and 04: what is drawn is read back from the artists."""

import numpy as np
import pandas as pd
import pytest

from helpers.plots import dynamic, features

pytestmark = pytest.mark.usefixtures("figures")

POINTS = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "y": [5.0, 6.0, 7.0, 8.0]})
POINTS.attrs["shares"] = [0.6, 0.25]


def test_rows_show_the_channels_that_vary_most_on_the_clips_time():
    t_s = np.array([0.25, 0.75, 1.25])
    rows = np.array([[0, 1, 5, 0], [0, 2, 5, 9], [0, 3, 5, 0]], float)
    ax = features.plot_rows(rows, t_s, n_channels=2)
    assert ax.images[0].get_array().shape == (2, 3)
    assert ax.images[0].get_array()[0].argmax() == 1  # the fourth channel varies most and comes first
    assert ax.images[0].get_extent()[:2] == [0.0, 1.5]


def test_time_spent_is_that_of_each_process():
    spent_s = {"decoding": 6.0, "flow": 2.0, "network": 4.0, "writing": 1.0}
    ax = features.plot_time_spent(dict(reversed(spent_s.items())), 8.0, workers=2)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(spent_s)
    assert [bar.get_width() for bar in ax.patches] == [3, 1, 4, 1]
    assert [text.get_text().strip() for text in ax.texts] == ["38%", "12%", "50%", "12%"]
    assert ax.lines[0].get_xdata() == [8, 8]


def test_time_that_was_not_recorded_is_said():
    ax = features.plot_time_spent({}, 8.0, workers=2)
    assert [text.get_text() for text in ax.texts] == [features.NOT_RECORDED]
    assert ax.get_xlabel() == "seconds"
    assert not ax.patches


def drawn(fig):
    return [ax for ax in fig.axes if ax.images and ax.get_visible()]


def test_feature_maps_share_a_scale_and_lie_in_the_pixels_of_the_input():
    maps = np.random.default_rng(0).uniform(0, 3, (5, 7, 7))
    fig = features.plot_feature_maps(maps, [3, 1, 4, 11, 5], 112, columns=3, title="layer")
    axes = drawn(fig)[:5]
    assert [ax.get_title(loc="left") for ax in axes] == [f"channel {k}" for k in (3, 1, 4, 11, 5)]
    for ax, one in zip(axes, maps, strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), one)
        assert ax.images[0].get_extent() == [0, 112, 112, 0]
        assert ax.images[0].get_clim() == (0, maps.max())
    assert [ax.get_xticks().tolist() for ax in axes] == [[], [], [0, 112], [0, 112], [0, 112]]
    assert "activation" in [ax.get_ylabel() for ax in fig.axes]
    assert fig.get_supxlabel() == "x (px of the input)"


def test_maximised_inputs_are_drawn_as_they_are():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype(np.uint8)
    fig = features.plot_maximised(pictures, ["a", "b"], title="what channels answer to")
    for ax, picture in zip(drawn(fig), pictures, strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), picture)


def test_layers_show_how_large_their_activations_are_and_how_many_are_zero():
    values = [np.linspace(0, 100, 101), np.r_[np.zeros(75), np.ones(25)]]
    ax = features.plot_layers(["early", "late"], values)
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [(5, 90), (0, 1)]
    assert ax.lines[0].get_xdata().tolist() == [50, 0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["early\n1% are 0", "late\n75% are 0"]


def test_features_evolve_between_their_own_ends():
    t_s = np.array([0.1, 0.2, 0.3])
    ax = dynamic.plot_evolution(t_s, np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]), ["channel 7", "flat"])
    assert ax.lines[0].get_xdata().tolist() == t_s.tolist()
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0, 0.5, 1], [0, 0, 0]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["channel 7", "flat"]


def test_energy_lies_at_its_time_and_place():
    energy = np.arange(6.0).reshape(3, 2)
    t_s, place_px = np.array([0.5, 1.5, 2.5]), np.array([28.0, 84.0])
    ax = dynamic.plot_space_time(energy, t_s, place_px, axis="y")
    mesh = ax.collections[0]
    np.testing.assert_array_equal(mesh.get_array().reshape(2, 3), energy.T)
    assert mesh.get_coordinates()[0, :, 0].tolist() == [0, 1, 2, 3]
    assert ax.yaxis_inverted()
    assert ax.get_ylabel() == "y (px of the input)"
    fig = dynamic.plot_surface(energy, t_s, place_px, axis="x")
    surface = fig.axes[0].collections[0]
    assert fig.axes[0].get_zlim()[1] >= 5
    assert (fig.axes[0].get_xlabel(), fig.axes[0].get_ylabel()) == ("time (s)", "x (px of the input)")
    assert surface.get_array().tolist() == [1.5, 3.5]  # the mean height of both of its faces


def test_flow_answer_and_features_stand_at_the_same_times():
    rng = np.random.default_rng(0)
    flow_t_s, energy_t_s, rows_t_s = np.arange(30) / 10, np.arange(15) / 5 + 0.1, np.array([0.5, 1.5, 2.5])
    flow_rgb = rng.integers(0, 256, (30, 4, 4, 3)).astype(np.uint8)
    energy, rows = rng.uniform(0, 1, (15, 3, 3)), rng.normal(size=(3, 11))
    fig = dynamic.plot_flow_and_features(flow_rgb, flow_t_s, energy, energy_t_s, rows, rows_t_s)
    for image in fig.axes[0].images:
        at = np.mean(image.get_extent()[:2])
        np.testing.assert_array_equal(image.get_array(), flow_rgb[np.abs(flow_t_s - at).argmin()])
    for image in fig.axes[1].images:
        at = np.mean(image.get_extent()[:2])
        np.testing.assert_array_equal(image.get_array(), energy[np.abs(energy_t_s - at).argmin()])
    np.testing.assert_array_equal(fig.axes[2].collections[0].get_array().reshape(11, 3), rows.T)
    assert {ax.get_xlim() for ax in fig.axes[:3]} == {(0, 3)}


def test_the_pictures_of_an_animation_are_those_of_their_moment():
    flow_rgb = np.zeros((3, 8, 8, 3), np.uint8)
    flow_rgb[1] = (255, 0, 0)
    energy = np.zeros((3, 2, 2))
    energy[2] = 1
    frames = dynamic.draw_evolution(flow_rgb, energy, np.zeros((3, 2)), np.array([0.0, 1.0, 2.0]))
    assert frames.shape == (3, 270, 420, 3)
    red = [(frame == (255, 0, 0)).all(-1).sum() for frame in frames]
    assert red[1] > 1000
    assert red[0] == red[2] == 0
    yellow = [(frame == (253, 231, 36)).all(-1).sum() for frame in frames]  # the end of viridis
    assert yellow[2] > yellow[0] + 1000
    assert yellow[0] == yellow[1]


def test_a_map_lies_over_its_own_picture_and_says_its_time():
    faces = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3)).astype(np.uint8)
    heat = np.zeros((3, 5, 5))
    heat[1, 2, 3], heat[2, 0, 0] = 4, -2
    ax = features.plot_overlay(faces, heat, [0.25, 0.75, 1.5], title="clip")
    np.testing.assert_array_equal(ax.images[0].get_array(), np.concatenate(list(faces), axis=1))
    for k in range(3):
        np.testing.assert_array_equal(ax.images[1 + k].get_array(), heat[k] / 4)
        assert ax.images[1 + k].get_extent() == [20 * k - 0.5, 20 * k + 19.5, 19.5, -0.5]
        assert ax.images[1 + k].get_clim() == (-1, 1)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.25", "0.75", "1.50"]
    assert ax.get_xlabel() == "time (s)"


def test_clips_of_one_source_are_joined():
    ax = features.plot_points(POINTS, sources=["a", "b", "a", "b"])
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[1, 5], [3, 7]], [[2, 6], [4, 8]]]
    assert ax.get_xlabel() == "component 1: 60% of variance"


def test_the_plane_is_drawn_by_source_by_rating_and_by_neighbours():
    tsne = pd.DataFrame({"x": [9.0, 8.0, 7.0, 6.0], "y": [0.0, 1.0, 0.0, 1.0]})
    ratings = pd.Series([0.1, 0.2, 0.3, 0.4], name="extraversion")
    fig = features.plot_plane(POINTS, tsne, list("aabb"), ratings=ratings)
    assert fig.axes[1].collections[0].get_array().tolist() == ratings.tolist()
    assert fig.axes[2].lines[0].get_xdata().tolist() == [9, 8]
    assert fig.axes[2].get_xlabel() == "t-SNE 1 (no unit)"
    assert not features.plot_plane(POINTS, tsne, list("aabb")).axes[1].get_visible()


def test_what_was_measured_stands_beside_chance():
    table = pd.DataFrame(
        {"value": [0.4, 1.1], "permuted_low": [-0.1, 0.9], "permuted_high": [0.1, 1.0]}, index=["within", "between"]
    )
    ax = features.plot_consistency(table, title="alike")
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches] == [(-0.1, 0.1), (0.9, 1.0)]
    dots = next(line for line in ax.lines if line.get_marker() == "o")
    assert dots.get_xdata().tolist() == [0.4, 1.1]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["within", "between"]


def test_channels_are_drawn_in_the_order_of_their_medians():
    rows = np.array([[5.0, 0.0, 2.0], [7.0, 0.0, 2.0], [9.0, 3.0, 2.0]])
    ax = features.plot_channels(rows)
    assert ax.lines[0].get_ydata().tolist() == [0, 2, 7]
    low = ax.collections[1].get_paths()[0].vertices[:, 1]
    assert (low.min(), low.max()) == (0, 8)  # the quartiles of all


def test_clips_have_the_colour_of_their_rating_and_unrated_ones_are_crosses():
    ax = features.plot_points(POINTS, ratings=pd.Series([0.1, np.nan, 0.9, 0.5], name="openness"))
    dots = ax.collections[0]
    assert dots.get_array().tolist() == [0.1, 0.9, 0.5]
    assert dots.get_offsets().tolist() == [[1, 5], [3, 7], [4, 8]]
    assert dots.get_clim() == (0, 1)
    assert ax.lines[0].get_xydata().tolist() == [[2, 6]]
    assert ax.figure.axes[1].get_ylabel() == "rating of openness"
