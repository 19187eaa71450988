"""From the picture to the score of a trait: the whole chain."""

import shutil

import keras
import numpy as np
import pytest

from benchmarks.pointing import face_saliency, score_slopes
from helpers.align import ChannelGroups, Pca, read_aligned
from helpers.clips import TRAITS
from helpers.files import ROOT, read_json, write_json
from helpers.model import CompletePersonalityModel
from helpers.out_of_distribution import learn_training_tokens, write_training_tokens
from helpers.score import load_scorer, tokens_of_video

DATA = ROOT / "data_sample"
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
    _, tokens = tokens_of_video(CLIP, scorer)
    n = len(tokens["static"].valid)
    assert explained.faces.shape == (n, 224, 224, 3)
    np.testing.assert_array_equal(explained.t_s, tokens["static"].t_s)
    assert explained.maps.shape == (n, 7, 7)
    assert np.isfinite(explained.maps).all()
    assert (np.abs(explained.maps).max((1, 2)) > 0).all()
