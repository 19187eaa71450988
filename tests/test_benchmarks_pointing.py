"""From the picture to the score of a trait, and how a map is judged by what was planted."""

import keras
import numpy as np
import pandas as pd
import pytest

from benchmarks.pointing import DATA, planted_places, pointing, score_slopes
from helpers.align import ChannelGroups, Pca
from helpers.config import PreparationConfig
from helpers.faces import track_clip
from helpers.model import CompletePersonalityModel


@pytest.mark.parametrize("method", ["pca", "groups"])
def test_slopes_are_those_of_small_steps_through_reduction_and_model(method):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 29)).astype(np.float32)
    reduction = Pca.fit(rng.normal(size=(101, 29)).astype(np.float32), 11) if method == "pca" else ChannelGroups(29, 11)
    keras.utils.set_random_seed(0)
    model = CompletePersonalityModel(11, 13, 16, 2)
    dynamic = rng.normal(size=(1, 7, 13)).astype(np.float32)

    def score(rows):
        scores = model({"static": reduction.transform(rows)[None], "dynamic": dynamic}, training=False)
        return float(keras.ops.convert_to_numpy(scores)[0, 3])

    inputs = {"static": reduction.transform(rows)[None], "dynamic": dynamic}
    slopes = score_slopes(model, inputs, 3, reduction, "static")
    assert slopes.shape == rows.shape
    direction = rng.normal(size=rows.shape).astype(np.float32)
    step = 1e-2 * direction
    changed = (score(rows + step) - score(rows - step)) / 2
    assert abs(changed) > 1e-3  # far above the rounding of a score
    assert (slopes * step).sum() == pytest.approx(changed, rel=0.03)


def test_a_map_is_judged_by_the_places_that_were_planted():
    places = np.zeros((2, 8, 8), bool)
    places[:, :2, :2] = True
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 0, 0], maps[1, 3, 3] = -1, 1
    found = pointing(maps, places)
    assert found["chance"] == 4 / 64
    assert found["strongest"] == 0.5
    assert 0.25 < found["mass"] <= 0.5  # the rest of the first map has spread around its place


@pytest.mark.slow
def test_the_band_is_above_the_eyes_and_the_scarf_below_the_mouth():
    truth = pd.read_csv(DATA / "truth.csv", index_col="key")
    key = truth.index[0]
    track = track_clip(DATA / f"{key}.mp4", PreparationConfig())
    t_s = np.array([0.5, 3.0])
    band, scarf = (
        planted_places(truth.loc[key], trait, track, t_s, 112) for trait in ("openness", "conscientiousness")
    )
    for places, (top, bottom) in ((band, (0.1, 0.5)), (scarf, (0.7, 1.0))):
        rows = np.argwhere(places)[:, 1] / 112
        assert 0.01 < places.mean() < 0.15
        assert top < np.quantile(rows, 0.05)
        assert np.quantile(rows, 0.95) <= bottom
