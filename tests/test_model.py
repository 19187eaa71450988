"""The fusion model: its size, inputs, masks, time, a hand-computed attention; saved, exported and older files. The
models by name: what each is given and cannot see, what baselines can know.
"""

import math
import warnings

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from toy_tokens import DD, DS, HEADS, TD, TS, aligned, network, tokens

from helpers import variants
from helpers.config import TrainingConfig
from helpers.model import (
    TIME_GAIN,
    CompletePersonalityModel,
    CrossAttention,
    ModelSerializer,
    load_model,
    read_h5_weights,
    time_code,
)
from helpers.variants import TOKEN_MODEL, VARIANTS

B, F, TARGETS, N = 3, 8, 17, 60
TRAIN, VALIDATION = np.arange(N) < 42, (np.arange(N) >= 42) & (np.arange(N) < 51)  # no source is parted
TEST = ~(TRAIN | VALIDATION)


@pytest.fixture(scope="module")
def model():
    return network(n_targets=TARGETS)


def test_a_vector_is_a_sequence_of_one_token_and_time_counts_among_several(model):
    inputs = tokens()
    vectors = {name: inputs[name][:, 0] for name in ("static", "dynamic")}
    late = {"static_t_s": np.full((B, 1), 40.0, "float32"), "dynamic_t_s": np.full((B, 1), 2.0, "float32")}
    expected = np.asarray(model(tuple(vectors.values())))
    for times in ({}, late):
        one = {name: x[:, None] for name, x in vectors.items()} | times
        np.testing.assert_allclose(np.asarray(model(one)), expected, atol=1e-6)
    pair = {"static": inputs["static"], "dynamic": inputs["dynamic"]}  # missing times are whole seconds
    seconds = {"static_t_s": np.tile(np.arange(TS), (B, 1)), "dynamic_t_s": np.tile(np.arange(TD), (B, 1))}
    assert np.array_equal(np.asarray(model(pair)), np.asarray(model(pair | seconds)))
    assert not np.allclose(np.asarray(model(pair)), np.asarray(model(inputs)), atol=1e-5)
    with pytest.warns(UserWarning, match="constant"):
        _, attention = model((inputs["static"], inputs["dynamic"][:, :1]), return_attention=True)
    assert np.array_equal(np.asarray(attention), np.ones((B, HEADS, TS, 1)))


def test_padding_and_order_change_neither_scores_nor_attention_nor_the_batch_statistics(model):
    inputs = tokens()
    scores, attention = (np.asarray(x) for x in model(inputs, return_attention=True))
    assert (scores.shape, attention.shape) == ((B, TARGETS), (B, HEADS, TS, TD))
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-6)
    longer = {}  # by two masked tokens of large values behind each stream
    for name, x in inputs.items():
        fill = False if name.endswith("mask") else 99.0
        longer[name] = np.pad(x, [(0, 0), (0, 2), *[(0, 0)] * (x.ndim - 2)], constant_values=fill)
    more_scores, more_attention = (np.asarray(x) for x in model(longer, return_attention=True))
    np.testing.assert_allclose(more_scores, scores, atol=1e-5)
    expected = np.pad(attention, [(0, 0), (0, 0), (0, 2), (0, 2)])
    np.testing.assert_allclose(more_attention, expected, atol=1e-6)
    assert not more_attention[expected == 0].any()
    order = np.random.default_rng(1).permutation(TD)
    moved = inputs | {name: inputs[name][:, order] for name in ("dynamic", "dynamic_t_s", "dynamic_mask")}
    np.testing.assert_allclose(np.asarray(model(moved)), scores, atol=1e-5)
    means = []
    for x in (inputs, longer):
        clone = CompletePersonalityModel.from_config(model.get_config())
        clone.set_weights(model.get_weights())
        clone(x, training=True)
        means.append(np.asarray(clone.fusion.norm.moving_mean))
    np.testing.assert_allclose(*means, atol=1e-5)
    assert np.abs(means[0]).max() > 0


def test_attention_of_one_face_token_over_two_motion_tokens_by_hand():
    """Codes at t = 0 are [0, gain]; kernels are chosen so that the logits are 1 and 0: weights e/(1+e), 1/(1+e)."""
    layer = CrossAttention(fusion_dim=2, num_heads=1)
    layer.build((1, 1, 2), (1, 2, 2))
    eye, zero = np.eye(2, dtype="float32"), np.zeros(2, "float32")
    first_only = np.array([[1, 0], [0, 0]], "float32")
    cosine_first = np.array([[0, 0], [np.sqrt(2) / TIME_GAIN, 0]], "float32")  # undoes 1 / sqrt(width) and the gain
    for name in ("static_projection", "dynamic_projection", "output_projection", "value"):
        getattr(layer, name).set_weights([eye, zero])
    layer.query.set_weights([cosine_first, zero])
    layer.key.set_weights([first_only, zero])
    times, mask = np.zeros((1, 2), "float32"), np.ones((1, 2), bool)
    motion = np.array([[[1, 0], [0, 3]]], "float32")
    fused, attention = layer(np.zeros((1, 1, 2), "float32"), motion, times[:, :1], times, mask[:, :1], mask)
    first = math.e / (1 + math.e)
    np.testing.assert_allclose(np.asarray(attention)[0, 0, 0], [first, 1 - first], atol=1e-6)
    read = np.array([first, 3 * (1 - first)])
    np.testing.assert_allclose(np.asarray(fused)[0, 0], (read - read.mean()) / read.std(), atol=1e-3)


def test_training_starts_from_attention_to_the_same_time_and_codes_do_not_repeat_within_a_minute():
    times = np.tile((np.arange(9, dtype="float32") + 0.5) * 8 / 15, (1, 1))
    x = {"static": np.zeros((1, 9, DS), "float32"), "dynamic": np.zeros((1, 9, DD), "float32")}
    keras.utils.set_random_seed(1)
    model = CompletePersonalityModel(DS, DD)
    _, attention = model(x | {"static_t_s": times, "dynamic_t_s": times}, return_attention=True)
    assert np.asarray(attention).mean((0, 1)).diagonal().mean() > 0.25
    code = np.asarray(time_code(np.arange(0, 60, 8 / 15, dtype="float32")[None], 128))[0]
    likeness = code @ code.T / (code[0] @ code[0])
    np.testing.assert_allclose(likeness[1:, 1:], likeness[:-1, :-1], atol=1e-3)
    assert likeness[0, 1:].max() < 0.3


@pytest.mark.parametrize(
    ("act", "word"),
    [
        (lambda model, x: model(x | {"static": np.zeros((B, TS, 19), "float32")}), r"static .*\(3, 5, 19\)"),
        (lambda model, x: model(x | {"dynamic": np.zeros((B, 19), "float32")}), r"dynamic .*\(3, 19\)"),
        (lambda model, x: model(x | {"audio": np.zeros((B, 2), "float32")}), "audio"),
        (lambda model, x: model({name: x[name] for name in x if name != "static_t_s"}), "together"),
        (lambda model, x: CompletePersonalityModel(fusion_dim=7), "even"),
    ],
)
def test_wrong_inputs_and_an_odd_width_are_refused(model, act, word):
    with pytest.raises(ValueError, match=word):
        act(model, tokens())


def test_versions_are_counted_and_give_equal_outputs_or_are_refused(tmp_path):
    store, models = ModelSerializer(tmp_path / "m"), [network(seed) for seed in (0, 1)]
    assert [store.save(model, {"seed": seed}) for seed, model in enumerate(models)] == [1, 2]
    for version, seed in ((1, 0), (None, 1)):
        loaded, card = store.load(version, static_dim=DS), store.card(version)
        np.testing.assert_allclose(loaded(tokens()), models[seed](tokens()), atol=1e-6)
        assert (card["seed"], card["parameters"]) == (seed, models[seed].count_params())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own, about its own functions
        exported = tf.saved_model.load(str(store.export(tmp_path / "exported", 1)))
    theirs = exported.serve({name: tf.constant(value) for name, value in tokens().items()})  # without this package
    np.testing.assert_allclose(theirs, models[0](tokens()), atol=1e-5)
    with pytest.raises(TypeError):
        store.save(models[0], {"metrics": object()})
    assert store.versions == [1, 2]  # what could not be written is no version
    with pytest.raises(ValueError, match="version"):
        store.path(3)
    (tmp_path / "half.keras").write_bytes(b"half a file")
    for path, built, error, said in (
        (store.path(1), {"static_dim": 512}, ValueError, "512.* 11"),
        (tmp_path / "half.keras", {}, ValueError, "damaged"),
        (tmp_path / "none.keras", {}, FileNotFoundError, "none.keras"),
    ):
        with pytest.raises(error, match=said):
            load_model(path, **built)


def test_weights_of_an_older_file_are_read_whatever_its_layers_were_called(tmp_path):
    """As Keras 2 saved an ancestor of the network: layers in order, arrays of attention split by heads."""
    trained = network()
    for k, weight in enumerate(trained.weights):
        weight.assign(np.random.default_rng(k).standard_normal(weight.shape) ** 2)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [layer.name for layer in trained.layers]
        for layer in trained.layers:
            group, names = root.create_group(layer.name), []
            for k, weight in enumerate((*layer.trainable_weights, *layer.non_trainable_weights)):
                array = keras.ops.convert_to_numpy(weight.value)
                if array.shape[-1] == HEADS * F:
                    array = array.reshape(*array.shape[:-1], HEADS, F)
                names.append(f"z{-k}/kernel:0")
                group[names[-1]] = array
            group.attrs["weight_names"] = names
    trained.save_weights(tmp_path / "new.weights.h5")
    for name in ("old.h5", "new.weights.h5"):
        np.testing.assert_allclose(read_h5_weights(network(1), tmp_path / name)(tokens()), trained(tokens()), atol=1e-5)
    other = CompletePersonalityModel(DS + 4, DD, F, HEADS)
    before = other.get_weights()
    (tmp_path / "text.h5").write_text("no weights")
    for name, said in (("old.h5", r"\(15, 8\).*\(11, 8\)"), ("text.h5", "HDF5")):
        with pytest.raises(ValueError, match=said):
            read_h5_weights(other, tmp_path / name)
    assert all(map(np.array_equal, before, other.get_weights()))


@pytest.fixture
def clips():
    """Clips of 20 sources. Openness is the mean of a face channel, extraversion that of a motion channel."""
    clips = aligned(N, per_source=3)
    clips.labels[:, 0] = np.clip(0.5 + 0.3 * clips.static_features[:, :, 0].mean(1), 0, 1)
    clips.labels[:, 2] = np.clip(0.5 + 0.3 * clips.dynamic_features[:, :, 0].mean(1), 0, 1)
    return clips


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.build])
def test_every_network_takes_what_it_is_given_and_answers_every_target(name, clips):
    clips, cfg = clips.take(np.arange(4)), TrainingConfig(fusion_dim=8, num_heads=2)
    model, inputs = variants.start_model(name, clips, cfg, 0), variants.model_inputs(name, clips, 0)
    scores = np.asarray(model(inputs))
    assert scores.shape == (4, 5)
    assert np.isfinite(scores).all()
    assert all(map(np.array_equal, model.get_weights(), variants.start_model(name, clips, cfg, 0).get_weights()))
    if name == "aligned_mlp":  # masked tokens are not averaged
        longer = {k: np.pad(inputs[k], ((0, 0), (0, 2), (0, 0)), constant_values=99.0) for k in ("static", "dynamic")}
        longer["mask"] = np.pad(inputs["mask"], ((0, 0), (0, 2)))
        np.testing.assert_allclose(np.asarray(model(longer)), scores, atol=1e-5)


def test_a_list_of_models_is_in_the_tables_order_and_shuffled_labels_move_among_fitted_clips():
    assert variants.chosen_models("short") == variants.MODELS
    assert variants.chosen_models("all") == tuple(VARIANTS)
    assert variants.chosen_models("aligned_mlp, ridge") == ("constant", "ridge", TOKEN_MODEL, "aligned_mlp")
    assert variants.SHUFFLED_MODEL in variants.MODELS
    with pytest.raises(ValueError, match="lasso"):
        variants.chosen_models("ridge,lasso")
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
    train, between, within, groups = np.ones(N, bool), 0.01, 0.03, N // 3
    rng, weights = np.random.default_rng(0), []
    for _ in range(100):
        values = np.repeat(rng.normal(0, between**0.5, groups), 3) + rng.normal(0, within**0.5, N)
        clips.labels[:, 0] = np.clip(0.5 + values, 0, 1)
        (prediction,) = variants.same_video([clips], train, ~train)
        weights.append(np.ptp(prediction[:, 0]) / np.ptp(clips.labels[:, 0].reshape(-1, 3).mean(1)))
    true = 3 * between / (3 * between + within)
    expected = 1 - (1 - true) * (groups - 1) / (groups - 3)  # the ratio of mean squares is F-distributed
    assert np.mean(weights) == pytest.approx(expected, abs=0.03)


def test_ridge_sees_the_stream_it_is_given_and_is_fitted_to_rated_clips(clips):
    clips.labels[45, 0] = clips.labels[5, 0] = np.nan
    found = {}
    for name in ("ridge_face", "ridge_motion", "ridge"):
        prediction = variants.variant_of(name).predict([clips], TRAIN, VALIDATION)[0][TEST]
        found[name] = [np.corrcoef(prediction[:, k], clips.labels[TEST, k])[0, 1] for k in (0, 2)]
    assert found["ridge_face"][0] > 0.9 > 0.7 > abs(found["ridge_face"][1])
    assert found["ridge_motion"][1] > 0.9 > 0.7 > abs(found["ridge_motion"][0])
    assert min(found["ridge"]) > 0.9


def test_parameters_are_as_published_and_operations_of_attention_those_counted_by_hand():
    """Its pairs grow with the square of the tokens."""
    model = CompletePersonalityModel()
    trainable = sum(math.prod(v.shape) for v in model.trainable_variables)
    assert (model.count_params(), trainable) == (371_717, 371_461)
    width, inner = 16, 32  # of 2 heads
    model = network(width=width)
    per_token = DS * width + DD * width + 3 * width * inner + inner * width + width * 64
    for n in (5, 20):
        inputs = {name: x for name, x in tokens(1, n, n).items() if name in ("static", "dynamic")}
        by_hand = 2 * (n * per_token + 2 * n * n * inner + 64 * 5)
        assert variants.count_flops(model, inputs) == pytest.approx(by_hand, rel=0.12)
