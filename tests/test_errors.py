"""Where errors lie: planted slopes, lengths, sources and correlations are read back."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_train import tokens

from helpers import errors
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
    table = errors.calibration(predictions())
    assert table.groupby("trait", sort=False)["slope"].first().tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    assert table["clips"].tolist() == [40] * 10
    assert (table["prediction"].diff()[1:5] > 0).all()
    ax = pictures.plot_calibration(table)
    assert ax.lines[1].get_label() == f"warmth, slope {table['slope'].iloc[0]:.2f}"


def test_a_halo_shows_as_correlations_that_the_ratings_lack():
    table = predictions()
    general = table.groupby("clip")["truth"].transform("mean")
    truth, prediction = errors.trait_correlations(table.assign(prediction=general))
    assert abs(truth.loc["warmth", "calm"]) < 0.2
    assert prediction.loc["warmth", "calm"] == pytest.approx(1)
    fig = pictures.plot_correlations(truth, prediction)
    assert fig.axes[1].get_title(loc="left") == "predictions: mean |r| 1.00"
    assert fig.axes[2].get_ylabel() == "Pearson r"


def test_the_worst_source_is_the_one_with_the_planted_error():
    table = errors.errors_by_source(predictions(slope=1))
    assert table.index[0] == "s0"
    assert table.loc["s0"].tolist() == pytest.approx([0.3, 0.3, 5])
    assert table["mae"].iloc[1:].max() < 1e-9
    ax = pictures.plot_errors_by_source(table)
    assert "the worst is s0" in ax.get_title(loc="left")


def test_errors_by_length_follow_the_length_and_equal_lengths_make_one_row():
    table = predictions(slope=1)
    lengths = pd.Series(np.repeat([2.0, 4.0, 6.0, 15.0], 50), index=[f"c{i}" for i in range(200)])
    by_length = errors.errors_by_length(table, lengths)
    assert by_length["length_s"].iloc[0] == 2
    assert by_length["bias"].iloc[0] == pytest.approx(0.03)
    assert by_length["clips"].sum() == 200
    assert len(errors.errors_by_length(table, lengths * 0 + 5)) == 1
    ax = pictures.plot_errors_by_length(by_length)
    assert ax.get_xlabel() == "clip length (s)"


def test_the_length_of_a_clip_is_the_time_of_its_last_token():
    clips = tokens(3)
    clips.dynamic_t_s[1, -1] = 9
    lengths = errors.clip_lengths(clips)
    assert lengths.tolist() == [4.5, 9, 4.5]
    assert lengths.index.tolist() == clips.clips.tolist()


def test_unrated_rows_are_left_out():
    table = predictions()
    table.loc[:9, "truth"] = np.nan
    assert errors.calibration(table)["clips"].sum() == 390
    assert errors.errors_by_source(table).loc["s0", "mae"] == errors.errors_by_source(table[10:]).loc["s0", "mae"]


def test_intervals_are_drawn_with_those_no_better_than_a_constant_apart():
    rows = {"constant": [np.nan] * 3, "ridge": [0.6, 0.5, 0.7], "same_video": [0.0, -0.1, 0.1]}
    columns = ["over_constant", "over_constant_low", "over_constant_high"]
    table = pd.DataFrame.from_dict(rows, "index", columns=columns)
    _, given = plt.subplots()
    ax = pictures.plot_intervals(table, ax=given)
    assert ax is given
    assert [label.get_text() for label in ax.get_yticklabels()] == ["same video", "ridge"]
    assert [c.get_label() for c in ax.containers] == ["better than a constant", "no better"]
