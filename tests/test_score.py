"""Scoring one video: the same tokens as the notebooks make, intervals, warnings, refusals."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from numbered import write_numbered
from scored import made_up

from helpers import score, scores
from helpers.align import read_aligned
from helpers.attention import occlusion
from helpers.clips import TRAITS
from helpers.files import ROOT, read_json, write_json
from helpers.metrics import conformal_quantile
from helpers.model import CompletePersonalityModel
from helpers.out_of_distribution import learn_training_tokens, write_training_tokens
from helpers.score import clip_warnings, model_warnings
from helpers.tracks import NoFaceError

DATA = ROOT / "data_sample"
AWKWARD = DATA / "awkward"
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
    bank = read_aligned(DATA / "tokens")
    write_training_tokens(
        folder / "familiar.npz", learn_training_tokens(bank.take(np.arange(100)), bank.take(np.arange(100, 160)))
    )
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
    result = score.score_clip(AWKWARD / "two_faces.mp4", scorer)
    assert any("up to 2 faces" in text for text in result.warnings)


def test_a_video_without_a_face_is_refused_with_the_reason(scorer):
    with pytest.raises(NoFaceError, match="no face found in"):
        score.score_clip(AWKWARD / "no_face.mp4", scorer)


def test_a_folder_without_a_usable_video_gives_the_first_reason(scorer, tmp_path):
    shutil.copy(AWKWARD / "no_face.mp4", tmp_path)
    with pytest.raises(ValueError, match=r"1 that cannot: no_face\.mp4: no face found"):
        scores.score_example(tmp_path, scorer, tmp_path)


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
    track = SimpleNamespace(coverage=0.5, n_faces_max=2, reason="the only face that moves", n_frames=150, fps=15.0)
    found = clip_warnings(track, np.array([0.5, 1.2]), scorer.card | {"training_length_s": 5.0}, {}, 3)
    assert any("the video is 10 s long, the training clips at most 5 s" in text for text in found)
    assert "a score was cut to [0, 1]" in found
    assert "the face was found in only 50% of the looked-at frames" in found
    assert "up to 2 faces in one frame; why this one was scored: the only face that moves" in found


def test_what_a_model_was_trained_on_is_said_with_every_score(scorer):
    card = scorer.card | {"drawn": True, "synthetic_labels": True, "split": {"warning": "this split leaks"}}
    found = model_warnings(card)
    assert [text.split(":")[0] for text in found] == [
        "the networks have random weights",
        "the model was trained on drawn clips",
        "the ratings of the training clips were invented",
        "the model's own scores are too high",
    ]


def test_what_is_odd_about_picture_and_faces_is_remarked_once_in_text_json_and_table(tmp_path):
    tags = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    path = write_numbered(tmp_path / "hdr.mp4", 5, codec_options={"x264-params": tags})
    hdr = "HDR (PQ): brought to SDR"
    track = SimpleNamespace(decoder=f"pyav 18.1.0 (ffmpeg), h264, software; {hdr}", remarks="3 shots; a still face")
    remarks = score.clip_remarks(path, track)
    assert remarks == [hdr, "3 shots", "a still face"]
    made = [made_up("hdr.mp4", remarks=remarks)]
    scores.write_scores(made, json=tmp_path / "score.json", csv=tmp_path / "score.csv")
    assert read_json(tmp_path / "score.json")[0]["remarks"] == remarks
    assert "HDR (PQ): brought to SDR; 3 shots; a still face" in (tmp_path / "score.csv").read_text()
    assert score.as_text(made[0]).splitlines()[-3:] == [f"  remark: {text}" for text in remarks]


def test_a_video_unlike_the_training_clips_is_called_so(scorer):
    result = score.score_clip(AWKWARD / "face_leaving.mp4", scorer, faces=0)
    assert result.familiarity["dynamic"]["unlike"]
    assert any("the motion is unlike the training clips" in text for text in result.warnings)
    assert not score.score_clip(CLIP, scorer, faces=0).familiarity["dynamic"]["unlike"]


def test_an_older_model_folder_scores_without_what_it_lacks(scorer):
    result = score.score_clip(AWKWARD / "very_short.mp4", dataclasses.replace(scorer, training={}), faces=0)
    assert result.effects == result.familiarity == {}
    assert len(result.score) == 5
    assert any("so short that it has one stretch of motion" in text for text in result.warnings)
    assert any("is not known: the model folder is an older one" in text for text in result.warnings)


def test_an_effect_is_what_the_score_loses_with_that_motion(scorer):
    tokens = score.tokens_of_video(CLIP, scorer)[1]
    inputs = {name: rows.features[None] for name, rows in tokens.items()}
    inputs |= {f"{name}_t_s": rows.t_s[None].astype("float32") for name, rows in tokens.items()}
    usual = scorer.training["dynamic"].mean
    parts = [np.array([0, 1]), np.array([5])]
    effects = -occlusion(scorer.model, inputs, usual, parts)[0]
    changed = inputs | {"dynamic": inputs["dynamic"].copy()}
    changed["dynamic"][0, :2] = usual
    expected = np.asarray(scorer.model(inputs))[0] - np.asarray(scorer.model(changed))[0]
    assert effects.shape == (2, 5)
    np.testing.assert_allclose(effects[0], expected, atol=1e-5)
    assert np.abs(effects).min() > 0


def test_intervals_hold_nine_of_ten_new_ratings_of_their_kind():
    """Split conformal on 75 validation clips, cut to the scale: what stands on the page, on exchangeable clips."""
    random = np.random.default_rng(0)
    inside = []
    for _ in range(2000):
        residuals = random.standard_t(3, (76, 1)) / 5
        truth = random.uniform(0, 1)
        raw = truth - residuals[-1, 0]
        half = min(conformal_quantile(residuals[:-1], 0.9)[0], 1.0)
        inside.append(np.clip(raw - half, 0, 1) <= truth <= np.clip(raw + half, 0, 1))
    assert 0.89 < np.mean(inside) < 0.93  # exact: ceil(76 * 0.9) / 76 = 0.908
