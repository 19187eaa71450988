"""Scoring one video: the same tokens as the notebooks make, intervals, warnings, refusals."""

import dataclasses
import shutil

import numpy as np
import pytest

from helpers import score
from helpers.align import read_aligned
from helpers.clips import TRAITS
from helpers.faces import NoFaceError
from helpers.files import ROOT, read_json, write_json
from helpers.model import CompletePersonalityModel

DATA = ROOT / "data_sample"
CLIP = sorted((DATA / "test80_01").glob("*.mp4"))[0]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A model folder with an untrained network behind the shipped reduction."""
    folder = tmp_path_factory.mktemp("model")
    identity = read_json(DATA / "tokens" / "manifest.json")["identity"]
    CompletePersonalityModel(64, 32).save(folder / "model.keras")
    shutil.copy(DATA / "tokens" / "reduction.npz", folder)
    card = {
        "targets": list(TRAITS),
        "constant": dict.fromkeys(TRAITS, 0.5),
        "interval_half_width": dict.fromkeys(TRAITS, 0.2),
        "training_quantiles": dict.fromkeys(TRAITS, np.linspace(0, 1, 11).tolist()),
        "extractors": {name: identity[name] for name in ("static", "dynamic")},
    }
    write_json(folder / "card.json", card)
    return folder


@pytest.fixture(scope="module")
def scorer(model_dir):
    return score.load_scorer(model_dir)


@pytest.mark.slow
def test_a_video_is_looked_at_as_the_training_clips_were(scorer):
    _, tokens = score.tokens_of_video(CLIP, scorer)
    shipped = read_aligned(DATA / "tokens" / "shipped")
    row = shipped.clips.tolist().index(CLIP.relative_to(DATA).as_posix().removesuffix(".mp4"))
    for name in ("static", "dynamic"):
        expected = getattr(shipped, f"{name}_features")[row]
        np.testing.assert_allclose(tokens[name].features, expected, atol=0.02 * np.abs(expected).max())
        np.testing.assert_allclose(tokens[name].t_s, getattr(shipped, f"{name}_t_s")[row], atol=1e-5)


@pytest.mark.slow
def test_a_score_has_an_interval_and_the_constant_and_says_what_it_rests_on(scorer):
    result = score.score_clip(CLIP, scorer)
    for trait in TRAITS:
        assert 0 <= result.low[trait] <= result.score[trait] <= result.high[trait] <= 1
        assert result.high[trait] - result.low[trait] <= 0.4 + 1e-9
        assert result.constant[trait] == 0.5
    assert len(result.motion_share) == len(result.motion_t_s) == 9
    assert abs(sum(result.motion_share) - 1) < 1e-5
    assert any("random weights" in text for text in result.warnings)
    text = score.as_text(result)
    assert "emotional stability (N)" in text
    assert "note: the networks have random weights" in text


@pytest.mark.slow
def test_several_faces_are_said(scorer):
    result = score.score_clip(DATA / "awkward" / "two_faces.mp4", scorer)
    assert any("up to 2 faces" in text for text in result.warnings)


def test_a_video_without_a_face_is_refused_with_the_reason(scorer):
    with pytest.raises(NoFaceError, match="no face found in"):
        score.score_clip(DATA / "awkward" / "no_face.mp4", scorer)


def test_a_folder_without_a_usable_video_gives_the_first_reason(scorer, tmp_path):
    shutil.copy(DATA / "awkward" / "no_face.mp4", tmp_path)
    with pytest.raises(ValueError, match=r"1 that cannot: no_face\.mp4: no face found"):
        score.first_usable(tmp_path, scorer)


def test_other_weights_than_the_models_are_refused(model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "model")
    card = read_json(tmp_path / "model" / "card.json")
    card["extractors"]["static"]["weights"]["sha256"] = "0" * 64
    write_json(tmp_path / "model" / "card.json", card)
    with pytest.raises(ValueError, match="the static network must have the weights that the model was trained behind"):
        score.load_scorer(tmp_path / "model")


def test_a_model_of_features_made_elsewhere_says_that_it_cannot_score_videos(model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "model")
    card = read_json(tmp_path / "model" / "card.json")
    card["extractors"]["dynamic"]["weights"]["name"] = "elsewhere"
    write_json(tmp_path / "model" / "card.json", card)
    with pytest.raises(ValueError, match="its dynamic features were made elsewhere, or of stored faces or flow."):
        score.load_scorer(tmp_path / "model")


def test_a_reduction_of_other_features_is_refused(model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "model")
    card = read_json(tmp_path / "model" / "card.json")
    card["extractors"]["static"]["parameters"]["every_n_frames"] = 3
    write_json(tmp_path / "model" / "card.json", card)
    with pytest.raises(ValueError, match="made for other features: static.parameters.every_n_frames: 3 here, . there"):
        score.load_scorer(tmp_path / "model")


def test_a_score_outside_the_scale_is_cut_and_said(scorer):
    track = dataclasses.make_dataclass("T", ["coverage", "n_faces_max"])(0.5, 1)
    found = score._warnings(track, np.array([0.5, 1.2]), scorer.card)
    assert "a score was cut to [0, 1]" in found
    assert "the face was found in only 50% of the looked-at frames" in found
