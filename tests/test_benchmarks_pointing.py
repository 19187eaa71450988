"""From the picture to the score of a trait: the whole chain, and how it is judged by what was planted."""

import shutil

import keras
import numpy as np
import pandas as pd
import pytest

from benchmarks.pointing import DATA, face_saliency, planted_places, pointing, score_slopes
from helpers.align import ChannelGroups, Pca, read_aligned
from helpers.clips import TRAITS
from helpers.config import PreparationConfig
from helpers.faces import track_clip
from helpers.files import read_json, write_json
from helpers.model import CompletePersonalityModel
from helpers.out_of_distribution import learn_training_tokens, write_training_tokens
from helpers.score import load_scorer

CLIP = sorted((DATA / "test80_01").glob("*.mp4"))[0]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    """An untrained model behind the shipped reduction."""
    folder = tmp_path_factory.mktemp("model")
    identity = read_json(DATA / "tokens" / "manifest.json")["identity"]
    CompletePersonalityModel(64, 32).save(folder / "model.keras")
    shutil.copy(DATA / "tokens" / "reduction.npz", folder)
    names = ("constant", "interval_half_width", "training_quantiles")
    card = dict.fromkeys(names, dict.fromkeys(TRAITS, 0.5)) | {"targets": list(TRAITS)}
    write_json(folder / "card.json", card | {"extractors": {name: identity[name] for name in ("static", "dynamic")}})
    shipped = read_aligned(DATA / "tokens" / "shipped")
    write_training_tokens(folder / "familiar.npz", learn_training_tokens(shipped, shipped))
    return load_scorer(folder)


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


@pytest.mark.slow
def test_a_video_has_a_map_for_each_of_its_faces(scorer):
    explained = face_saliency(CLIP, scorer, "openness", layer="conv5_block3_out")
    n = len(explained.t_s)
    assert n > 1
    assert explained.faces.shape == (n, 224, 224, 3)
    assert explained.maps.shape == (n, 7, 7)
    assert np.isfinite(explained.maps).all()
    assert (np.abs(explained.maps).max((1, 2)) > 0).all()


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
