"""What networks see, what features are worth, what a model's answer rests on: on inputs whose answer is known."""

from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers, ops
from toy_tokens import DD, DS, HEADS, TD, TS, aligned, network, tokens

from helpers import attention, saliency
from helpers import feature_quality as quality
from helpers.align import read_aligned
from helpers.attention import get_attention_weights, occlusion
from helpers.backbones import BACKBONES, build_backbone
from helpers.clips import TRAITS
from helpers.config import TrainingConfig
from helpers.experiment import TrainingData
from helpers.files import ROOT
from helpers.i3d import build_i3d
from helpers.model import clips_at_once
from helpers.saliency import activations, grad_cam, gradient_of, layer_table, maximise, stages_of
from helpers.store import FeatureFile, write_features
from helpers.weights import fill_random

B, SOURCES = 3, np.repeat([f"source {k}" for k in range(11)], 3)


@pytest.fixture(scope="module")
def resnet():
    return build_backbone("resnet50", "random", input_px=64)


def test_the_table_lists_layers_with_the_shapes_that_they_have(resnet):
    table = layer_table(resnet.model, (64, 64, 3))
    stages = stages_of(resnet.model, table)
    assert stages == ["conv1_relu", *(f"conv{k}_block{n}_out" for k, n in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True))]
    x = resnet.preprocess(np.random.default_rng(0).integers(0, 256, (11, 64, 64, 3)).astype(np.uint8))
    said = activations(resnet.model, x, stages)
    sizes = table.loc[stages, ["height", "width", "channels"]].to_numpy().tolist()
    assert [list(one.shape[1:]) for one in said.values()] == sizes
    rows = ops.convert_to_numpy(resnet.model(x, training=False))
    np.testing.assert_allclose(said["conv5_block3_out"].mean((1, 2)), rows, rtol=1e-3, atol=1e-4)
    assert "avg_pool" not in table.index  # it has no positions
    assert table.loc["conv1_conv", "parameters"] == 7 * 7 * 3 * 64 + 64
    model = build_i3d(2, endpoint="Mixed_3c")
    table = layer_table(model, (16, 32, 32, 2))
    assert stages_of(model, table) == ["Conv3d_1a_7x7", "Conv3d_2c_3x3", "Mixed_3c"]
    assert table.loc["Mixed_3c", ["time", "height", "width", "channels"]].tolist() == [8, 4, 4, 480]


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_each_backbone_has_five_stages_or_more_that_halve_the_picture(name):
    model = build_backbone(name, "random", input_px=64).model
    table = layer_table(model, (64, 64, 3))
    assert table.loc[stages_of(model, table), "height"].tolist()[-5:] == [32, 16, 8, 4, 2]


def test_what_is_taken_of_activations():
    said = np.zeros((2, 3, 5))
    said[..., 3], said[..., 1], said[..., 4] = 2, 7, 2
    assert saliency.strongest_channels(said, 4).tolist() == [1, 3, 4, 0]  # equal ones by their number
    assert saliency.centres(4, 8.0).tolist() == [1, 3, 5, 7]
    assert saliency.energy(np.array([[[3.0, -4.0], [0.0, 0.0]]])).tolist() == [[pytest.approx(12.5**0.5), 0.0]]


def test_the_map_lights_up_where_the_direction_comes_from():
    """Channels are mean red and mean blue. Red at rows 2 and 3, columns 8 and 9; blue at rows 6 and 7, columns 0, 1."""
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(2, 1, use_bias=False, name="colours")(inputs)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(layers.AveragePooling2D(2, name="pool")(x)))
    kernel = np.zeros((1, 1, 3, 2), np.float32)
    kernel[0, 0, 0, 0] = kernel[0, 0, 2, 1] = 1
    model.get_layer("colours").set_weights([kernel])
    spots = np.zeros((2, 12, 12, 3), np.float32)
    spots[0, 2:4, 8:10, 0] = 1
    spots[:, 6:8, 0:2, 2] = 5
    red = grad_cam(model, spots, "pool", np.float32([1, 0]))
    assert red.shape == (2, 6, 6)
    assert np.argwhere(red[0] > 0).tolist() == [[1, 4]]
    assert (red[1] <= 0).all()
    assert red[0].sum() == pytest.approx(4 / 144)  # of a mean, the map is its parts
    both = grad_cam(model, spots, "pool", np.float32([[1, -1], [0, 2]]))  # each input has its own
    assert both[0, 1, 4] > 0 > both[0, 3, 0]
    assert both[1, 3, 0] > 0


def test_i3d_is_explained_over_space_and_time():
    model = build_i3d(2, endpoint="Conv3d_2c_3x3")
    fill_random(model, 0, "he")
    x = np.zeros((1, 16, 32, 32, 2), np.float32)
    x[0, 10:14, 4:12, 20:28] = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 2))
    direction = np.random.default_rng(1).normal(size=192).astype(np.float32)
    said = activations(model, x, ["Conv3d_2c_3x3"])["Conv3d_2c_3x3"]
    last = grad_cam(model, x, "Conv3d_2c_3x3", direction)
    np.testing.assert_allclose(last, said @ direction / np.prod(said.shape[1:4]), rtol=1e-3, atol=1e-7)
    strongest = np.eye(192, dtype="float32")[said.mean((0, 1, 2, 3)).argmax()]
    early = grad_cam(model, x, "Conv3d_1a_7x7", strongest)[0]
    t, y, column = np.unravel_index(np.abs(early).argmax(), early.shape)
    assert early.shape == (8, 16, 16)
    assert (4 <= t <= 7, y <= 8, column >= 8) == (True,) * 3  # the motion is at 5 and 6 of 8; layers see 3 to each side


def test_the_activation_of_every_channel_rises_within_the_bounds(resnet):
    layer, channels = "conv2_block3_out", [2, 5, 7]
    how = {"low": 0, "high": 255, "prepare": resnet.prepare, "steps": 4}
    found, before, after = maximise(resnet.model, layer, channels, (64, 64, 3), **how)
    assert found.shape == (3, 64, 64, 3)
    assert 0 <= found.min() <= found.max() <= 255
    assert (after > 2 * before).all()
    said = activations(resnet.model, np.asarray(resnet.prepare(found)), [layer])[layer].mean((1, 2))
    np.testing.assert_allclose(after, said[[0, 1, 2], channels], rtol=1e-4)  # of the picture's own channel


def test_the_gradient_of_a_known_function_is_the_known_one():
    x = np.array([[1.0, -2.0], [3.0, 5.0]], np.float32)
    value, gradient = gradient_of(lambda a: ops.sum(a**3), x)
    assert value == pytest.approx((x**3).sum())
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(gradient, 3 * x**2)
    with pytest.raises(ValueError, match="connection"):
        gradient_of(lambda a: ops.convert_to_tensor(np.float32(ops.convert_to_numpy(a).sum())), x)


def write_rows(folder, key, features, valid):
    t_s = np.arange(len(features)) / 2
    rows = FeatureFile(np.float32(features), t_s, t_s + 0.5, np.arange(len(t_s)), np.array(valid))
    write_features(folder / f"{key}.npz", rows)


def clips_of(sources, identity):
    """Mean rows of clips: a part of their source's, and noise."""
    rng = np.random.default_rng(0)
    of_source = {name: rng.normal(size=53) for name in sorted(set(sources))}
    rows = [identity * of_source[s] for s in sources] + rng.normal(size=(len(sources), 53))
    return pd.DataFrame(rows, index=[f"clip {k}" for k in range(len(sources))])


@pytest.mark.parametrize("most_clips", [1000, 15])
def test_features_of_identity_are_consistent_within_sources_and_others_are_not(most_clips, monkeypatch):
    monkeypatch.setattr(quality, "MOST_CLIPS", most_clips)
    within, between = quality.consistency(clips_of(SOURCES, identity=1.0), SOURCES).values()
    assert 0.3 < within["measured"]["value"] < 0.7
    for found in (within, between):
        assert found["measured"]["value"] > found["permuted sources"]["interval"][1]
    noise, _ = quality.consistency(clips_of(SOURCES, identity=0.0), SOURCES).values()
    assert noise["measured"]["value"] < noise["permuted sources"]["interval"][1] + 0.03
    two = np.repeat(["a", "b"], 60)  # more clips of a source than are looked at
    monkeypatch.setattr(quality, "MOST_CLIPS", 60)
    assert quality.consistency(clips_of(two, identity=1.0), two) is not None
    for without_a_pair in ("abc", "aaa"):
        assert quality.consistency(clips_of("abc", identity=1.0), list(without_a_pair)) is None
    means = pd.DataFrame([[3.0, 5.0], [1.0, 5.0], [1.0, 1.0], [3.0, 1.0]])  # standardised (1, 1), (-1, 1), opposites:
    found = quality.consistency(means, ["x", "y", "x", "z"])  # each is opposite to one and square to two
    assert [row["measured"]["value"] for row in found.values()] == pytest.approx([-1, 1 + 1 / 5])


def test_the_direction_of_a_clip_points_from_the_mean_clip_to_it():
    means = clips_of(SOURCES, identity=2.0)
    means[0] = 3.0  # a channel that does not vary
    direction = quality.apart(means, "clip 4")
    along = (means - means.mean()) @ direction
    assert (direction.dtype, direction[0]) == (np.float32, 0)
    assert along.idxmax() == "clip 4"
    z = (means.loc["clip 4"] - means.mean())[1:] / means.std(ddof=0)[1:]
    assert along["clip 4"] == pytest.approx(np.linalg.norm(z), rel=1e-3)
    assert np.linalg.norm(quality.apart(means.iloc[[4]], "clip 4")) == pytest.approx(1, rel=1e-4)


def test_sources_lie_together_in_the_plane_and_some_clips_have_none():
    means = clips_of(SOURCES[:12], identity=9.0)
    pca, tsne = quality.planes(means)
    for table in (pca, tsne):
        points = table.to_numpy().reshape(4, 3, 2)
        within = np.linalg.norm(points - points.mean(1, keepdims=True), axis=-1).mean()
        assert within < 0.5 * np.linalg.norm(points.mean(1) - points.mean((0, 1)), axis=-1).mean()
    assert sum(pca.attrs["shares"]) < 1
    for none in (means.iloc[:2], means[[0]], pd.DataFrame([[0.1, 0.2, 0.3]] * 5)):
        assert quality.planes(none) is None


def test_clips_of_a_stage_are_their_valid_rows(tmp_path):
    table = pd.DataFrame({"source": list("srsr"), "openness": [0.2, 0.4, np.nan, 0.1]}, index=list("cbad"))
    write_rows(tmp_path, "a", [[1, 1], [9, 9], [3, 5]], [True, False, True])
    write_rows(tmp_path, "b", [[7, 7]], [True])
    write_rows(tmp_path, "c", [[2, 4]], [False])
    failed = [{"clip": "d", "reason": "no face"}, {"clip": "b", "row": 0, "reason": "lost"}]
    usable = quality.usable_clips(table, {"failed": failed})
    assert usable == ["c", "b", "a"]  # rated ones first
    means = quality.mean_features(tmp_path, table, usable)
    assert means.T.to_dict("list") == {"b": [7, 7], "a": [2, 3]}  # sources beside each other
    assert [quality.example_clip(tmp_path, keys)[0] for keys in (usable, ["c", "a"])] == ["b", "a"]
    with pytest.raises(ValueError, match="valid row"):
        quality.example_clip(tmp_path, ["c"])


def test_a_distance_is_the_mahalanobis_distance_and_another_version_is_refused(tmp_path):
    values = np.random.default_rng(0).standard_normal((1, 20_000, 2)).astype("float32") * np.float32([1, 4])
    mask, path = np.ones((1, 20_000), bool), tmp_path / "training_tokens.npz"
    many = replace(aligned(1), static_features=values, static_mask=mask, static_t_s=np.float32(0 * mask))
    quality.write_training_tokens(path, many, many)
    known = quality.read_training_tokens(path)["static"]
    here, along = known.distance(np.array([[2.0, 0.0]])), known.distance(np.array([[0.0, 8.0]]))
    assert here == pytest.approx(np.sqrt(2), rel=0.03)  # sqrt(2^2 / 2 channels)
    assert along == pytest.approx(here, rel=0.03)
    np.savez(path, static_mean=np.zeros(2))  # as another version wrote it
    with pytest.raises(ValueError, match="static_precision"):
        quality.read_training_tokens(path)


def test_few_held_out_clips_are_called_unlike_and_strange_ones_are(tmp_path):
    bank = read_aligned(ROOT / "data_sample" / "tokens")
    training, held_out = bank.take(np.arange(200)), bank.take(np.arange(200, 300))
    quality.write_training_tokens(tmp_path / "training_tokens.npz", training, held_out)
    known = quality.read_training_tokens(tmp_path / "training_tokens.npz")
    for name, of in known.items():  # training tokens lie at 1 on average
        own = getattr(training, f"{name}_features")[getattr(training, f"{name}_mask")]
        assert of.distance(own) == pytest.approx(1, rel=0.03)
    later = held_out.static_features
    assert np.mean([known["static"].describe(x)["unlike"] for x in later]) <= 0.02
    strange = known["static"].describe(later[0] * 5)
    assert (strange["unlike"], strange["held_out_clips"]) == (True, 100)
    assert strange["p_value"] == pytest.approx(1 / 101, abs=1e-6)
    assert strange["distance"] > strange["farthest_held_out"]


class OneTokenModel:
    """Answers with the first channel of one motion token, times the target's number; attends as it is told."""

    def __init__(self, place: int, weights: np.ndarray | None = None):
        self.place, self.weights = place, weights

    def __call__(self, inputs: dict, training: bool, return_attention: bool = False):
        scores = inputs["dynamic"][:, self.place, :1] * np.arange(5)
        return (scores, self.weights) if return_attention else scores


def test_long_clips_go_through_a_model_few_at_a_time_and_a_single_token_has_all_attention(monkeypatch):
    for static, dynamic, n in (((9,), (9,), 1024), ((9, 2), (9, 2), 1024), ((4096, 2), (2048, 2), 2)):
        assert clips_at_once({"static": np.zeros((1, *static)), "dynamic": np.zeros((1, *dynamic))}) == n
    inputs, found = tokens(), []
    for _ in range(2):
        found.append((get_attention_weights(network(), inputs), occlusion(network(), inputs, np.zeros(DD))))
        monkeypatch.setattr("helpers.model.PASS_NUMBERS", 2 * TS * DS)
    for whole, parts in zip(*found, strict=True):
        np.testing.assert_allclose(parts, whole, atol=1e-6)
    single = {name: x[:, :1] if name.startswith("dynamic") else x for name, x in inputs.items()}
    assert (get_attention_weights(network(), single) == 1).all()


def test_entropy_and_shares_by_time_and_by_lag_are_those_of_real_tokens():
    weights = np.zeros((B, HEADS, TS, TD))
    weights[0] = 1 / TD
    weights[1, :, :, 2] = 1
    weights[2, :, :2, :3] = 1 / 3
    masks = np.arange(TS)[None] < [[TS], [TS], [2]], np.arange(TD)[None] < [[TD], [TD], [3]]
    np.testing.assert_allclose(attention.attention_entropy(weights, *masks), [[1, 1], [0, 0], [1, 1]], atol=1e-9)
    by_time = attention.attention_by_time(OneTokenModel(0, weights), tokens() | {"static_mask": masks[0]})
    np.testing.assert_allclose(by_time[[0, 2]], [[1 / TD] * TD, [1 / 3] * 3 + [0] * 4], atol=1e-9)
    assert by_time[1].tolist() == [0, 0, 1, 0, 0, 0, 0]
    clock, clips = np.zeros_like(weights), aligned(B)
    clock[:, :, np.arange(TS), np.arange(TS)] = 1  # each face token looks at the motion token .5 s later
    profile = attention.attention_by_lag(OneTokenModel(0, clock), tokens(), step_s=1.0)
    assert profile.loc[profile["attention"] > 0].to_numpy().tolist() == [[0.5, 1]]
    clips.dynamic_mask[:, 1:] = False  # clips of one motion token
    assert attention.token_duration(clips) == 1.0
    assert len(attention.attention_by_lag(OneTokenModel(0, clock), clips.inputs(), 1.0)) == TS


def test_a_contribution_is_the_score_with_a_part_minus_that_without_it():
    inputs, baseline = tokens(), np.full(DD, 4.0, "float32")
    inputs["dynamic_mask"][1, 5:] = False
    effects = occlusion(OneTokenModel(2), inputs, baseline)
    assert effects.shape == (B, TD, 5)
    np.testing.assert_allclose(effects[:, 2, 3], 3 * (inputs["dynamic"][:, 2, 0] - 4), rtol=1e-5)
    assert not np.delete(effects, 2, axis=1).any()
    of_parts = occlusion(OneTokenModel(2), inputs, baseline, [[0, 1], [2, 3]])
    np.testing.assert_allclose(of_parts, np.stack([0 * effects[:, 2], effects[:, 2]], 1), rtol=1e-5)
    assert not occlusion(OneTokenModel(5), inputs, baseline)[1].any()  # token 5 of clip 1 is masked
    found = attention.shares(np.array([[1.0, -3.0, 5.0], [0.0, 0.0, 0.0]]), np.array([[True, True, False]] * 2))
    np.testing.assert_array_equal(found, [[0.25, 0.75, np.nan], [np.nan] * 3])


def write_truth(folder, clips, warm_s, cool_s):
    pd.DataFrame({"key": clips, "warm_s": warm_s, "cool_s": cool_s, "window_s": 1.0}).to_csv(folder / "truth.csv")


def test_a_token_is_inside_when_half_of_it_lies_in_a_window_of_its_own_clip(tmp_path):
    """Tokens of 1 s at .5, 1.5, ...; windows 1.5 to 2.5 (half of two tokens) and 4.2 to 5.2 (.8 of one)."""
    write_truth(tmp_path, ["clip1", "clip0"], [0.0, 1.5], [5.0, 4.2])
    inside = attention.planted_windows(tmp_path, aligned(2))
    assert [np.flatnonzero(row).tolist() for row in inside] == [[1, 2, 4], [0, 5]]
    assert attention.planted_windows(tmp_path / "none", aligned(2)) is None
    assert attention.planted_windows(tmp_path, aligned(3)) is None  # one of them is not synthetic
    assert attention.window_spans(tmp_path, "clip0")["cool light"] == (4.2, 5.2)
    assert attention.window_spans(tmp_path, "another") == {}


def test_a_model_that_rests_on_what_was_planted_is_told_from_one_that_does_not(monkeypatch, tmp_path):
    """Models rest on token 2, controls on token 4 of their shuffled motion; the most unusual motion is token 1."""
    clips = aligned(40)
    clips.dynamic_features[:, 1] *= 9
    monkeypatch.setattr(attention, "rated_clips", lambda _: clips)
    monkeypatch.setattr(attention, "load_trained", lambda _, name, __: OneTokenModel(4 if "shuffled" in name else 2))
    asked = TrainingData(tmp_path, None, ""), TrainingConfig(seeds=[0, 1]), "agreeableness"
    without = attention.evaluate(*asked)
    assert [value for value in without.values() if value] == ["agreeableness"]
    write_truth(tmp_path, clips.clips, 2.0, 5.0)  # tokens 2 and 5
    found = attention.evaluate(*asked)
    assert found.keys() == without.keys()
    assert found["occlusion_chance"] == pytest.approx(2 / TD)
    assert (found["occlusion_pointing"], found["occlusion_pointing_interval"]) == (1, [1, 1])
    low, high = found["occlusion_pointing_shuffled_interval"]
    assert low <= found["occlusion_pointing_shuffled"] <= min(high, 0.7)
    assert found["motion_pointing"] == 0
    assert list(found["pointing"]) == list(TRAITS)
    assert found["pointing"]["openness"]["true model"]["value"] == 0  # it answers with 0: no effect
    assert found["pointing"]["neuroticism"]["true model"]["value"] == 1


def test_rank_correlations_skip_what_is_missing_and_a_model_agrees_with_itself_and_not_with_other_weights():
    a = np.array([[1.0, 2.0, 9.0], [1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [1.0, 2.0, np.nan]])
    b = np.array([[0.1, 0.2, 0.3], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    np.testing.assert_allclose(attention.rank_correlation(a, b), [1, -1, np.nan, np.nan])
    model, clips = network(0), aligned(20)
    clips.dynamic_mask[1, 3:] = clips.static_mask[2, 2:] = False
    others = {"itself": model, "other": network(7)}
    found = attention.randomisation(model, others, clips, attention.mean_motion(clips), 3)
    for measure in ("attention", "occlusion"):
        assert found["itself"][measure]["value"] == pytest.approx(1)
    low, high = found["other"]["occlusion"]["interval"]
    assert low <= found["other"]["occlusion"]["value"] <= high < 0.6
