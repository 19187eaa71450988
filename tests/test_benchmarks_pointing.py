import numpy as np
import pandas as pd
import pytest

from benchmarks.pointing import DATA, planted_places, pointing
from helpers.config import PreparationConfig
from helpers.faces import track_clip


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
