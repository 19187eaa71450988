"""Plots of notebooks 00, 03, 04, 05 and 09: what is drawn is read back from the artists."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest

from helpers.clips import TRAITS
from helpers.files import ROOT
from helpers.plots import alignment, features, score, setup

pytestmark = pytest.mark.usefixtures("figures")


def test_similarity_is_drawn_as_it_is():
    similarity = pd.DataFrame([[1.0, 0.5], [0.5, 1.0]], index=["a", "b"], columns=["a", "b"])
    ax = features.plot_similarity(similarity)
    np.testing.assert_allclose(ax.images[0].get_array(), similarity)


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


@pytest.mark.parametrize("name", ["03_static_extraction", "04_dynamic_extraction"])
def test_the_notebooks_draw_a_log_that_lacks_the_time_spent(name):
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    (source,) = [cell.source for cell in cells if "plot_time_spent" in cell.source]
    _, *lines = source.split("plots.save")[0].splitlines()  # the first one reads the log
    names = {"pictures": features, "cfg": SimpleNamespace(workers=2), "cores": lambda: 1}
    exec("\n".join(lines), names | {"log": {"extraction_time_seconds": 8.0}}, found := {})
    assert [text.get_text() for text in found["ax"].texts] == [features.NOT_RECORDED]


def test_tokens_lie_at_their_times():
    _, ax = plt.subplots()
    drawn = alignment.plot_token_times(np.array([0.3, 0.9]), np.array([0.25, 0.75]), segment_s=0.5, ax=ax)
    assert drawn is ax
    assert ax.lines[0].get_xdata().tolist() == [0.3, 0.9]
    assert [bar.get_x() for bar in ax.patches] == [0.0, 0.5]


def test_the_spread_of_each_channel_is_drawn_per_stream():
    ax = alignment.plot_component_spread({"face": np.array([[0.0, 0.0], [2.0, 6.0]])})
    assert ax.lines[0].get_ydata().tolist() == [1, 3]


def test_speed_is_a_bar_per_operation():
    ax = setup.plot_speed(pd.DataFrame({"gflop_per_s": [7.0, 11.0]}, index=["matmul", "conv2d"]))
    assert [bar.get_width() for bar in ax.patches] == [7, 11]
    assert "GFLOP/s" in ax.get_xlabel()


def test_throughput_is_a_line_per_network_with_a_mark_where_memory_ran_out():
    rows = {"network": ["a", "a", "b"], "unit": ["images/s", "images/s", "clips/s"], "batch": [2, 8, 3]}
    figure = setup.plot_throughput(pd.DataFrame(rows | {"per_s": [5.0, np.nan, 7.0]}))
    first, second = figure.axes
    assert [line.get_xydata().tolist() for line in first.lines] == [[[2, 5]], [[8, 0]]]
    assert [line.get_xydata().tolist() for line in second.lines] == [[[3, 7]]]
    assert [ax.get_ylabel() for ax in figure.axes] == ["images/s", "clips/s"]
    assert first.get_legend().get_texts()[0].get_text() == "out of memory"
    assert [label.get_text() for label in first.get_xticklabels()] == ["2", "8"]


def test_a_score_stands_beside_the_constant_and_attention_beside_the_uniform_share():
    result = SimpleNamespace(
        video="a.mp4",
        score=dict.fromkeys(TRAITS, 0.7),
        low=dict.fromkeys(TRAITS, 0.6),
        high=dict.fromkeys(TRAITS, 0.8),
        constant=dict.fromkeys(TRAITS, 0.5),
        share_below=dict.fromkeys(TRAITS, 0.9),
        motion_t_s=[0.25, 0.75],
        motion_share=[0.2, 0.8],
    )
    ax = score.plot_score(result).axes[0]
    marks = {kind: [x for line in ax.lines if line.get_marker() == kind for x in line.get_xdata()] for kind in "o|"}
    assert marks == {"o": [0.7] * 5, "|": [0.5] * 5}
    assert ax.get_yticklabels()[4].get_text() == "emotional stability (N)"
    bars = score.plot_motion_share(result)
    assert [bar.get_height() for bar in bars.patches] == [0.2, 0.8]
    assert bars.lines[0].get_ydata()[0] == 0.5
