"""Plots of notebooks 00, 01 and 05 and the common look: what is drawn is read back from the artists."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from helpers import metrics, plots
from helpers.clips import DISPLAY, TRAITS
from helpers.plots import TRAIT_COLORS, alignment, analysis, setup

pytestmark = pytest.mark.usefixtures("figures")


@pytest.fixture
def ratings():
    """Eleven clips; openness is rated for ten, neuroticism is 1 - openness."""
    values = np.random.default_rng(0).random((11, 5))
    values[:, 4] = 1 - values[:, 0]
    values[3, 0] = np.nan
    return pd.DataFrame(values, columns=TRAITS)


@pytest.fixture
def unrated():
    return pd.DataFrame(np.nan, index=range(7), columns=TRAITS)


def leaks(*rows):
    return pd.DataFrame(rows, columns=["split", "against", "clips", "sharing", "share"])


def texts(figure):
    return [t for t in figure.findobj(mpl.text.Text) if t.get_text() and t.get_visible()]


def test_every_histogram_holds_the_rated_clips_of_its_trait(ratings):
    figure = analysis.plot_rating_distributions(ratings)
    assert [sum(bar.get_height() for bar in ax.patches) for ax in figure.axes] == [10, 11, 11, 11, 11]
    for trait, ax in zip(TRAITS, figure.axes, strict=True):
        assert mpl.colors.to_hex(ax.patches[0].get_facecolor()).upper() == TRAIT_COLORS[trait]
        assert ax.lines[0].get_xdata()[0] == pytest.approx(ratings[trait].mean())
        assert f"mean {ratings[trait].mean():.2f}, sd {ratings[trait].std():.2f}" in ax.get_title(loc="left")
    assert figure.get_suptitle().startswith("11 rated clips: means 0.")
    assert figure.get_supxlabel() == "rating (0 to 1)"
    assert figure.axes[0].get_ylabel() == "clips"


def test_neuroticism_is_called_emotional_stability_on_every_picture(ratings):
    figure = analysis.plot_rating_distributions(ratings)
    assert "emotional\nstability (N)" in figure.axes[4].get_title(loc="left")
    ax = analysis.plot_trait_correlations(ratings.corr())
    assert [label.get_text() for label in ax.get_yticklabels()] == list(DISPLAY.values())


def test_correlations_are_drawn_as_numbers_on_a_scale_centred_on_zero(ratings):
    _, given = plt.subplots()
    correlations = ratings.corr()
    ax = analysis.plot_trait_correlations(correlations, ax=given)
    assert ax is given
    cells = ax.collections[0]
    np.testing.assert_array_equal(cells.get_array(), correlations)
    assert (cells.get_clim(), cells.get_cmap().name) == ((-1, 1), "RdBu_r")
    shown = [t.get_text() for t in ax.texts]
    assert len(shown) == 25
    assert shown[4] == "-1.00"
    assert ax.get_title(loc="left").startswith("Pairs correlate by r = -1.00 to +0.")


def test_the_floor_shows_the_score_of_each_trait_and_the_mean(ratings):
    table = metrics.constant_floor(ratings.to_numpy()[:5], ratings.to_numpy()[5:])
    _, given = plt.subplots()
    ax = analysis.plot_constant_floor(table, n_clips=5, ax=given)
    assert ax is given
    points = [x for dots in ax.collections for x in dots.get_offsets()[:, 0]]
    np.testing.assert_allclose(points, table["mean_accuracy"])
    assert [t.get_text().strip() for t in ax.texts] == [f"{score:.3f}" for score in table["mean_accuracy"]]
    assert [label.get_text() for label in ax.get_yticklabels()] == [*DISPLAY.values(), "mean"]
    assert ax.get_xlabel() == "mean accuracy, 1 - MAE (right edge: perfect)"
    assert ax.get_xlim()[1] == 1
    assert ax.get_title(loc="left").endswith(f"scores {table['mean_accuracy'].iloc[-1]:.3f} on 5 clips")


def test_leakage_is_drawn_in_clips_and_the_worst_pair_is_the_title():
    table = leaks(("validation", "train", 50, 10, 0.2), ("test", "train", 25, 21, 0.84))
    _, given = plt.subplots()
    ax = analysis.plot_leakage(table, ax=given)
    assert ax is given
    assert [bar.get_width() for bar in ax.patches] == [10, 21, 40, 4]
    assert [t.get_text().strip() for t in ax.texts] == ["10 of 50 (20%)", "21 of 25 (84%)"]
    assert ax.get_title(loc="left") == "84% of the test clips share a source with train"
    assert ax.get_xlabel() == "clips"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["their source is in it too", "it is not"]


def test_without_ratings_or_splits_the_pictures_say_so(unrated):
    assert analysis.plot_rating_distributions(unrated).get_suptitle() == "No clip is rated"
    assert analysis.plot_trait_correlations(unrated.corr()).get_title(loc="left") == "No pair of ratings varies"
    floor = metrics.constant_floor(unrated.to_numpy(), unrated.to_numpy())
    assert analysis.plot_constant_floor(floor).get_title(loc="left") == "No ratings to score against"
    assert analysis.plot_leakage(leaks()).get_title(loc="left") == "There are no two splits that could leak"


def test_no_text_is_smaller_than_nine_points(ratings):
    analysis.plot_rating_distributions(ratings)
    analysis.plot_trait_correlations(ratings.corr())
    analysis.plot_constant_floor(metrics.constant_floor(ratings.to_numpy(), ratings.to_numpy()))
    analysis.plot_leakage(leaks(("test", "train", 25, 21, 0.84)))
    for number in plt.get_fignums():
        assert min(text.get_fontsize() for text in texts(plt.figure(number))) >= 9


def test_other_targets_are_drawn_under_their_own_names():
    figure = analysis.plot_rating_distributions(pd.DataFrame({"warmth": [0.1, 0.2]}), targets=["warmth"])
    assert figure.axes[0].get_title(loc="left").startswith("warmth")


def test_drawing_leaves_the_settings_of_matplotlib_alone(ratings):
    before = dict(mpl.rcParams)
    analysis.plot_rating_distributions(ratings)
    analysis.plot_leakage(leaks(("test", "train", 25, 21, 0.84)))
    assert dict(mpl.rcParams) == before


def test_traits_have_five_different_colours():
    assert tuple(TRAIT_COLORS) == TRAITS
    assert len(set(TRAIT_COLORS.values())) == 5


def test_a_saved_figure_is_a_whole_png_of_its_size(tmp_path):
    figure, _ = plt.subplots(figsize=(3, 2))
    path = plots.save(figure, tmp_path / "ein Lauf", "01_ratings")
    assert path == tmp_path / "ein Lauf" / "figures" / "01_ratings.png"
    assert plt.imread(path).shape[:2] == (200, 300)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_speed_is_a_bar_per_operation():
    ax = setup.plot_speed(pd.DataFrame({"gflop_per_s": [7.0, 11.0]}, index=["matmul", "conv2d"]))
    assert [bar.get_width() for bar in ax.patches] == [7, 11]
    assert "GFLOP/s" in ax.get_xlabel()


def test_throughput_is_a_line_per_network_with_a_mark_where_memory_ran_out():
    rows = {"network": ["a", "a", "b"], "unit": ["images/s", "images/s", "clips/s"], "batch": [2, 8, 3]}
    figure = setup.plot_throughput(pd.DataFrame(rows | {"per_s": [5.0, np.nan, 7.0]}))
    first, second = figure.axes
    line, mark = first.lines
    np.testing.assert_array_equal(line.get_xydata(), [[2, 5], [8, np.nan]])
    assert mark.get_xydata().tolist() == [[8, 0]]
    assert [line.get_xydata().tolist() for line in second.lines] == [[[3, 7]]]
    assert [ax.get_ylabel() for ax in figure.axes] == ["images/s", "clips/s"]
    assert first.get_legend().get_texts()[0].get_text() == "out of memory"
    assert [label.get_text() for label in first.get_xticklabels()] == ["2", "8"]


def test_tokens_lie_at_their_times():
    _, ax = plt.subplots()
    drawn = alignment.plot_token_times(np.array([0.3, 0.9]), np.array([0.25, 0.75]), segment_s=0.5, ax=ax)
    assert drawn is ax
    assert ax.lines[0].get_xdata().tolist() == [0.3, 0.9]
    assert [bar.get_x() for bar in ax.patches] == [0.0, 0.5]


def test_the_spread_of_each_channel_is_drawn_per_stream():
    ax = alignment.plot_component_spread({"face": np.array([[0.0, 0.0], [2.0, 6.0]])})
    assert ax.lines[0].get_ydata().tolist() == [1, 3]
