"""Saved models: versions, cards, equal outputs, refusals, export, and weights of older files."""

import warnings

import h5py
import keras
import numpy as np
import pytest

from helpers import serializer
from helpers.model import CompletePersonalityModel
from helpers.serializer import ModelSerializer, named_weights, read_h5_weights

DS, DD, F, HEADS = 7, 3, 8, 2
KNOWN = {"data": "drawn", "split": {"by": "source"}, "seed": 0, "metrics": {"r2": 0.5}}
KNOWN |= {"weights": "random", "licence": "MIT"}


def network(seed: int = 0) -> CompletePersonalityModel:
    keras.utils.set_random_seed(seed)
    return CompletePersonalityModel(DS, DD, F, HEADS)


def tokens(n: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    inputs = {}
    for name, n_tokens, width in (("static", 5, DS), ("dynamic", 4, DD)):
        inputs[name] = rng.standard_normal((n, n_tokens, width), np.float32)
        inputs[f"{name}_t_s"] = np.tile(np.arange(n_tokens, dtype="float32"), (n, 1))
        inputs[f"{name}_mask"] = np.arange(n_tokens)[None] < np.array([[n_tokens], [2]])
    return inputs


def test_versions_are_counted_compared_and_give_equal_outputs(tmp_path):
    store, extra = ModelSerializer(tmp_path / "m"), tmp_path / "reduction.npz"
    extra.write_bytes(b"x")
    models = [network(seed) for seed in (0, 1)]
    for seed, model in enumerate(models):
        card = serializer.model_card(model, KNOWN | {"seed": seed, "metrics": {"r2": 0.5 + seed}})
        assert store.save(model, card, beside=(extra,)) == seed + 1
    assert store.versions == [1, 2]
    assert [store.card(version)["metrics"]["r2"] for version in store.versions] == [0.5, 1.5]
    for version, model in ((1, models[0]), (None, models[1])):
        np.testing.assert_allclose(store.load(version)(tokens()), model(tokens()), atol=1e-6)
    assert (store.path(1) / "reduction.npz").exists()
    assert store.card()["parameters"] == models[1].count_params()
    with pytest.raises(ValueError, match=r"one of \[1, 2\]"):
        store.load(3)


def test_a_version_that_cannot_be_written_leaves_nothing(tmp_path):
    store = ModelSerializer(tmp_path)
    with pytest.raises(TypeError, match="JSON"):
        store.save(network(), {"metrics": object()})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="version"):
        store.load()


def test_what_is_no_model_or_one_of_other_features_is_refused_before_it_is_loaded(tmp_path, monkeypatch):
    network().save(tmp_path / "model.keras")
    monkeypatch.setattr(keras.saving, "load_model", None)
    (tmp_path / "half.keras").write_bytes(b"half a file")
    (tmp_path / "scores.npy").write_bytes(b"no model")
    refusals = (
        (tmp_path, (512, 256), "7 static and 3 dynamic columns, .* got 512 and 256"),
        (tmp_path / "half.keras", (1, 1), "damaged"),
        (tmp_path / "scores.npy", None, "must be a .keras file"),
    )
    for path, widths, said in refusals:
        with pytest.raises(ValueError, match=said):
            serializer.load_model(path, widths=widths)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="reads the export with TensorFlow")
def test_an_export_gives_the_same_scores_without_this_package(tmp_path):
    import tensorflow as tf

    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own, about its own functions
        path = serializer.export_model(model, tmp_path / "exported")
        exported = tf.saved_model.load(str(path))
    inputs = {name: tf.constant(value) for name, value in tokens().items()}
    np.testing.assert_allclose(exported.serve(inputs), model(tokens()), atol=1e-5)


def write_old(path, model) -> None:
    """As an ancestor of the network was saved: old names, attention kernels and biases split by heads."""
    old = {"output_projection": "attention_output", "fusion": "feature_fusion_module", "norm": "layer_normalization_3"}
    with h5py.File(path, "w") as file:
        for where, weight in named_weights(model).items():
            *parts, kind = where.split("/")
            array = keras.ops.convert_to_numpy(weight.value)
            if parts[-1] in ("query", "key", "value"):
                array = array.reshape(*array.shape[:-1], HEADS, F)
            name = "/".join(["model_1", *(old.get(part, part) for part in parts), f"{kind}:0"])
            file[name] = array
        file["optimizer_weights/adam/m/kernel:0"] = np.zeros((3, 3))


def test_weights_of_an_old_file_are_read_whatever_its_layers_were_called(tmp_path):
    trained, fresh = network(), network(1)
    for k, weight in enumerate(trained.weights):
        weight.assign(np.random.default_rng(k).standard_normal(weight.shape) ** 2)
    assert len(named_weights(trained)) == len(trained.weights)
    write_old(tmp_path / "old.h5", trained)
    read_h5_weights(fresh, tmp_path / "old.h5")
    np.testing.assert_allclose(fresh(tokens()), trained(tokens()), atol=1e-5)
    trained.save_weights(tmp_path / "new.weights.h5")
    again = read_h5_weights(network(1), tmp_path / "new.weights.h5")
    np.testing.assert_allclose(again(tokens()), trained(tokens()), atol=1e-5)


def test_old_weights_of_another_size_change_nothing_and_both_sizes_are_named(tmp_path):
    write_old(tmp_path / "old.h5", network())
    keras.utils.set_random_seed(2)
    other = CompletePersonalityModel(DS + 4, DD, F, HEADS)
    before = other.get_weights()
    with pytest.raises(ValueError, match=r"static_projection/kernel of shape \(11, 8\), got .*\(7, 8\)"):
        read_h5_weights(other, tmp_path / "old.h5")
    assert all(np.array_equal(a, b) for a, b in zip(before, other.get_weights(), strict=True))
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(ValueError, match="cannot be read as HDF5"):
        read_h5_weights(other, tmp_path / "text.h5")
