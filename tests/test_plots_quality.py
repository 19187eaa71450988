"""Plots of feature quality: what is drawn is read back from the artists."""

import numpy as np
import pandas as pd
import pytest

from helpers.plots import features

pytestmark = pytest.mark.usefixtures("figures")

POINTS = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "y": [5.0, 6.0, 7.0, 8.0]})
POINTS.attrs["shares"] = [0.6, 0.25]


def test_clips_of_one_source_are_joined():
    ax = features.plot_points(POINTS, sources=["a", "b", "a", "b"])
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[1, 5], [3, 7]], [[2, 6], [4, 8]]]
    assert ax.get_xlabel() == "component 1: 60% of variance"


def test_clips_have_the_colour_of_their_rating_and_unrated_ones_are_crosses():
    ax = features.plot_points(POINTS, ratings=[0.1, np.nan, 0.9, 0.5], name="openness")
    dots = ax.collections[0]
    assert dots.get_array().tolist() == [0.1, 0.9, 0.5]
    assert dots.get_offsets().tolist() == [[1, 5], [3, 7], [4, 8]]
    assert dots.get_clim() == (0, 1)
    assert ax.lines[0].get_xydata().tolist() == [[2, 6]]
    assert ax.figure.axes[1].get_ylabel() == "rating of openness"


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
        {"value": [0.4, 1.1], "low": [0.3, 1.0], "high": [0.6, 1.2], "permuted_low": [-0.1, 0.9]}
        | {"permuted_high": [0.1, 1.0]},
        index=["within", "between"],
    )
    ax = features.plot_consistency(table, title="alike")
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches] == [(-0.1, 0.1), (0.9, 1.0)]
    dots = next(line for line in ax.lines if line.get_marker() == "o")
    assert dots.get_xdata().tolist() == [0.4, 1.1]
    arms = ax.collections[0].get_segments()
    assert [arm[:, 0].tolist() for arm in arms] == [pytest.approx([0.3, 0.6]), pytest.approx([1.0, 1.2])]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["within", "between"]
    related = features.plot_rating_relation(table)
    assert related.lines[0].get_xdata().tolist() == [0.4, 1.1]


def test_channels_are_drawn_in_the_order_of_their_medians():
    rows = np.array([[5.0, 0.0, 2.0], [7.0, 0.0, 2.0], [9.0, 3.0, 2.0]])
    ax = features.plot_channels(rows)
    assert ax.lines[0].get_ydata().tolist() == [0, 2, 7]
    low = ax.collections[1].get_paths()[0].vertices[:, 1]
    assert (low.min(), low.max()) == (0, 8)  # the quartiles of all


def test_channels_are_counted_by_what_is_the_matter_with_them():
    counts = pd.Series({"dead": 2, "constant": 3, "mostly zero": 5, "saturated": 7, "in use": 83})
    ax = features.plot_channel_health(counts)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert dict(zip(names, [bar.get_width() for bar in ax.patches], strict=True)) == counts.to_dict()
    assert ax.texts[0].get_text().strip() == "83 (83.0%)"
