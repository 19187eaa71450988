"""Where errors lie: planted slopes, lengths, sources and correlations are read back."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_train import tokens

from helpers import metrics, statistics
from helpers.plots import errors as pictures

pytestmark = pytest.mark.usefixtures("figures")


def predictions(n: int = 200, slope: float = 0.5) -> pd.DataFrame:
    """Two traits whose ratings are independent; predictions are spread 1 / slope too far, source s0 is 0.3 too high."""
    random = np.random.default_rng(0)
    parts = []
    for trait in ("warmth", "calm"):
        truth = random.uniform(0.3, 0.7, n)
        source = [f"s{i // 5}" for i in range(n)]
        prediction = 0.5 + (truth - 0.5) / slope + np.where(np.arange(n) < 5, 0.3, 0)
        clip = [f"c{i}" for i in range(n)]
        parts.append(
            pd.DataFrame({"trait": trait, "clip": clip, "source": source, "truth": truth, "prediction": prediction})
        )
    return pd.concat(parts, ignore_index=True)


def test_predictions_that_are_spread_too_far_have_a_slope_below_one():
    table = metrics.calibration(predictions())
    assert table.groupby("trait", sort=False)["slope"].first().tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    assert table["clips"].tolist() == [40] * 10
    assert (table["prediction"].diff()[1:5] > 0).all()
    ax = pictures.plot_calibration(table)
    assert ax.lines[1].get_label() == f"warmth, slope {table['slope'].iloc[0]:.2f}"


def test_a_halo_shows_as_correlations_that_the_ratings_lack():
    table = predictions()
    general = table.groupby("clip")["truth"].transform("mean")
    truth, prediction = metrics.trait_correlations(table.assign(prediction=general))
    assert abs(truth.loc["warmth", "calm"]) < 0.2
    assert prediction.loc["warmth", "calm"] == pytest.approx(1)
    fig = pictures.plot_correlations(truth, prediction)
    assert fig.axes[1].get_title(loc="left") == "predictions: mean |r| 1.00"
    assert fig.axes[2].get_ylabel() == "Pearson r"


def test_the_worst_source_is_the_one_with_the_planted_error():
    table = metrics.errors_by_source(predictions(slope=1))
    assert table.index[0] == "s0"
    assert table.loc["s0"].tolist() == pytest.approx([0.3, 0.3, 5])
    assert table["mae"].iloc[1:].max() < 1e-9
    ax = pictures.plot_errors_by_source(table)
    assert "the worst is s0" in ax.get_title(loc="left")


def test_errors_by_length_follow_the_length_and_equal_lengths_make_one_row():
    table = predictions(slope=1)
    lengths = pd.Series(np.repeat([2.0, 4.0, 6.0, 15.0], 50), index=[f"c{i}" for i in range(200)])
    by_length = metrics.errors_by_length(table, lengths)
    assert by_length["length_s"].iloc[0] == 2
    assert by_length["bias"].iloc[0] == pytest.approx(0.03)
    assert by_length["clips"].sum() == 200
    assert len(metrics.errors_by_length(table, lengths * 0 + 5)) == 1
    ax = pictures.plot_errors_by_length(by_length)
    assert ax.get_xlabel() == "clip length (s)"


def test_the_length_of_a_clip_is_the_time_of_its_last_token():
    clips = tokens(3)
    clips.dynamic_t_s[1, -1] = 9
    lengths = metrics.clip_lengths(clips)
    assert lengths.tolist() == [4.5, 9, 4.5]
    assert lengths.index.tolist() == clips.clips.tolist()


def test_unrated_rows_are_left_out():
    table = predictions()
    table.loc[:9, "truth"] = np.nan
    assert metrics.calibration(table)["clips"].sum() == 390
    assert metrics.errors_by_source(table).loc["s0", "mae"] == metrics.errors_by_source(table[10:]).loc["s0", "mae"]


@pytest.fixture
def intervals():
    rows = {
        "constant": [np.nan] * 3 + [0.5, 0.4, 0.6],
        "ridge": [0.6, 0.5, 0.7, 0.1, -0.1, 0.3],
        "same_video": [0.0, -0.1, 0.1, -0.2, -0.3, -0.1],
    }
    columns = [f"{side}{end}" for side in ("over_constant", "under_token") for end in ("", "_low", "_high")]
    return pd.DataFrame.from_dict(rows, "index", columns=columns)


def test_intervals_are_drawn_with_those_no_better_than_a_constant_apart(intervals):
    _, given = plt.subplots()
    ax = pictures.plot_intervals(intervals, ax=given)
    assert ax is given
    assert [label.get_text() for label in ax.get_yticklabels()] == ["same video", "ridge"]
    assert [c.get_label() for c in ax.containers] == ["better", "no better"]
    middle, _, (bar,) = ax.containers[0].lines
    assert middle.get_xdata().tolist() == [0.6]
    np.testing.assert_allclose(bar.get_segments()[0][:, 0], [0.5, 0.7])


def test_both_kinds_of_comparison_are_drawn_with_those_that_are_worse(intervals):
    over, under = pictures.plot_comparisons(intervals).axes
    assert over.get_title(loc="left") == "each model minus the constant"
    assert [label.get_text() for label in under.get_yticklabels()] == ["same video", "ridge", "constant"]
    assert [c.get_label() for c in under.containers] == ["better than it", "not told apart", "worse than it"]


def test_group_errors_are_drawn_with_their_intervals():
    table = predictions(slope=1)
    group = pd.Series(np.where(np.arange(200) < 60, "a", "b"), index=[f"c{i}" for i in range(200)])
    found = statistics.group_errors(table, group, n=200)
    left, right = pictures.plot_group_errors(found).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["a (60 clips)", "b (140 clips)"]
    for ax, measure in ((left, "mae_over_others"), (right, "bias_over_others")):
        drawn = np.concatenate([c.lines[0].get_xdata() for c in ax.containers])
        np.testing.assert_allclose(sorted(drawn), sorted(found[g][measure]["value"] for g in "ab"))
    found["a"]["bias_over_others"] |= {"low": None, "high": None}  # a single source: no interval
    assert pictures.plot_group_errors(found).axes[1].containers
