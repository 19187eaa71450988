"""The models by name: what each is given and cannot see, what baselines can know, how networks differ."""

import numpy as np
import pytest
from toy_tokens import DD, DS, aligned, tokens

from helpers import variants
from helpers.config import TrainingConfig
from helpers.model import CompletePersonalityModel
from helpers.variants import SHUFFLED_MODEL, TOKEN_MODEL, VARIANTS

N = 60
CFG = TrainingConfig(fusion_dim=8, num_heads=2, epochs=10, batch_size=2)
NETWORKS = [name for name, variant in VARIANTS.items() if variant.build]
TRAIN, VALIDATION = np.arange(N) < 42, (np.arange(N) >= 42) & (np.arange(N) < 51)  # no source is parted
TEST = ~(TRAIN | VALIDATION)


@pytest.fixture
def clips():
    """Clips of 20 sources. Openness is the mean of a face channel, extraversion that of a motion channel."""
    clips = aligned(N, per_source=3)
    clips.labels[:, 0] = np.clip(0.5 + 0.3 * clips.static_features[:, :, 0].mean(1), 0, 1)
    clips.labels[:, 2] = np.clip(0.5 + 0.3 * clips.dynamic_features[:, :, 0].mean(1), 0, 1)
    return clips


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_takes_what_it_is_given_and_answers_every_target(name, clips):
    clips = clips.take(np.arange(4))
    model = variants.start_model(name, clips, CFG, 0)
    inputs = variants.model_inputs(name, clips, 0)
    scores = np.asarray(model(inputs))
    assert scores.shape == (4, 5)
    assert np.isfinite(scores).all()
    assert all(map(np.array_equal, model.get_weights(), variants.start_model(name, clips, CFG, 0).get_weights()))
    if name == "aligned_mlp":  # masked tokens are not averaged
        longer = {k: np.pad(inputs[k], ((0, 0), (0, 2), (0, 0)), constant_values=99.0) for k in ("static", "dynamic")}
        longer["mask"] = np.pad(inputs["mask"], ((0, 0), (0, 2)))
        np.testing.assert_allclose(np.asarray(model(longer)), scores, atol=1e-5)


def test_a_list_of_models_is_names_and_groups_in_the_tables_order():
    assert variants.chosen_models("short") == variants.MODELS
    assert variants.chosen_models("all") == tuple(VARIANTS)
    assert variants.chosen_models("aligned_mlp, ridge") == ("constant", "ridge", TOKEN_MODEL, "aligned_mlp")
    assert SHUFFLED_MODEL in variants.MODELS
    with pytest.raises(ValueError, match="lasso"):
        variants.chosen_models("ridge,lasso")


def test_shuffled_labels_move_ratings_among_the_clips_that_are_fitted():
    labels, fitted = np.arange(22.0).reshape(11, 2), np.arange(11) < 7
    mixed = variants.model_labels(variants.SHUFFLED_LABELS_MODEL, labels, fitted, 1)
    assert (mixed[~fitted] == labels[~fitted]).all()
    assert sorted(mixed[fitted, 0]) == sorted(labels[fitted, 0]) != mixed[fitted, 0].tolist()
    assert variants.model_labels(TOKEN_MODEL, labels, fitted, 1) is labels


def test_a_look_up_knows_the_constant_and_what_a_leaking_split_gives_away(clips):
    clips.labels[:, 1] = np.repeat(np.random.default_rng(1).uniform(0.2, 0.8, N // 3), 3)  # alike within a source
    clips.labels[0, 1] = np.nan
    looked_up, constant = (each([clips], TRAIN, VALIDATION)[0] for each in (variants.same_video, variants.constant))
    assert constant[5, 1] == pytest.approx(clips.labels[1:42, 1].mean(), abs=1e-6)
    assert np.ptp(constant, axis=0).max() == 0
    np.testing.assert_allclose(looked_up[~TRAIN], constant[~TRAIN], atol=1e-6)
    leaking = np.arange(N) % 3 < 2
    (prediction,) = variants.same_video([clips], leaking, ~leaking)
    assert np.corrcoef(prediction[~leaking, 1], clips.labels[~leaking, 1])[0, 1] > 0.95


def test_sources_are_shrunken_by_the_variances_between_and_within_them(clips):
    train, between, within = np.ones(N, bool), 0.01, 0.03
    rng, weights = np.random.default_rng(0), []
    for _ in range(100):
        values = np.repeat(rng.normal(0, between**0.5, N // 3), 3) + rng.normal(0, within**0.5, N)
        clips.labels[:, 0] = np.clip(0.5 + values, 0, 1)
        (prediction,) = variants.same_video([clips], train, ~train)
        weights.append(np.ptp(prediction[:, 0]) / np.ptp(clips.labels[:, 0].reshape(-1, 3).mean(1)))
    true, groups = 3 * between / (3 * between + within), N // 3
    expected = 1 - (1 - true) * (groups - 1) / (groups - 3)  # the ratio of mean squares is F-distributed
    assert np.mean(weights) == pytest.approx(expected, abs=0.03)


def test_ridge_sees_the_stream_it_is_given_and_is_fitted_to_rated_clips(clips):
    clips.labels[45, 0] = clips.labels[5, 0] = np.nan
    found = {}
    for name in ("ridge_face", "ridge_motion", "ridge"):
        prediction = variants.BASELINES[name]([clips], TRAIN, VALIDATION)[0][TEST]
        found[name] = [np.corrcoef(prediction[:, k], clips.labels[TEST, k])[0, 1] for k in (0, 2)]
    assert found["ridge_face"][0] > 0.9 > 0.7 > abs(found["ridge_face"][1])
    assert found["ridge_motion"][1] > 0.9 > 0.7 > abs(found["ridge_motion"][0])
    assert min(found["ridge"]) > 0.9


def test_operations_of_attention_are_those_counted_by_hand():
    """Its pairs grow with the square of the tokens."""
    width, heads = 16, 2
    model = CompletePersonalityModel(DS, DD, width, heads)
    inner = heads * width
    per_token = DS * width + DD * width + 3 * width * inner + inner * width + width * 64
    for n in (5, 20):
        inputs = {name: x for name, x in tokens(1, n, n).items() if name in ("static", "dynamic")}
        by_hand = 2 * (n * per_token + 2 * n * n * inner + 64 * 5)
        assert variants.count_flops(model, inputs) == pytest.approx(by_hand, rel=0.12)
