"""The fusion model: its size, inputs, masks, time, a hand-computed attention; saved, exported and older files."""

import math
import warnings

import h5py
import keras
import numpy as np
import pytest
from toy_tokens import DD, DS, TD, TS, tokens

from helpers.model import (
    TIME_GAIN,
    CompletePersonalityModel,
    CrossAttention,
    ModelSerializer,
    export_model,
    load_model,
    read_h5_weights,
    time_code,
)

B, HEADS, F, TARGETS = 3, 2, 8, 17


def network(seed: int = 0) -> CompletePersonalityModel:
    keras.utils.set_random_seed(seed)
    return CompletePersonalityModel(DS, DD, F, HEADS, n_targets=TARGETS)


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture
def inputs():
    return tokens()


def test_the_default_model_has_the_published_number_of_parameters():
    model = CompletePersonalityModel()
    trainable = sum(math.prod(v.shape) for v in model.trainable_variables)
    assert (model.count_params(), trainable) == (371_717, 371_461)


def test_a_vector_is_a_sequence_of_one_token_and_time_counts_among_several(model, inputs):
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


def test_attention_over_a_single_key_warns_and_is_one(model, inputs):
    with pytest.warns(UserWarning, match="constant"):
        _, attention = model((inputs["static"], inputs["dynamic"][:, :1]), return_attention=True)
    assert np.array_equal(np.asarray(attention), np.ones((B, HEADS, TS, 1)))


def test_padding_and_order_change_neither_scores_nor_attention_nor_the_batch_statistics(model, inputs):
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
    scale = np.sqrt(2).astype("float32") / TIME_GAIN  # undoes 1 / sqrt(width) and the gain of the query's code
    first_only = np.array([[1, 0], [0, 0]], "float32")
    cosine_first = np.array([[0, 0], [scale, 0]], "float32")
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
def test_wrong_inputs_and_an_odd_width_are_refused(model, inputs, act, word):
    with pytest.raises(ValueError, match=word):
        act(model, inputs)


def test_versions_are_counted_and_give_equal_outputs(tmp_path):
    store, models = ModelSerializer(tmp_path / "m"), [network(seed) for seed in (0, 1)]
    assert [store.save(model, {"seed": seed}) for seed, model in enumerate(models)] == [1, 2]
    for version, seed in ((1, 0), (None, 1)):
        loaded, card = store.load(version, static_dim=DS), store.card(version)
        np.testing.assert_allclose(loaded(tokens()), models[seed](tokens()), atol=1e-6)
        assert (card["seed"], card["parameters"]) == (seed, models[seed].count_params())
    with pytest.raises(TypeError):
        store.save(models[0], {"metrics": object()})
    assert store.versions == [1, 2]  # what could not be written is no version
    with pytest.raises(ValueError, match="version"):
        store.path(3)


def test_what_is_no_model_or_one_of_other_features_is_refused(tmp_path):
    network().save(tmp_path / "model.keras")
    (tmp_path / "half.keras").write_bytes(b"half a file")
    for name, built, error, said in (
        ("model.keras", {"static_dim": 512}, ValueError, "512.* 11"),
        ("half.keras", {}, ValueError, "damaged"),
        ("none.keras", {}, FileNotFoundError, "none.keras"),
    ):
        with pytest.raises(error, match=said):
            load_model(tmp_path / name, **built)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="reads the export with TensorFlow")
def test_an_export_gives_the_same_scores_without_this_package(model, inputs, tmp_path):
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own, about its own functions
        exported = tf.saved_model.load(str(export_model(model, tmp_path / "exported")))
    theirs = exported.serve({name: tf.constant(value) for name, value in inputs.items()})
    np.testing.assert_allclose(theirs, model(inputs), atol=1e-5)


def write_old(path, model) -> None:
    """As Keras 2 saved an ancestor of the network: layers in order, arrays of attention split by heads."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [layer.name for layer in model.layers]
        for layer in model.layers:
            group, names = root.create_group(layer.name), []
            for k, weight in enumerate((*layer.trainable_weights, *layer.non_trainable_weights)):
                array = keras.ops.convert_to_numpy(weight.value)
                if array.shape[-1] == HEADS * F:
                    array = array.reshape(*array.shape[:-1], HEADS, F)
                names.append(f"z{-k}/kernel:0")
                group[names[-1]] = array
            group.attrs["weight_names"] = names


def test_weights_of_an_older_file_are_read_whatever_its_layers_were_called(tmp_path):
    trained = network()
    for k, weight in enumerate(trained.weights):
        weight.assign(np.random.default_rng(k).standard_normal(weight.shape) ** 2)
    write_old(tmp_path / "old.h5", trained)
    trained.save_weights(tmp_path / "new.weights.h5")
    for name in ("old.h5", "new.weights.h5"):
        np.testing.assert_allclose(read_h5_weights(network(1), tmp_path / name)(tokens()), trained(tokens()), atol=1e-5)
    other = CompletePersonalityModel(DS + 4, DD, F, HEADS, n_targets=TARGETS)
    before = other.get_weights()
    (tmp_path / "text.h5").write_text("no weights")
    for name, said in (("old.h5", r"\(15, 8\).*\(11, 8\)"), ("text.h5", "HDF5")):
        with pytest.raises(ValueError, match=said):
            read_h5_weights(other, tmp_path / name)
    assert all(map(np.array_equal, before, other.get_weights()))
