"""Plots of notebook 06: what is drawn is read back from the artists."""

import numpy as np
import pandas as pd
import pytest

from helpers.clips import TRAITS
from helpers.plots import training

pytestmark = pytest.mark.usefixtures("figures")


@pytest.fixture
def predictions():
    truth = np.linspace(0.1, 0.9, 11)
    rows = [pd.DataFrame({"trait": t, "truth": truth, "prediction": truth + 0.1}) for t in TRAITS]
    return pd.concat(rows, ignore_index=True)


def test_history_marks_the_kept_epoch():
    table = pd.DataFrame({"model": "aligned_mlp", "seed": 0, "epoch": range(3), "loss": 0.04, "val_loss": [9, 0.01, 4]})
    fig = training.plot_history(table)
    np.testing.assert_allclose(fig.axes[1].lines[0].get_ydata(), [3, 0.1, 2])
    np.testing.assert_allclose(fig.axes[1].collections[0].get_offsets(), [[2, 0.1]])
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
